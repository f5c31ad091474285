"""Runs in a sandbox as the program of a Python context: cell after cell, in one namespace.

Nothing of nsbox can be imported here; no line of it is trusted by anybody, for the cells share its process. Its stdin
is a socket: requests come down, replies go up, flat arrays in msgpack with their length ahead
(nsbox/_contexts/frames.py). The socket moves out of the way, and descriptor 0 is the null device, or what the cell is
given as stdin.
"""

import _socket
import ast
import asyncio
import builtins
import linecache
import os
import re
import signal
import struct
import sys
import threading
import traceback
import types
from typing import Any

CO_COROUTINE = 0x80
LAST = "__nsbox_last__"
MOST_WAITING = 64
"""Outputs of threads kept between two cells."""


def pack(items: list[Any]) -> bytes:
    """An array of None, bool, int, str and bytes in msgpack (spec.md of msgpack/msgpack)."""
    parts = [b"\xdc" + struct.pack(">H", len(items))]
    for item in items:
        if item is None or isinstance(item, bool):
            parts.append(b"\xc0" if item is None else b"\xc3" if item else b"\xc2")
        elif isinstance(item, int):
            parts.append(b"\xcf" + struct.pack(">Q", item))
        else:
            data = item.encode("utf-8", "replace") if isinstance(item, str) else bytes(item)
            parts += [(b"\xdb" if isinstance(item, str) else b"\xc6") + struct.pack(">I", len(data)), data]
    body = b"".join(parts)
    return struct.pack("<I", len(body)) + body


def unpack(body: bytes) -> list[Any]:
    """The same, with the short forms that the other end may choose."""
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        return body[at - count : at]

    def number(size: int) -> int:
        return int.from_bytes(take(size), "big")

    def item() -> Any:
        kind = number(1)
        if kind < 0x80:
            return kind
        if 0x90 <= kind < 0xA0 or kind in (0xDC, 0xDD):
            count = kind & 0x0F if kind < 0xA0 else number(2 if kind == 0xDC else 4)
            return [item() for _ in range(count)]
        if 0xA0 <= kind < 0xC0:
            return take(kind & 0x1F).decode("utf-8", "surrogateescape")
        if kind == 0xC0:
            return None
        if 0xC4 <= kind <= 0xC6:
            return take(number(1 << (kind - 0xC4)))
        if 0xCC <= kind <= 0xCF:
            return number(1 << (kind - 0xCC))
        if 0xD9 <= kind <= 0xDB:
            return take(number(1 << (kind - 0xD9))).decode("utf-8", "surrogateescape")
        raise ValueError(kind)

    found: list[Any] = item()
    return found


class Interrupts:
    """SIGINT: KeyboardInterrupt in a cell, and nothing where there is none or a frame is half sent."""

    def __init__(self) -> None:
        self.running = False
        self.held = 0
        self.pending = False

    def handle(self, _: int, __: object) -> None:
        if not self.running:
            return
        if self.held:
            self.pending = True
            return
        raise KeyboardInterrupt

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.held += 1

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self.held -= 1
        if self.pending and not self.held:
            self.pending = False
            if self.running:
                raise KeyboardInterrupt


