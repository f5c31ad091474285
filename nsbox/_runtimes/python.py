"""Python: on the host's root, the interpreter that runs the application, found first in PATH."""

from nsbox._config import Runtime

PYTHON = Runtime(
    name="python",
    file_name="main.py",
    run=("python3", "{source}"),
    version=("python3", "--version"),
    environment={
        # Else what was printed before a kill would be lost in the buffer that Python has for a pipe.
        "PYTHONUNBUFFERED": "1",
        # The source lies outside of the working directory, where `import` looks in a program started by its name.
        "PYTHONPATH": "{directory}",
    },
)
