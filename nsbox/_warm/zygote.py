"""Runs in a warm interpreter, called by stage.py: imports what it is told to, and then only forks.

Nothing of nsbox can be imported here, and what this leaves in the interpreter is there in every program: so it imports
inside of functions, and cleans up after itself. The launcher's requests come in on descriptor 3, native/warm.h;
descriptor 4 is the library that understands them, native/interpreter. argv: where modules to import may be found beside
the interpreter's own, as in PYTHONPATH, and their names.

A program must not be able to tell that it was not started by `python3 main.py`, but for what docs/warm.md names:
the hash seed and the addresses are the interpreter's, and there is a frame below its first one.
"""

TYPE_CHECKING = False  # as typing has it, which would have to be imported
if TYPE_CHECKING:
    from typing import Any

    from nsbox._warm.leaving import Leaving


def preload(path: str, names: list[str]) -> None:
    """Import the modules; ends the process, having said why, where one cannot be."""
    import importlib
    import os
    import sys

    before = sys.path[:]
    sys.path[:0] = [entry for entry in path.split(os.pathsep) if entry]
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as exc:  # noqa: BLE001  # SystemExit, too: it is the module that fails
            sys.stderr.write(f"preload={name!r} cannot be imported: {type(exc).__name__}: {exc}\n")
            os._exit(2)
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            why = "a process with threads cannot be forked"
            sys.stderr.write(f"preload={name!r} starts {threads - 1} thread(s), and {why}\n")
            os._exit(2)
        if maps_shared():
            why = "which all programs of all sandboxes would share"
            sys.stderr.write(f"preload={name!r} maps memory that is shared and can be written to, {why}\n")
            os._exit(2)
    sys.path[:] = before  # the program has its own


def maps_shared() -> bool:
    """Whether what is written here could be read by others, proc_pid_maps(5)."""
    with open("/proc/self/maps", "rb") as maps:
        return any(line.split(None, 2)[1][1::2] == b"ws" for line in maps)


def rehearse() -> None:
    """Do what every program does: pages that are written to are then this process' own already, not copied later."""
    import io
    import sys

    with open("/dev/null", "wb", buffering=0) as nowhere:
        text = io.TextIOWrapper(nowhere, encoding="utf-8", newline="\n", write_through=True)
        source = "import sys\ndef f(x):\n    return [x + 1, str(x)]\nprint(f(1), file=out)\n"
        exec(compile(source, "main.py", "exec"), {"out": text})
        text.detach()
    numpy = sys.modules.get("numpy")
    try:  # noqa: SIM105  # contextlib would stay
        str((numpy.arange(100) + numpy.arange(100.0))[-1])  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001, S110  # it is not there, or another of that name: nothing is lost
        pass


def stand_in() -> None:
    """Make new what an interpreter makes at its start: the standard streams, and an empty `__main__`."""
    import builtins
    import sys
    import types

    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        open_again(number, name)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # `random` does so by itself after a fork
    program = types.ModuleType("__main__")
    program.__dict__.update(__builtins__=builtins, __annotations__={}, __cached__=None)
    sys.modules["__main__"] = program


def open_again(number: int, name: str) -> None:
    """Make a standard stream, as create_stdio() in Python/pylifecycle.c. Whether it can be sought in is kept in it."""
    import io
    import sys

    old, mode = getattr(sys, name), "r" if number == 0 else "w"
    raw = io.FileIO(number, mode, closefd=False)
    raw.name = f"<{name}>"
    stream = io.TextIOWrapper(
        io.BufferedReader(raw) if mode == "r" else raw, encoding=old.encoding, errors=old.errors, newline="\n",
        line_buffering=old.line_buffering, write_through=old.write_through,
    )  # fmt: skip
    stream.mode = mode  # type: ignore[misc]  # so does create_stdio()
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def forget_text() -> None:
    """Since Python 3.13 the lines of `python3 -c` are those of every file that is called <string>."""
    import sys

    linecache = sys.modules.get("linecache")
    for name in ("cache", "_interactive_cache"):
        getattr(linecache, name, {}).clear()