class Agent:
    """The one of this process."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.interrupts = Interrupts()
        self.lock = threading.RLock()
        self.owner = os.getpid()
        self.cell = 0
        self.waiting: list[tuple[dict[str, Any], bool]] = []
        self.shown: set[int] = set()
        self.take_channel(os.dup(0))
        module = types.ModuleType("__main__")
        module.__dict__.update(__builtins__=builtins, __annotations__={})
        self.old_main = sys.modules["__main__"]  # its dict is this code's globals
        sys.modules["__main__"] = module
        sys.path[0] = ""
        sys.argv[:] = [""]
        os.environ.setdefault("MPLBACKEND", "Agg")
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].show = self.make_show()  # type: ignore[attr-defined]
        else:
            sys.meta_path.insert(0, PyplotFinder(self))
        self.engine: Plain | Any
        try:
            self.engine = make_shell(self, module)
        except ImportError:
            self.engine = Plain(self, module)

    def take_channel(self, fd: int) -> None:
        """Keep it where nobody stumbles over it, and out of what is executed."""
        self.channel = _socket.socket(fileno=move_up(fd))
        self.channel.setblocking(True)
        give_stdin(None)

    # ------------------------------------------------------------ frames

    def send(self, *items: Any) -> None:
        with self.interrupts:
            self.channel.sendall(pack(list(items)))

    def receive(self) -> tuple[list[Any], list[int]]:
        """The next request; the process ends with the channel."""
        fds: list[int] = []

        def read(count: int) -> bytes:
            data = b""
            while len(data) < count:
                part, ancillary, _, _ = self.channel.recvmsg(count - len(data), _socket.CMSG_SPACE(16))
                for _, _, words in ancillary:
                    fds.extend(struct.unpack(f"{len(words) // 4}i", words))
                if not part:
                    os._exit(0)
                data += part
            return data

        with self.interrupts:
            return unpack(read(struct.unpack("<I", read(4))[0])), fds

    def display(self, data: dict[str, Any], *, main: bool = False) -> None:
        """Send a bundle, and wait until it was taken: what was written before it is before it."""
        if os.getpid() != self.owner:
            sys.stdout.write(f"{data.get('text/plain', '')}\n")
            return
        with self.lock:
            if not self.interrupts.running:  # a thread, between two cells
                if len(self.waiting) < MOST_WAITING:
                    self.waiting.append((data, main))
                return
            flush()
            flat = [word for name, value in data.items() for word in (str(name), payload(value))]
            size = sum(len(word) if isinstance(word, bytes) else len(word.encode("utf-8", "replace")) for word in flat)
            with self.interrupts:
                if size > self.largest:
                    self.send("dropped", self.cell, size)
                elif flat:
                    self.send("output", self.cell, main, *flat[:200])
                else:
                    return
                self.receive()

    # ------------------------------------------------------------ cells

    def serve(self) -> None:
        """For ever."""
        signal.signal(signal.SIGINT, self.interrupts.handle)
        self.send("ready")
        while True:
            request, fds = self.receive()
            if request[0] == "run":
                self.run(*request[1:])
            elif request[0] == "fork":
                self.fork(fds)

    def run(self, cell: int, path: str, stdin: "str | None", directory: "str | None", *variables: str) -> None:
        """One cell, and whatever happens to it."""
        self.cell = cell
        status, error = 1, None
        try:
            try:
                signal.signal(signal.SIGINT, self.interrupts.handle)
                self.interrupts.running = True
                status, error = self.run_in(
                    path, stdin, directory, dict(zip(variables[::2], variables[1::2], strict=True))
                )
                self.interrupts.running = False
            finally:
                self.interrupts.running = False
        except BaseException as exc:  # noqa: BLE001  # an interrupt between the lines above; a directory that is not there
            self.interrupts.running = False
            status, error = 1, report(exc, None)
        if os.getpid() != self.owner:  # a child that the cell has forked, and that came to the cell's end
            flush()
            os._exit(status)
        self.interrupts.pending = False
        signal.signal(signal.SIGINT, self.interrupts.handle)  # whatever the cell has made of it
        with self.lock:
            flush()
            self.send("done", cell, status, *(error or ()))

    def run_in(self, path: str, stdin: "str | None", directory: "str | None", variables: "dict[str, str]") -> Any:
        with open(path, "rb") as file:
            code = file.read().decode("utf-8", "surrogatepass")
        give_stdin(stdin)
        before = {name: os.environ.get(name) for name in variables}
        back = None
        try:
            if directory is not None:
                back = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
                os.chdir(directory)
            os.environ.update(variables)
            for data, main in self.waiting[:]:
                self.waiting.pop(0)
                self.display(data, main=main)
            self.shown.clear()
            outcome = self.engine.run(code)
            self.show_figures()
            return outcome
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            if back is not None:
                os.fchdir(back)
                os.close(back)
            give_stdin(None)

    # ------------------------------------------------------------ figures

    def make_show(self) -> Any:
        """`pyplot.show`: a function, for pyplot gives it a signature."""

        def show(*_: Any, **__: Any) -> None:
            self.show_figures()

        return show

    def show_figures(self) -> None:
        """What pyplot has open, as PNG and SVG."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        try:
            for number in pyplot.get_fignums():
                figure = pyplot.figure(number)
                if id(figure) not in self.shown:
                    self.display({"text/plain": repr(figure), **drawn(figure)})
        finally:
            pyplot.close("all")

    # ------------------------------------------------------------ fork

    def fork(self, fds: list[int]) -> None:
        """Another process with all of this, which has nobody to wait for it but the sandbox's init."""
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1 or len(fds) != 3:
            for fd in fds:
                os.close(fd)
            self.send("forked", f"the program has {threads} threads, and a fork would take only one of them along")
            return
        try:
            child = os.fork()
            if child == 0:
                if os.fork():
                    os._exit(0)
                self.become_fork(fds)
                return
        except OSError as exc:
            self.send("forked", f"the kernel refused: {exc.strerror}")
            return
        finally:
            for fd in fds:
                os.close(fd)
        os.waitpid(child, 0)
        self.send("forked")

    def become_fork(self, fds: list[int]) -> None:
        self.owner = os.getpid()
        self.channel.close()
        os.dup2(fds[1], 1)
        os.dup2(fds[2], 2)
        self.take_channel(os.dup(fds[0]))
        asyncio.set_event_loop(None)  # its epoll descriptor is the parent's, too
        self.engine.forked()
        self.send("ready")


