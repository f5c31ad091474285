"""Small packages for package managers to install, made on the spot: no test needs a network."""

import shutil
import subprocess
import zipfile
from pathlib import Path

CONTROL = (
    "Package: hello-inside\nVersion: 1.0\nArchitecture: all\nMaintainer: n <n@example.org>\n"
    "Depends: bash\nDescription: says hello\n"
)
POSTINST = "#!/bin/sh\nset -e\nadduser --system --group --no-create-home hellod\nchown hellod:hellod /var/lib/hello\n"


def make_deb(directory: Path) -> Path:
    """hello.deb: a program, a configuration file, and a directory for a user that it adds when it is installed."""
    tree = directory / "hello"
    for name, text, mode in (
        ("usr/bin/hello-inside", "#!/bin/sh\necho hello from a package\n", 0o755),
        ("etc/hello/conf", "greeting=hello\n", 0o644),
        ("var/lib/hello/state", "0\n", 0o644),
        ("DEBIAN/control", CONTROL, 0o644),
        ("DEBIAN/conffiles", "/etc/hello/conf\n", 0o644),
        ("DEBIAN/postinst", POSTINST, 0o755),
    ):  # fmt: skip
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    for path in (tree, *(path for path in tree.rglob("*") if path.is_dir())):
        path.chmod(0o755)
    target = directory / "hello.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, target], check=True, capture_output=True)
    shutil.rmtree(tree)
    return target


def make_wheel(directory: Path) -> Path:
    """A wheel of one pure module `hello_inside`, with `WORD`."""
    target = directory / "hello_inside-1.0-py3-none-any.whl"
    about = "hello_inside-1.0.dist-info"
    files = {
        "hello_inside.py": "WORD = 'hello from a wheel'\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: hello-inside\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(target, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return target
