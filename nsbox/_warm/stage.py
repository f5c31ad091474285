"""What a warm interpreter runs as `python3 -c`: the frame below a program's first one. The first of its arguments is
the text of leaving.py and zygote.py, which defines what is called here.

The interpreter keeps the tree of what -c gives until it has run to its end, and takes it apart then: each forked child
would, and copy the pages first, 170 of the 710 of a short program (measured). So the rest is compiled apart.
"""

TYPE_CHECKING = False  # as typing has it, which would have to be imported
if TYPE_CHECKING:
    from nsbox._warm.zygote import become, forget_text, serve, status_of, tell, tell_nothing_next, translate

if __name__ == "__main__":
    import sys
    from atexit import unregister
    from sys import (
        excepthook,
        getprofile,
        gettrace,
        settrace,
    )  # functions in C: no trace function of a program's is told that they are called

    exec(compile(sys.argv.pop(1), "<string>", "exec"))
    del sys.path[0]  # the directory it was started in, which is the root: nothing is imported from there
    forget_text()
    words, variables, leaving = serve()
    path = become(words, variables)
    failed: list[BaseException] = []
    interrupted = False
    try:
        code = translate(path, words)
        exec(code, sys.modules["__main__"].__dict__)  # by no other name: it is emptied at the end
        leaving.status = 0
    except SystemExit as end:
        if gettrace() is None:
            leaving.status = status_of(end)
        raise
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is told as the interpreter tells it
        failed.append(error)
    finally:
        watched = gettrace() is not None or getprofile() is not None
        if watched:
            unregister(leaving.leave)
    if failed:
        tracer = gettrace()
        if tracer is not None:
            settrace(None)
        interrupted = tell(failed, sys, excepthook, tracer)
        leaving.status = 1
    for name in ("__file__", "__cached__"):  # as _PyRun_SimpleFile(): they are gone when atexit's functions are called
        getattr(sys.modules.get("__main__"), "__dict__", {}).pop(name, None)
    if interrupted:
        leaving.status = None  # the interpreter sends the signal, once it has ended all
        tracer = gettrace()
        if tracer is not None:
            settrace(None)
        tell_nothing_next(sys, tracer)
        raise KeyboardInterrupt
    status = leaving.status
    if not watched:
        leaving.leave_early()
    if status:
        raise SystemExit(1)