def find_title() -> "Any":
    """What changes the command line that /proc shows.

    As setproctitle(3): where the last byte of the arguments is none of theirs any more, the kernel shows what they
    begin with, up to the first NUL (fs/proc/base.c, get_mm_cmdline).
    """
    import ctypes

    with open("/proc/self/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end, proc_pid_stat(5)

    def show(text: bytes) -> None:
        text = text[: end - start - 2]
        ctypes.memset(end - 1, 1, 1)
        ctypes.memmove(start, text + b"\0", len(text) + 1)

    return show


def serve() -> "tuple[list[bytes], list[bytes], Leaving]":
    """Fork for ever. Returns in a child, with the words and the variables of a program to run, and its end."""
    import ctypes
    import gc
    import os
    import sys

    library = ctypes.PyDLL("/proc/self/fd/4")  # keeps the interpreter's lock: forking needs it
    waiting = ctypes.CDLL("/proc/self/fd/4")  # lets go of it
    os.close(4)
    show_title = find_title()
    show_title(b"nsbox-launcher interpreter")
    if waiting.nsbox_setup(3) < 0:
        os._exit(1)
    leaving = Leaving(library.exit)
    preload(sys.argv[1], sys.argv[2:])
    library.nsbox_arguments.restype = library.nsbox_environment.restype = ctypes.POINTER(ctypes.c_char_p)
    before = ctypes.pythonapi.PyOS_BeforeFork
    in_parent, in_child = ctypes.pythonapi.PyOS_AfterFork_Parent, ctypes.pythonapi.PyOS_AfterFork_Child
    before.restype = in_parent.restype = in_child.restype = None
    rehearse()
    leaving.remember()
    gc.collect()
    gc.freeze()
    gc.disable()
    if waiting.nsbox_ready() < 0:
        os._exit(1)
    while True:
        if waiting.nsbox_receive() < 0:
            os._exit(0)
        before()
        pid = library.nsbox_clone()
        if pid == 0:
            break
        in_parent()
        if library.nsbox_parent(max(pid, 0), max(-pid, 0)) < 0:
            os._exit(0)
    in_child()
    stand_in()
    rehearse()
    forks_again = library.nsbox_has_own_init()
    if forks_again:
        before()
    waiting.nsbox_enter()
    if forks_again:
        in_child()

    def read(pointer: "Any") -> list[bytes]:
        found: list[bytes] = []
        while pointer[len(found)] is not None:
            found.append(pointer[len(found)])
        return found

    words = read(library.nsbox_arguments())
    show_title(b" ".join(words))
    return words, read(library.nsbox_environment()), leaving


def become(words: list[bytes], variables: list[bytes]) -> str:
    """Take on what the execution is given. Returns the program's path."""
    import gc
    import os
    import sys
    from _frozen_importlib_external import SourceFileLoader  # where importlib.machinery has it from, at 72 page faults

    open_again(0, "stdin")  # only now it is the program's
    inherited = os.environ._data  # type: ignore[attr-defined]  # in bytes; to go through `os.environb` takes twice as long
    zone = inherited.get(b"TZ")
    for name in inherited:
        os.unsetenv(name)
    inherited.clear()
    for word in variables:
        name, _, value = word.partition(b"=")
        os.putenv(name, value)
        inherited[name] = value
    arguments = [os.fsdecode(word) for word in words]
    path = arguments[1]
    sys.argv[:] = arguments[1:]
    sys.orig_argv[:] = arguments
    sys.path.insert(0, os.path.dirname(path))
    sys.path[1:1] = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    forget_home()
    if "time" in sys.modules and inherited.get(b"TZ") != zone:
        sys.modules["time"].tzset()
    loader = SourceFileLoader("__main__", path)
    sys.modules["__main__"].__dict__.update(__file__=path, __loader__=loader)
    gc.enable()
    return path


def translate(path: str, words: list[bytes]) -> "Any":
    """Compile the program. Where it is none, become a fresh interpreter: the parser of files has words of its own."""
    import io
    import os
    import sys

    stderr, sys.stderr = sys.stderr, (held := io.StringIO())  # what is warned of is told once, by who goes on
    try:
        with open(path, "rb") as text:
            code = compile(text.read(), path, "exec", dont_inherit=True)
    except SyntaxError:
        try:  # noqa: SIM105  # contextlib is not to be imported here
            os.execv(sys.executable, words)
        except OSError:
            pass
        raise
    finally:
        sys.stderr = stderr
        stderr.write(held.getvalue())
    return code


def tell(failed: list[BaseException], sys: "Any", display: "Any", tracer: "Any") -> bool:
    """Say what an interpreter says of what a program has raised and not caught, as _PyErr_PrintEx().

    There are no more references to it meanwhile than in an interpreter: they are counted where it cannot be told.

    Args:
        failed: It, and nothing else.
        sys: The module, which may be found by no import any more.
        display: What sys.excepthook was.
        tracer: The program's trace function, which is told only of what is called from here.

    Returns:
        Whether the process is to die of SIGINT.
    """
    error = failed.pop()
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    error.__traceback__ = trace
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    interrupted = type(error) is KeyboardInterrupt  # not what is derived from it, as run_eval_code_obj()
    what = (type(error), error, trace)
    del error, trace
    if not hasattr(sys, "excepthook"):
        sys.stderr.write("sys.excepthook is missing\n")
        display(*what)
        return interrupted
    try:
        if tracer is not None:
            sys.settrace(tracer)
        sys.excepthook(*what)
    except SystemExit:
        raise
    except BaseException as second:  # noqa: BLE001  # told, as the first one
        second.__traceback__ = second.__traceback__ and second.__traceback__.tb_next
        sys.stderr.write("Error in sys.excepthook:\n")
        display(type(second), second, second.__traceback__)
        sys.stderr.write("\nOriginal exception was:\n")
        display(*what)
    return interrupted


def tell_nothing_next(sys: "Any", tracer: "Any") -> None:
    """Of what is raised next nothing is told, and nothing is left of it; then the program's trace function is back."""
    names = ("excepthook", "last_type", "last_value", "last_traceback", "last_exc")
    kept = {name: vars(sys)[name] for name in names if name in vars(sys)}

    def hook(*_: object) -> None:
        for name in names:
            vars(sys).pop(name, None)
        vars(sys).update(kept)
        if tracer is not None:
            sys.settrace(tracer)

    sys.excepthook = hook


def status_of(end: SystemExit) -> int:
    """The exit status that it stands for, as handle_system_exit() in Python/pythonrun.c has it."""
    if end.code is None:
        return 0
    if not isinstance(end.code, int):
        return 1
    return end.code & 0xFF if -(1 << 63) <= end.code < 1 << 63 else 0xFF


def forget_home() -> None:
    """Where a user's own modules are: the interpreter has had no home, and the program has another."""
    import sys

    site = sys.modules.get("site")
    if site is not None:
        site.__dict__.update(USER_SITE=None, USER_BASE=None)
        site.getusersitepackages()