class Plain:
    """Cells without IPython: state, the last expression, `display`, and await."""

    def __init__(self, agent: Agent, module: types.ModuleType) -> None:
        self.agent = agent
        self.names = module.__dict__
        self.count = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.names["display"] = self.display

    def forked(self) -> None:
        self.loop = None

    def display(self, *values: Any) -> None:
        """Show values by their _repr_..._ methods, as Jupyter does."""
        for value in values:
            self.agent.display(bundle(self.agent, value))

    def run(self, code: str) -> Any:
        """(status, None or the words of an error)."""
        self.count += 1
        name = f"<cell {self.count}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        try:
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            tree = compile(code, name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
            last = tree.body[-1] if tree.body else None
            if isinstance(last, ast.Expr):  # one piece of code, or only a part of it would be run by the loop
                kept = ast.Assign([ast.Name(LAST, ast.Store())], last.value)
                tree.body[-1] = ast.fix_missing_locations(ast.copy_location(kept, last))
            self.evaluate(compile(tree, name, "exec", flags, dont_inherit=True))
            value = self.names.pop(LAST, None)
            if value is not None:
                self.names["_"] = value
                self.agent.display(bundle(self.agent, value), main=True)
        except SystemExit as exc:
            return exit_status(exc)
        except BaseException as exc:  # noqa: BLE001  # whatever a cell raises is reported
            return 1, report(exc, name)
        return 0, None

    def evaluate(self, code: types.CodeType) -> None:
        value = eval(code, self.names)
        if code.co_flags & CO_COROUTINE:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(value)


def make_shell(agent: Agent, module: types.ModuleType) -> Any:
    """Cells by IPython, where that is installed."""
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import Type
    from traitlets.config import Config

    class Hook(DisplayHook):  # type: ignore[misc]
        def write_output_prompt(self) -> None:
            pass

        def write_format_data(self, format_dict: Any, _: Any = None) -> None:
            agent.display(format_dict, main=True)

        def finish_displayhook(self) -> None:
            pass

    class Publisher(DisplayPublisher):  # type: ignore[misc]
        def publish(self, data: Any, *_: Any, **__: Any) -> None:
            agent.display(data)

        def clear_output(self, wait: bool = False) -> None:
            pass

    class Shell(InteractiveShell):  # type: ignore[misc]
        displayhook_class = Type(Hook)
        display_pub_class = Type(Publisher)
        system = InteractiveShell.system_raw  # straight to descriptor 1, in its order
        report: Any = None

        def init_io(self) -> None:
            pass

        def enable_gui(self, gui: Any = None) -> None:
            pass

        def ask_exit(self) -> None:
            raise SystemExit(0)

        def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
            leave_out_handler((exc_tuple or sys.exc_info())[2])
            super().showtraceback(exc_tuple, *args, **kwargs)

        def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
            text = "\n".join(stb if isinstance(stb, list) else [str(stb)])
            self.report = (*named(evalue, etype), re.sub(r"\x1b\[[0-9;]*m", "", text))

        def forked(self) -> None:
            asyncio.set_event_loop(asyncio.new_event_loop())

        def run(self, code: str) -> Any:
            self.report = None
            if "\0" in code:  # IPython's transformers take it for the end
                try:
                    compile(code, "<cell>", "exec")
                except BaseException as exc:  # noqa: BLE001  # SyntaxError, or ValueError before 3.12
                    return 1, report(exc, None)
            result = self.run_cell(code, store_history=True)
            error = result.error_before_exec or result.error_in_exec
            if isinstance(error, SystemExit):
                return exit_status(error)
            if error is None:
                return 0, None
            return 1, self.report or report(error, None)

    import warnings

    warnings.filterwarnings("ignore", message="To exit: use 'exit'")
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"  # or a thread that saves it
    config.InteractiveShell.colors = "NoColor"
    config.InteractiveShell.xmode = "Plain"
    config.InteractiveShell.show_rewritten_input = False
    shell = Shell.instance(config=config, user_module=module)
    for mime, kind in (("image/png", "png"), ("image/svg+xml", "svg")):
        formatter = shell.display_formatter.formatters[mime]
        formatter.for_type_by_name("matplotlib.figure", "Figure", lambda one, kind=kind: draw(agent, one, kind))
    return shell


class PyplotFinder:
    """When pyplot is imported, its `show` becomes ours."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def find_spec(self, name: str, _: Any = None, __: Any = None) -> Any:
        if name != "matplotlib.pyplot":
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                load(module)
                module.show = self.agent.make_show()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


# ------------------------------------------------------------ what is shown


def drawn(figure: Any) -> "dict[str, str | bytes]":
    """A figure of matplotlib's as PNG and SVG."""
    import io

    found: dict[str, str | bytes] = {}
    for mime, kind in (("image/png", "png"), ("image/svg+xml", "svg")):
        file = io.BytesIO()
        figure.savefig(file, format=kind, bbox_inches="tight")
        found[mime] = file.getvalue() if kind == "png" else file.getvalue().decode()
    return found


def draw(agent: Agent, figure: Any, kind: str) -> "str | bytes":
    """One of them, for IPython; it is not shown once more at the end of the cell."""
    agent.shown.add(id(figure))
    return drawn(figure)["image/png" if kind == "png" else "image/svg+xml"]


METHODS = (
    ("text/html", "_repr_html_"), ("text/markdown", "_repr_markdown_"), ("text/latex", "_repr_latex_"),
    ("image/svg+xml", "_repr_svg_"), ("image/png", "_repr_png_"), ("image/jpeg", "_repr_jpeg_"),
    ("application/pdf", "_repr_pdf_"), ("application/json", "_repr_json_"),
    ("application/javascript", "_repr_javascript_"),
)  # fmt: skip


def bundle(agent: Agent, value: Any) -> dict[str, Any]:
    """A value by Jupyter's conventions; a method that fails says nothing."""
    data: dict[str, Any] = {}
    if isinstance(value, type):
        return {"text/plain": repr(value)}
    mixed = getattr(value, "_repr_mimebundle_", None)
    if callable(mixed):
        found = mixed(include=None, exclude=None)
        data.update((found[0] if isinstance(found, tuple) else found) or {})
    for mime, name in METHODS:
        method = getattr(value, name, None)
        if mime in data or not callable(method):
            continue
        try:
            found = method()
        except Exception:  # noqa: BLE001, S112  # as IPython: another representation may do
            continue
        if found is not None:
            data[mime] = found[0] if isinstance(found, tuple) else found
    if type(value).__module__ == "matplotlib.figure" and hasattr(value, "savefig"):
        agent.shown.add(id(value))
        data.update(drawn(value))
    data.setdefault("text/plain", repr(value))
    return data


def payload(value: Any) -> "str | bytes":
    """What is neither text nor bytes is JSON's."""
    if isinstance(value, str | bytes):
        return value
    import json

    return json.dumps(value, default=repr)


# ------------------------------------------------------------ what goes wrong


def named(error: Any, kind: Any = None) -> tuple[str, str]:
    """Class and message, as an interpreter prints them."""
    kind = kind or type(error)
    module = getattr(kind, "__module__", None)
    name = getattr(kind, "__qualname__", str(kind))
    try:
        value = "\n".join([str(error), *map(str, getattr(error, "__notes__", ()))])
    except Exception:  # noqa: BLE001  # its __str__ is the program's
        value = "<exception str() failed>"
    return name if module in ("builtins", "__main__") else f"{module}.{name}", value


def report(error: BaseException, cell: "str | None") -> tuple[str, str, str]:
    """Class, message and traceback, from the first frame of the cell's own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != cell:
        trace = trace.tb_next
    leave_out_handler(trace)
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001  # what it is made of is the program's
        text = ""
    return (*named(error), text)


def leave_out_handler(trace: Any) -> None:
    """The frame in which an interrupt is raised is this program's, not the cell's."""
    while trace is not None and trace.tb_next is not None:
        if trace.tb_next.tb_frame.f_code is Interrupts.handle.__code__:
            trace.tb_next = None
        trace = trace.tb_next


def exit_status(error: SystemExit) -> Any:
    """As of a program that ends so; the context lives on."""
    code = error.code
    if code is None or isinstance(code, int):
        status = (code or 0) & 0xFF
        return status, ("SystemExit", str(code), f"SystemExit: {code}\n") if status else None
    sys.stderr.write(f"{code}\n")
    return 1, ("SystemExit", str(code), f"SystemExit: {code}\n")


# ------------------------------------------------------------ descriptors


def flush() -> None:
    """What is written is in the pipes."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S112  # closed, or replaced by the program: its own business
            continue


def move_up(fd: int) -> int:
    """To a high number, not inherited."""
    import fcntl
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(3, min(most, 256) - 8))
    os.close(fd)
    return moved


def give_stdin(path: "str | None") -> None:
    """Make a file descriptor 0, and a new stream of it."""
    fd = os.open(path or os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(fd, 0)
    os.close(fd)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115  # for the cells


if __name__ == "__main__":
    Agent(int(sys.argv[1])).serve()
