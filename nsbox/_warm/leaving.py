"""How a program ends that a warm interpreter runs: what Py_FinalizeEx() does, but for what is only the interpreter's.

This runs in the interpreter itself; its text is in front of that of zygote.py, and what is said there holds here.

To take a whole interpreter apart means to write to nearly every page of it, and a forked child has to copy each before:
840 page faults and half the CPU time of a short program (measured). So only what the program has made is taken apart,
in the order of Python/pylifecycle.c. Wherever anything is there whose end could be told from outside and that this does
not reach, nothing is cut short: the interpreter goes on to do it all.
"""

TYPE_CHECKING = False  # as typing has it, which would have to be imported
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SPECIAL = (
    "path", "argv", "ps1", "ps2", "last_type", "last_value", "last_traceback", "path_hooks", "path_importer_cache",
    "meta_path", "__interactivehook__",
)  # fmt: skip
"""Names in `sys`, as in sys_deletes."""
MOST_LEFT = 30_000
"""Objects: to look through more takes longer than to take all apart."""


class Probe:
    """Equal to nothing, and knows what it was compared to."""

    __module__ = "nsbox"
    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.found: list[object] = []

    def __eq__(self, other: object) -> bool:
        self.found.append(other)
        return False


class Leaving:
    """The end of the process, registered before anything else with `atexit`, whose functions are called last first.

    Args:
        exit: exit(3).

    Attributes:
        status: The exit status, once it is known.
    """

    __module__ = "nsbox"  # there is no other class of `__main__` than the program's

    def __init__(self, exit: "Callable[[int], object]") -> None:
        import _signal  # type: ignore[import-not-found]  # what `signal` is made from
        import _weakref
        import atexit
        import gc
        import sys
        import types

        self._exit = exit
        self._gc, self._signal, self._sys = gc, _signal, sys  # what a program puts in their place is not for here
        self._reference = _weakref.ref
        self._module = types.ModuleType
        self._count: Callable[[], int] = atexit._ncallbacks
        self._unregister: Callable[[Any], object] = atexit.unregister
        self._probe = Probe()
        self.status: int | None = None
        self._known: frozenset[str] = frozenset()
        self._kept: tuple[object, ...] = ()
        self._filters = -1
        atexit.register(self.leave)

    def remember(self) -> None:
        """Everything is imported that is not the program's."""
        sys = self._sys
        self._known = frozenset(sys.modules)
        self._filters = len(sys.modules["warnings"].filters) if "warnings" in sys.modules else -1
        # they lose their names, and would be taken apart
        self._kept = tuple(getattr(sys, name, None) for name in SPECIAL)

    def leave_early(self) -> None:
        """`leave`, where the interpreter would do nothing but call it, and copy 40 pages on its way (measured)."""
        if self._count() == 1 and "threading" not in self._sys.modules and self._is_registered():
            self.leave()

    def leave(self) -> None:
        """End the process, where nothing is in the way. `atexit`'s other functions have been called by now."""
        status, self.status = self.status, None
        if status is None:
            return
        try:
            if self._is_plain() and not self._has_finalizers(files=False):
                self._flush()
                self._default_signals()
                if self._gc.isenabled():
                    self._gc.collect()
                if self._take_apart():
                    self._flush()
                    self._exit(status)
        except BaseException:  # noqa: BLE001  # whatever it is, the interpreter comes to it again, and tells it
            return

    def _is_registered(self) -> bool:
        """Whether `leave` is one of those that atexit will call. It compares each of them to what is unregistered."""
        self._unregister(self._probe)
        return self._probe.found == [self.leave]

    def _is_plain(self) -> bool:
        """Whether nothing would tell of what is done here."""
        gc, sys = self._gc, self._sys
        filters = len(sys.modules["warnings"].filters) if "warnings" in sys.modules else -1
        return not (gc.get_debug() or gc.callbacks) and len(sys._current_frames()) == 1 and filters == self._filters

    def _flush(self) -> None:
        for stream in (self._sys.stdout, self._sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()

    def _default_signals(self) -> None:
        for number in range(1, 65):
            if callable(self._signal.getsignal(number)):
                self._signal.signal(number, self._signal.SIG_DFL)

    def _take_apart(self) -> bool:
        """Whether all of the program is gone. As finalize_modules()."""
        gc, sys = self._gc, self._sys
        modules = sys.modules
        new: list[str] = []
        for name in reversed(modules):
            if name in self._known:
                break
            new.append(name)
        for name in SPECIAL:
            setattr(sys, name, None)
        for name in ("stdin", "stdout", "stderr"):
            setattr(sys, name, getattr(sys, f"__{name}__"))
        lives = self._mark(modules["__main__"].__dict__)
        left = []
        for name in ("__main__", *reversed(new)):
            module: Any = modules[name]
            if isinstance(module, self._module):
                left.append(self._reference(module))
            modules[name] = None  # as the interpreter does it
        del module
        gc.collect()
        for reference in reversed(left):
            module = reference()
            if module is not None:
                self._clear(module.__dict__)
        module = None
        gc.collect()
        return lives() is None and not self._has_finalizers(files=True)

    def _mark(self, namespace: "dict[Any, Any]") -> "Any":
        """What tells whether a namespace still is there."""

        class Mark:
            __module__, __slots__ = "nsbox", ("__weakref__",)

        mark = Mark()
        namespace[0] = mark
        return self._reference(mark)

    def _clear(self, namespace: "dict[Any, Any]") -> None:
        """As _PyModule_Clear()."""
        for first in (True, False):
            for name in list(namespace):
                own = name[:1] == "_" and name[1:2] != "_" if isinstance(name, str) else True
                if own if first else name != "__builtins__":
                    namespace[name] = None

    def _has_finalizers(self, *, files: bool) -> bool:
        """Whether anything that was made since the fork does something at its end.

        What a program says there depends on what is there of the interpreter. Files only write what is in their buffer,
        wherever they end: those that do not end here are for the interpreter.

        Args:
            files: Whether files count, but for the standard streams.
        """
        objects = self._gc.get_objects()
        if len(objects) > MOST_LEFT:
            return True
        own = set()
        for stream in (self._sys.stdin, self._sys.stdout, self._sys.stderr):
            buffer = getattr(stream, "buffer", None)
            own |= {id(stream), id(buffer), id(getattr(buffer, "raw", None))}
        kinds = {type(one) for one in objects if id(one) not in own}
        return any(hasattr(kind, "__del__") and (files or kind.__module__ != "_io") for kind in kinds)
