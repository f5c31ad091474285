"""The same questions asked by a program on the host and by one in a sandbox: the answer outside is the control.

A question is a line `ask("name", lambda: ...)` of a program; its answer is what the lambda returned, or the errno that
it met.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nsbox

ASK = """
import ctypes, errno, json, os, resource, select, signal, socket, stat, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
answers = {}

def ask(name, question):
    try:
        answers[name] = question()
    except OSError as exc:
        answers[name] = errno.errorcode.get(exc.errno, str(exc.errno))

def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return result

def read(path):
    with open(path, 'rb') as file:
        return file.read(65536).decode(errors='replace')

def opens(path, flags):
    os.close(os.open(path, flags))
    return 'opened'
"""
TELL = "\nprint(json.dumps(answers), flush=True)\n"


def inside(sandbox: nsbox.Sandbox, questions: str, /, **options: Any) -> dict[str, Any]:
    """The answers in a sandbox; a program that does not end with 0 fails the test."""
    result = sandbox.execute(ASK + questions + TELL, **options)
    assert result.ok, f"{result.verdict}: {result.stderr}"
    return dict(json.loads(result.stdout))


def outside(questions: str, **environment: str) -> dict[str, Any]:
    """The answers on the host, as the user who runs the test."""
    command = [sys.executable, "-c", ASK + questions + TELL]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=environment or None)
    return dict(json.loads(done.stdout))


def policy(directory: Path, *calls: str) -> Path:
    """The default filter, but with some calls allowed whatever their arguments."""
    path = directory / "open.toml"
    names = json.dumps(calls)
    path.write_text(
        '[policy]\ndescription = "for a test"\nextends = "default"\ndefault = "ENOSYS"\n'
        f'[[rule]]\nanswer = "allow"\nreason = "what stands behind the filter is asked"\ncalls = {names}\n'
    )
    return path
