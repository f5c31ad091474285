"""The uncaught exception of a Python program, read from the end of its stderr.

This is text that the program could have forged; it becomes `ExecutionResult.error`, which informs and decides nothing.
The format is that of CPython's traceback module: a header, indented frames, and the first line that is not indented
names the class. The work is bounded whatever the text is: only the tail is read, each line a constant number of times,
and no regular expression sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nsbox._outputs import CodeError

_TAIL_CHARACTERS = 256 * 1024
_LONGEST_NAME = 1024

_HEADER = "Traceback (most recent call last):"
_GROUP_HEADER = "  + Exception Group Traceback (most recent call last):"
_GROUP_PREFIX = "  | "
_GROUP_MEMBERS = "  +-+"
_FRAME = '  File "'

_LINKS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
# What the interpreter prints about exceptions that did not end the program; each has a traceback behind it.
_NOT_UNCAUGHT = (
    "Exception ignored ",
    "Exception in thread ",
    "Error in atexit._run_exitfuncs:",
    "Error in sys.excepthook:",
    "--- Logging error ---",
)
# A main program that does not compile is reported without a header: there is no frame yet.
_HEADERLESS = frozenset({"SyntaxError", "IndentationError", "TabError"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where a traceback begins: the index of its first line, and the kind that says how to read on."""

    line: int
    kind: str  # "plain", "group", "headerless", or "cut": begun before what is read


def parse_python_error(stderr: str) -> CodeError | None:
    """Find the last uncaught exception in what a Python program wrote to stderr.

    The name is the class as printed, with its module where that is not builtins or __main__; the value is the message
    with the notes behind it, which nothing in the text tells apart; the traceback is the whole report with its chain
    of causes. Output that other code writes behind the report is taken for a part of the message, and of a message
    that contains a whole traceback itself, that traceback is found.

    Args:
        stderr: All that was written, or its end; only the last 256 Ki characters are read.

    Returns:
        The error, or None where there is none: a clean exit, `sys.exit("text")`, a crash of the interpreter, or a
        report longer than what is read.
    """
    lines = stderr[-_TAIL_CHARACTERS:].split("\n")
    starts = _starts(lines)
    if len(stderr) > _TAIL_CHARACTERS:
        starts.insert(0, _Start(line=0, kind="cut"))
    end = len(lines)
    while starts:
        last = starts[-1]
        first = last
        while starts:
            first = starts.pop()
            if not (starts and _is_linked(lines, first.line)):
                break
        if first.line > 0 and lines[first.line - 1].startswith(_NOT_UNCAUGHT):
            end = first.line - 1  # where the message of the real one ends, if there is one
            continue
        error = _read(lines, first, last, end)
        if error is not None:
            return error
    return _without_frames(lines)


def _without_frames(lines: list[str]) -> CodeError | None:
    """The report of a main program whose text cannot even be decoded: one line, at the end."""
    last = next((line for line in reversed(lines) if line), "")
    name, separator, value = last.partition(": ")
    if not separator or name not in _HEADERLESS:
        return None
    return CodeError(name=name, value=value, traceback=last + "\n")


def _starts(lines: list[str]) -> list[_Start]:
    """All places where a traceback begins, in order."""
    found = []
    for index, line in enumerate(lines):
        if line.endswith(_HEADER):
            if line == _GROUP_HEADER:
                found.append(_Start(line=index, kind="group"))
            elif not line.startswith(" "):  # a member of a group is indented; a progress bar may stand before it
                found.append(_Start(line=index, kind="plain"))
        elif line.startswith(_FRAME):
            before = lines[index - 1] if index else ""
            if not before.startswith(" ") and not before.endswith(_HEADER):
                found.append(_Start(line=index, kind="headerless"))
    return found


def _is_linked(lines: list[str], start: int) -> bool:
    """Whether the traceback at `start` continues a chain: a blank line, the link, a blank line stand before it."""
    return start >= 3 and not lines[start - 1] and lines[start - 2] in _LINKS and not lines[start - 3]


def _read(lines: list[str], first: _Start, last: _Start, end: int) -> CodeError | None:
    """Read the traceback at `last`, in a chain that begins at `first`, up to the line `end`."""
    prefix = _GROUP_PREFIX if last.kind == "group" else ""
    index = last.line if last.kind == "headerless" else last.line + 1
    framed = False
    while index < end and lines[index].startswith(prefix + "  "):
        framed = framed or lines[index].startswith(prefix + _FRAME)
        index += 1
    if index >= end or not lines[index].startswith(prefix) or (last.kind == "cut" and not framed):
        return None
    name, _, value = lines[index].removeprefix(prefix).partition(": ")
    if not _is_class(name) or (last.kind == "headerless" and name not in _HEADERLESS):
        return None
    message = [value]
    for line in lines[index + 1 : end]:
        # The interpreter in C indents only the first line of a group's message, the traceback module all of them.
        if last.kind == "group" and line.startswith(_GROUP_MEMBERS):
            break
        message.append(line.removeprefix(prefix))
    report = lines[first.line : end]
    if first.kind == "plain":
        report[0] = _HEADER  # without the progress bar
    return CodeError(name=name, value="\n".join(message).rstrip("\n"), traceback="\n".join(report).rstrip("\n") + "\n")


def _is_class(name: str) -> bool:
    """Whether a text is what CPython prints for a class: identifiers and "<locals>", with dots between them."""
    return len(name) <= _LONGEST_NAME and all(part.isidentifier() or part == "<locals>" for part in name.split("."))
