"""What Node costs that was started ahead, and compiling: a known program, and C++ with everything included."""

import os
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from nsbox import AsyncSandbox, ConfigError
from scripts.benchmarks.measure import Goal, Report, Run, Series, in_turn
from scripts.benchmarks.peers import run_process

_PROGRAM = '#include <stdio.h>\nint main(void) { puts("1"); return 0; }\n'
_EVERYTHING = """#include <bits/stdc++.h>
using namespace std;
int main() { map<string, vector<int>> m; m["a"] = {3, 1, 2}; sort(m["a"].begin(), m["a"].end()); cout << m["a"][0]; }
"""
_MOST_COMPILATIONS = 10


_SCRIPT = "console.log(1)"
_PAUSE = 0.3
"""In which what waits for the next program starts: it is used once."""


async def standby(runs: int) -> Report:
    """JavaScript in a living sandbox, by a Node that has started before, against a bare one; both after a pause."""
    async with AsyncSandbox() as sandbox:

        async def run_script() -> None:
            result = await sandbox.execute(_SCRIPT, language="javascript")
            if result.raise_for_verdict().stdout != "1\n":
                raise RuntimeError(f"a wrong result: {result!r}")

        bare = partial(run_process, ("node", "-e", _SCRIPT))
        contenders: dict[str, Run] = {"nsbox": run_script, "bare process": bare}
        series = await in_turn(contenders, runs, pause=_PAUSE)
    goal = Goal(what="nsbox / bare", value=series["nsbox"].median / series["bare process"].median, bound=0.35)
    title = f"standby: execute('{_SCRIPT}', language='javascript') in a living sandbox, after {_PAUSE:g} s of quiet"
    return Report(title=title, series=series, goals=[goal])


async def known(runs: int) -> Report:
    """A hit in the compile cache, against a command that runs the same program from a file of the sandbox."""
    async with AsyncSandbox() as sandbox:
        make = "cat > program.c && gcc -O2 -o program program.c"
        (await sandbox.shell(make, stdin=_PROGRAM)).raise_for_verdict()

        async def run_known() -> None:
            result = await sandbox.execute(_PROGRAM, language="c")
            result.raise_for_verdict()

        async def run_file() -> None:
            (await sandbox.run(("./program",))).raise_for_verdict()

        series = await in_turn({"known": run_known, "file": run_file}, runs)
    extra = series["known"].median - series["file"].median
    goal = Goal(what="known - file", value=extra, bound=1.0, unit="ms")
    return Report(title="known: a compiled program from the cache, in a living sandbox", series=series, goals=[goal])


async def header(runs: int) -> Report:
    """A new C++ program with <bits/stdc++.h>, compiled and run, against g++ -O2 and the program without any sandbox."""
    samples: dict[str, list[float]] = {"nsbox": [], "g++": []}
    async with AsyncSandbox(timeout=60) as sandbox:
        (await sandbox.execute(_EVERYTHING, language="cpp")).raise_for_verdict()  # makes the header, once a machine
        for _ in range(min(runs, _MOST_COMPILATIONS)):
            code = f"{_EVERYTHING}// {time.time_ns()}\n"
            begun = time.perf_counter()
            result = (await sandbox.execute(code, language="cpp")).raise_for_verdict()
            samples["nsbox"].append((time.perf_counter() - begun) * 1e3)
            if result.evidence["compile_cache"] != "kept":
                raise ConfigError(
                    "NSBOX_CACHE_DIR: the compile cache cannot be written, so there is nothing to measure"
                )
            samples["g++"].append(_compile_bare(code))
    series = {name: Series(samples=found, unit="ms") for name, found in samples.items()}
    ratio = series["nsbox"].median / series["g++"].median
    goal = Goal(what="nsbox / g++ -O2", value=ratio, bound=0.6)
    return Report(title="header: a new C++ program with <bits/stdc++.h>", series=series, goals=[goal])


def _compile_bare(code: str) -> float:
    with tempfile.TemporaryDirectory() as directory:
        source, program = Path(directory) / "main.cpp", Path(directory) / "program"
        source.write_text(code)
        begun = time.perf_counter()
        subprocess.run(["g++", "-O2", "-o", os.fspath(program), os.fspath(source)], check=True)
        subprocess.run([os.fspath(program)], check=True, stdout=subprocess.DEVNULL)
        return (time.perf_counter() - begun) * 1e3
