"""Root file systems, made from programs of the host."""

import os
import shutil
import subprocess
from pathlib import Path


def copy_with_libraries(program: str, root: Path) -> None:
    """A dynamic program and what ldd says it needs, at the same paths below `root`."""
    found = shutil.which(program)
    assert found is not None
    listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
    libraries = [word for word in listed.split() if word.startswith("/")]
    for path in (found, *libraries):
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), target)
