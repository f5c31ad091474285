"""Languages as data: those that come with nsbox, the user's own, and what of a Java source names its classes."""

from pathlib import Path

import pytest

import nsbox
from nsbox import ConfigError, Runtime
from nsbox._compile import UNKNOWN, Program, find_program
from nsbox._runtimes import fill_in, find_runtime, language_of_file, source_values
from nsbox._runtimes.java import class_names
from nsbox._verdict import KillReason, Observation, judge

NINE = ["python", "javascript", "typescript", "go", "rust", "c", "cpp", "java", "bash"]


def test_there_are_nine() -> None:
    """Each is what its file says, is found by its name, names a version command and a package, and can be hashed."""
    assert list(nsbox.RUNTIMES) == NINE
    for name, runtime in nsbox.RUNTIMES.items():
        assert (runtime.name, find_runtime(name), nsbox.RUNTIMES[name]) == (name, runtime, runtime)
        assert runtime.version
        assert runtime.packages
        assert hash(runtime) == hash(runtime)
    with pytest.raises(ConfigError, match="cobol"):
        find_runtime("cobol")


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("a.py", "python"), ("x/y.cpp", "cpp"), ("a.cc", "cpp"), ("a.c", "c"), ("Main.java", "java"),
        ("a.mjs", "javascript"),
        ("a.d.ts", "typescript"), ("a.go", "go"), ("a.rs", "rust"), ("a.sh", "bash"), ("a.txt", None), ("a", None),
        (".py", None), ("", None),
    ],
)  # fmt: skip
def test_a_suffix_stands_for_a_language(name: str, language: str | None) -> None:
    """And nothing else of a name does."""
    assert language_of_file(name) == language


def test_a_placeholder_is_replaced_once() -> None:
    """What a value contains is no placeholder, and what is none stays as it is."""
    values = {"source": "{output}", "output": "/out"}
    assert fill_in("a {source} {output} ${HOME} {x} {}", values) == "a {output} /out ${HOME} {x} {}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = 'x'", "file_name"),
        ("name = 'x'\nfile_name = 'a/b'\nrun = ['y']", "file_name"),
        ("name = 'x'\nfile_name = 'a'\nrun = []", "run"),
        ("name = 'x'\nfile_name = 'a'\nrun = ['y']\ncolour = 1", "colour"),
        ("name = 'x'\nfile_name = 'a'\nrun = ['y']\ncompile_seconds = -1", "compile_seconds"),
        ("name = 'x'\nfile_name = 'a'\nrun = ['y']\ncompile_memory_mb = true", "compile_memory_mb"),
        ("name = 'x'\nfile_name = 'a'\nrun = ['y']\nsuffixes = ['py']", "suffixes"),
        ("name = 'x'\nfile_name = 'a'\nrun = ['y']\n[compile_files]\n'../a' = ''", "compile_files"),
        ("name = ", "runtime"),
    ],
)
def test_a_file_that_is_no_runtime_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    """Of the file and of the field."""
    path = tmp_path / "odd.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        nsbox.load_runtime(path)
    assert "odd.toml" in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        nsbox.load_runtime(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("public class A { public static void main(String[] a) {} }", ("A", "A")),
        ("class A {} class B { public static void main(final String... a) {} }", ("B", "B")),
        ("package x.y; public class A {} class B { static void main(String[] a) {} }", ("x.y.B", "A")),
        ('/* class X { void main( */ class A { String s = "class B { void main("; }', ("A", "A")),
        ("class A { class Main { void main() {} } void f() { main(1); } }", ("A", "A")),
        ("@interface X {} record R(int a) {} enum E { } public final class C<T> extends D<T> {}", ("C", "C")),
        ("import java.util.*;", ("Main", "Main")),
        ("", ("Main", "Main")),
        ("class " + "A" * 300 + " {}", ("Main", "Main")),
        ("}}}{{{ class ( \" ' /*", ("Main", "Main")),
    ],
)  # fmt: skip
def test_the_classes_of_a_java_source(code: str, names: tuple[str, str]) -> None:
    """The one with main, with its package, and the one that its file is named after."""
    assert class_names(code) == names


def test_names_are_looked_for_only_where_they_are_needed() -> None:
    """And can be nothing but names."""
    assert source_values(nsbox.RUNTIMES["python"], "class A {}") == {}
    found = source_values(nsbox.RUNTIMES["java"], "public class ../../x { }\0")
    assert all(name.replace(".", "").isidentifier() for name in found.values())


def test_what_ends_a_compiler_is_a_compile_error() -> None:
    """Whatever it is, but for being cancelled; the evidence keeps what it would have been for a program."""
    for reason in KillReason:
        seen = Observation(
            wait_status=9, reason=reason, violation=None, oom_kills=0, processes_refused=0, quota_full=False,
            bytes_dropped=0, wall_seconds=0.0, cpu_seconds=0.0, user_seconds=0.0, system_seconds=0.0,
            peak_memory_bytes=0, process_count_peak=0, read_bytes=0, written_bytes=0, max_rss_bytes=0,
            memory_limit_bytes=0, cgroup_mode="none", compiler=True,
        )  # fmt: skip
        judgement = judge(seen)
        if reason is KillReason.CANCELLED:
            assert judgement.verdict is nsbox.Verdict.CANCELLED
        else:
            assert judgement.verdict is nsbox.Verdict.COMPILE_ERROR
            assert judgement.evidence["compiler_verdict"] in set(nsbox.Verdict)


def test_a_program_is_found_as_a_sandbox_finds_it(tmp_path: Path) -> None:
    """In the trees that it sees, following links as they are inside; what only it can know is UNKNOWN."""
    config = nsbox.SandboxConfig()
    found = find_program(config, "sh", "/nonexistent:/usr/bin:/bin")
    assert isinstance(found, Program)
    assert Path(found.outside).samefile("/bin/sh")
    assert find_program(config, "nosuchprogram", "/usr/bin:/bin") is None
    assert find_program(config, "/root/.bashrc", "") is None
    assert find_program(config, "sh", "relative:/workspace/bin") is UNKNOWN
    assert isinstance(find_program(config, "/bin/../bin/./sh", ""), Program)
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "tool").symlink_to("/usr/bin/../lib/real")
    (tmp_path / "usr" / "lib").mkdir()
    root = nsbox.SandboxConfig(rootfs=tmp_path)
    assert find_program(root, "tool", "/usr/bin") is None  # the link leads to nothing in this root
    (tmp_path / "usr" / "lib" / "real").write_text("")
    assert find_program(root, "tool", "/usr/bin") is None  # not executable
    (tmp_path / "usr" / "lib" / "real").chmod(0o755)
    found = find_program(root, "tool", "/usr/bin")
    assert isinstance(found, Program)
    assert found.outside == str(tmp_path / "usr" / "lib" / "real")
    (tmp_path / "usr" / "bin" / "loop").symlink_to("loop")
    assert find_program(root, "loop", "/usr/bin") is None
    assert find_program(root, "sh", "/usr/bin") is None  # the host's is not this root's


def test_a_runtime_s_fields_have_defaults() -> None:
    """Only a name, a file and a command are needed."""
    runtime = Runtime(name="x", file_name="x", run=["x"])
    assert (runtime.compile, runtime.prepare, runtime.compile_seconds, runtime.packages) == (None, None, 30.0, ())
