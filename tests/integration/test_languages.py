"""Programs in every language: compiled apart, told the limits of their sandbox, and judged alike."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compiling import compile_cache, languages

import nsbox
from nsbox import ExecutionResult, Verdict
from nsbox._cli.doctor import doctor

__all__ = ["compile_cache"]  # a fixture
pytestmark = [pytest.mark.usefixtures("_compile_cache")]

SUMS = {
    "python": "import sys\nprint(sum(map(int, sys.stdin.read().split())), *sys.argv[1:])\nsys.exit(3)",
    "javascript": """
const numbers = require("fs").readFileSync(0, "utf8").split(/\\s+/).filter(Boolean).map(Number);
console.log(numbers.reduce((a, b) => a + b, 0), ...process.argv.slice(2));
process.exit(3);
""",
    "typescript": """
import * as fs from "fs";
const numbers: number[] = fs.readFileSync(0, "utf8").split(/\\s+/).filter(Boolean).map(Number);
const add = (a: number, b: number): number => a + b;
console.log(numbers.reduce(add, 0), ...process.argv.slice(2));
process.exit(3);
""",
    "go": """
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	var sum, n int
	for {
		if _, err := fmt.Scan(&n); err != nil {
			break
		}
		sum += n
	}
	fmt.Println(sum, strings.Join(os.Args[1:], " "))
	os.Exit(3)
}
""",
    "rust": """
use std::io::Read;

fn main() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    let sum: i64 = text.split_whitespace().map(|word| word.parse::<i64>().unwrap()).sum();
    let rest: Vec<String> = std::env::args().skip(1).collect();
    println!("{} {}", sum, rest.join(" "));
    std::process::exit(3);
}
""",
    "c": """
#include <stdio.h>

int main(int argc, char **argv)
{
    long sum = 0, n;
    while (scanf("%ld", &n) == 1)
        sum += n;
    printf("%ld %s %s\\n", sum, argv[1], argv[argc - 1]);
    return 3;
}
""",
    "cpp": """
#include <bits/stdc++.h>
using namespace std;

int main(int argc, char **argv) {
    vector<long> all{istream_iterator<long>(cin), {}};
    cout << accumulate(all.begin(), all.end(), 0L);
    for (int i = 1; i < argc; i++) cout << ' ' << argv[i];
    cout << endl;
    return 3;
}
""",
    "java": """
package some.where;

import java.util.Scanner;

public class Adding {
    public static void main(String[] arguments) {
        Scanner in = new Scanner(System.in);
        long sum = 0;
        while (in.hasNextLong()) sum += in.nextLong();
        System.out.println(sum + " " + String.join(" ", arguments));
        System.exit(3);
    }
}
""",
    "bash": """
sum=0
for n in $(cat); do
    sum=$((sum + n))
done
echo "$sum $*"
exit 3
""",
}
HOGS = {
    "javascript": "const all = []; for (;;) all.push(new Array(100000).fill(1.5));",
    "go": """
package main

func main() {
	var all [][]byte
	for {
		part := make([]byte, 1<<20)
		for i := range part {
			part[i] = 1
		}
		all = append(all, part)
	}
}
""",
    "java": """
import java.util.*;
class Hog {
    public static void main(String[] a) {
        List<byte[]> all = new ArrayList<>();
        while (true) all.add(new byte[1 << 20]);
    }
}
""",
}
GARBAGE = {
    "javascript": """
let kept = [];
for (let i = 0; i < 3000; i++) kept = new Array(100000).fill(i + 0.5);
console.log(kept.length, require("os").cpus().length > 0);
""",
    "go": """
package main

import (
	"fmt"
	"runtime"
)

var kept []byte

func main() {
	for i := 0; i < 3000; i++ {
		kept = make([]byte, 1<<20)
		kept[i] = 1
	}
	fmt.Println(len(kept), runtime.GOMAXPROCS(0))
}
""",
    "java": """
class Garbage {
    static byte[] kept;
    public static void main(String[] a) {
        for (int i = 0; i < 3000; i++) kept = new byte[1 << 20];
        System.out.println(kept.length + " " + Runtime.getRuntime().availableProcessors());
    }
}
""",
}
BROKEN = {
    "typescript": "const x: number = 'a';\nconsole.log(x);",
    "go": "package main\n\nfunc main() {\n\tx := 1\n}\n",
    "rust": 'fn main() {\n    let x: i32 = "a";\n}\n',
    "c": "int main(void) { return nothing; }",
    "cpp": "#include <vector>\nint main() { std::vector<int> v = 1; }",
    "java": 'class Main { public static void main(String[] a) { int x = "a"; } }',
}


@pytest.fixture(name="sandbox")
def _sandbox() -> Iterator[nsbox.Sandbox]:
    with nsbox.Sandbox(timeout=60) as sandbox:
        yield sandbox


@pytest.mark.parametrize("language", languages())
def test_a_program_reads_writes_and_exits(sandbox: nsbox.Sandbox, language: str) -> None:
    """stdin, arguments, stdout and the exit code are the program's, whatever compiled it, and a second time, too."""
    for _ in range(2):
        result = sandbox.execute(SUMS[language], language=language, stdin="1 2\n39\n", arguments=["a", "b c"])
        assert result.stdout == "42 a b c\n", result
        assert (result.verdict, result.exit_code, result.stderr) == (Verdict.NONZERO_EXIT, 3, "")
    assert sandbox.execute(SUMS[language], stdin="1", arguments=["x", "y"]).stdout == "1 x y\n"  # detected


@pytest.mark.lane_unified
@pytest.mark.needs_tool("gcc")
def test_what_compiled_runs_and_what_does_not_is_a_compile_error(sandbox: nsbox.Sandbox) -> None:
    """In one sandbox, one after the other; a number of cgroup modes runs this."""
    assert sandbox.execute(SUMS["c"], stdin="4 5", arguments=["a", "b"]).stdout == "9 a b\n"
    result = sandbox.execute(BROKEN["c"])
    assert (result.verdict, result.stdout) == (Verdict.COMPILE_ERROR, "")
    assert "main.c:1" in result.stderr
    assert sandbox.execute(SUMS["c"], stdin="6", arguments=["a", "b"]).evidence["compile_cache"] == "hit"


@pytest.mark.parametrize("language", languages(*BROKEN))
def test_what_does_not_compile_is_a_compile_error(sandbox: nsbox.Sandbox, language: str) -> None:
    """With what the compiler wrote in stderr, and nothing of it in stdout; the sandbox lives."""
    result = sandbox.execute(BROKEN[language], language=language)
    assert result.verdict is Verdict.COMPILE_ERROR
    assert "main." in result.stderr.lower(), result.stderr
    assert (result.stdout, result.ok, result.evidence["compiler_verdict"]) == ("", False, "nonzero_exit")
    with pytest.raises(nsbox.ExecutionError, match="compile_error"):
        result.raise_for_verdict()
    assert sandbox.execute("print(1)", language="python").ok


@pytest.mark.needs_cgroups
@pytest.mark.parametrize("language", languages(*HOGS))
def test_a_runtime_that_reserves_much_meets_the_memory_limit_when_it_uses_much(language: str) -> None:
    """The kernel ends what needs more, so the verdict is MEMORY_LIMIT; who makes garbage only runs to its end."""
    with nsbox.Sandbox(memory_mb=192, timeout=60, cpus=1) as sandbox:
        assert sandbox.execute(HOGS[language], language=language).verdict is Verdict.MEMORY_LIMIT
        result = sandbox.execute(GARBAGE[language], language=language)
        assert result.ok, result
        assert result.stdout.split()[1] in ("1", "true")  # the sandbox's CPU, not the machine's two


@pytest.mark.needs_cgroups
@pytest.mark.parametrize("language", languages("javascript", "go", "java", "rust"))
def test_a_runtime_starts_in_the_smallest_usual_sandbox(language: str) -> None:
    """64 MiB and 32 processes are enough for each, though they reserve gigabytes and start many threads."""
    with nsbox.Sandbox(memory_mb=64, processes=32, timeout=60) as sandbox:
        result = sandbox.execute(SUMS[language], language=language, stdin="1 2", arguments=["x"])
        assert result.stdout == "3 x\n", result


@pytest.mark.needs_tool("gcc")
@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        pytest.param("int a[1 << 28] = {1}; int main() {}", None, id="a large array"),
        pytest.param("#include </dev/zero>\nint main() {}", None, id="an endless include"),
        pytest.param("#include </etc/shadow>\nint main() {}", "nonzero_exit", id="the host's secrets"),
        pytest.param('#include "/dev/stdin"\nint main() {}', None, id="stdin"),
    ],
)
def test_a_compiler_that_is_attacked_is_stopped(code: str, verdict: str | None) -> None:
    """By its own limits: COMPILE_ERROR, with what stopped it, or a program; never an error of nsbox's."""
    runtime = nsbox.RUNTIMES["c"]
    small = _changed(runtime, compile_memory_mb=128, compile_seconds=5.0)
    with nsbox.Sandbox(timeout=20) as sandbox:
        result = sandbox.execute(code, language=small)
        assert result.verdict in (Verdict.COMPILE_ERROR, Verdict.OK), result
        if verdict is not None:
            assert result.evidence["compiler_verdict"] == verdict
            assert "root:" not in result.stderr
        assert sandbox.execute("int main(void) { return 0; }", language=small).ok


@pytest.mark.needs_tool("g++")
def test_a_compiler_that_takes_too_long_is_stopped() -> None:
    """The wall clock limit of the runtime ends it, and the evidence says so."""
    runtime = _changed(nsbox.RUNTIMES["cpp"], compile_seconds=1.0, compile=[
        "g++", "-fconstexpr-ops-limit=100000000000", "-fconstexpr-loop-limit=1000000000", "-fconstexpr-cache-depth=1",
        "-o", "{output}/program", "{source}",
    ])  # fmt: skip
    code = """
constexpr int g() { int s = 1; for (int i = 0; i < 999999999; i++) s ^= i & 2; return s; }
static_assert(g() >= 0);
int main() {}
"""
    with nsbox.Sandbox(timeout=20) as sandbox:
        result = sandbox.execute(code, language=runtime)
        assert result.verdict is Verdict.COMPILE_ERROR
        assert result.evidence["compiler_verdict"] in ("wall_time_limit", "memory_limit"), result
        assert result.evidence["cause"] in ("killed", "oom_kill")


@pytest.mark.needs_tool("gcc")
def test_what_a_program_leaves_behind_does_not_reach_a_compiler(sandbox: nsbox.Sandbox) -> None:
    """Headers in the working directory and in HOME are read when a program compiles itself, and not by nsbox."""
    plant = """
printf '#define ANSWER 666\\n' > /workspace/answer.h; mkdir -p /tmp/x; cp /workspace/answer.h /tmp/
printf 'x' > /home/user/.gccrc
echo '#include "answer.h"\nint main(void) { return ANSWER != 666; }' > a.c && gcc -o a a.c
"""
    assert sandbox.shell(plant).ok
    assert sandbox.shell("./a").ok  # the header is there
    result = sandbox.execute('#include "answer.h"\nint main(void) { return ANSWER; }', language="c")
    assert result.verdict is Verdict.COMPILE_ERROR
    assert "answer.h: No such file" in result.stderr


@pytest.mark.needs_tool("gcc")
def test_a_program_cannot_change_what_was_compiled(sandbox: nsbox.Sandbox) -> None:
    """It runs from a place that it can read, and not write, and which is empty afterwards."""
    code = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    int written = open(argv[0], O_WRONLY) < 0 ? errno : 0;
    int removed = unlink(argv[0]) ? errno : 0;
    printf("%d %d %d\n", open(argv[0], O_RDONLY) >= 0, written, removed);
    return 0;
}
"""
    for _ in range(2):
        seen = sandbox.execute(code, language="c").stdout.split()
        assert seen[0] == "1"
        assert seen[1] in ("13", "26", "30")  # EACCES, ETXTBSY, EROFS
        assert seen[2] in ("13", "30")
    assert sandbox.shell("ls -A /run/nsbox").stdout == ""


@pytest.mark.needs_tool("gcc")
def test_a_limit_of_an_execution_is_the_program_s(sandbox: nsbox.Sandbox) -> None:
    """A compiler that needs longer than `timeout` and more than `memory_limit_mb` is not ended by them."""
    code = "int main(void) { for (;;) { } }"
    result = sandbox.execute(code, language="c", timeout=0.05, memory_limit_mb=8)
    assert result.verdict is Verdict.WALL_TIME_LIMIT
    result = sandbox.execute("print(1)", language=_slow_compiler(), timeout=0.2)
    assert result.ok, result


def _slow_compiler() -> nsbox.Runtime:
    return nsbox.Runtime(
        name="slow", file_name="main.txt", compile=["sh", "-c", "sleep 0.5; cp /usr/bin/true {output}/true"],
        run=["{output}/true"], version=["sh", "-c", "true"],
    )  # fmt: skip


def test_a_runtime_of_the_caller_s_own(tmp_path: Path) -> None:
    """As an object and as a file, with a compiler of its own; its compiler's failures are judged like any other's."""
    text = """
name = "upper"
file_name = "main.up"
compile = [
    "sh", "-c",
    "test -s {source} && tr a-z A-Z < {source} > {output}/out && echo '{cpus} {memory_mb}' >> {output}/out",
]
run = ["sh", "-c", "cat {output}/out; echo $SEEN $PWD", "{source}"]
packages = ["upper-tools"]
[environment]
SEEN = "{directory}"
"""
    path = tmp_path / "upper.toml"
    path.write_text(text)
    runtime = nsbox.load_runtime(path)
    with nsbox.Sandbox(runtime=runtime) as sandbox:
        result = sandbox.execute("import os\nprint(1)\n")
        assert result.stdout.splitlines()[:2] == ["IMPORT OS", "PRINT(1)"], result
        assert result.stdout.splitlines()[3] == "/workspace /workspace"
        assert sandbox.execute("").verdict is Verdict.COMPILE_ERROR
        assert sandbox.execute("print(1)", language="python").stdout == "1\n"
    with nsbox.Sandbox() as sandbox:
        assert sandbox.execute("abc", language=runtime).stdout.startswith("ABC")


def test_a_toolchain_that_is_missing_is_named_with_its_package(sandbox: nsbox.Sandbox) -> None:
    """Before anything is run, for compilers and interpreters alike; the sandbox lives."""
    for compiler in (["nosuchcompiler"], None):
        runtime = nsbox.Runtime(
            name="odd", file_name="x", compile=compiler, run=["nosuchinterpreter"], packages=["such-package"]
        )
        with pytest.raises(nsbox.UnsupportedHostError, match=r"(?s)nosuch.*apt-get install such-package") as caught:
            sandbox.execute("x", language=runtime)
        assert caught.value.missing[0].startswith("nosuch")
    assert sandbox.execute("print(1)").ok


@pytest.mark.needs_tool("gcc")
def test_a_compiler_that_makes_no_program_is_a_compile_error(sandbox: nsbox.Sandbox) -> None:
    """Nothing, a directory, a link, a file that may not be executed, and one that no kernel starts."""
    commands = (
        "true", "mkdir {output}/p", "ln -s /bin/true {output}/p", "echo > {output}/p", "mkfifo {output}/p",
        "printf '\\177ELF' > {output}/p; chmod 755 {output}/p", "printf '#!/no' > {output}/p; chmod 755 {output}/p",
        "seq 1000 | (cd {output} && xargs touch)",
    )  # fmt: skip
    for command in commands:
        runtime = nsbox.Runtime(name="odd", file_name="x", compile=["sh", "-c", command], run=["{output}/p"])
        result = sandbox.execute("x", language=runtime)
        assert result.verdict is Verdict.COMPILE_ERROR, (command, result)
        assert "nsbox: " in result.stderr, (command, result)


@pytest.mark.needs_tool("gcc")
def test_one_execution_is_one_pair_of_events(sandbox: nsbox.Sandbox) -> None:
    """Compiling is no execution of its own, and what the compiler wrote is heard of where it failed."""
    seen: list[Any] = []
    for event in ("execution_started", "execution_completed", "execution_failed", "execution_output", "created"):
        sandbox.on(event, seen.append)
    assert sandbox.execute('#include <stdio.h>\nint main(void) { puts("x"); }', language="c").ok
    assert [event.name for event in seen] == ["execution_started", "execution_output", "execution_completed"]
    seen.clear()
    assert sandbox.execute(BROKEN["c"], language="c").verdict is Verdict.COMPILE_ERROR
    assert [event.name for event in seen] == ["execution_started", "execution_output", "execution_failed"]
    assert "nothing" in seen[1].content
    assert sandbox.metadata.total_executions == 2
    stream = sandbox.execute_stream('#include <stdio.h>\nint main(void) { puts("x"); }', language="c")
    assert "".join(event.content for event in stream if isinstance(event, nsbox.ExecutionOutput)) == "x\n"
    assert stream.result.evidence["compile_cache"] == "hit"


def test_a_text_runs_in_what_it_is_written_in() -> None:
    """Unless the caller names a language, or it is a program of the sandbox's own language, too."""
    with nsbox.Sandbox() as sandbox:
        assert sandbox.execute("for x in a b; do echo $x; done").stdout == "a\nb\n"
        assert sandbox.execute("print(1)").stdout == "1\n"
        assert "NameError" in sandbox.execute("console.log(1)").stderr  # it parses as Python: no guess
        assert sandbox.execute("x = 1").ok
    with nsbox.Sandbox(runtime="bash") as sandbox:
        assert sandbox.execute("import sys\nprint(sys.version_info[0])").stdout == "3\n"
        assert sandbox.execute("x=1").ok
        assert sandbox.execute("import sys\nprint(1)", language="bash").exit_code == 2


def test_bad_texts_are_the_interpreter_s_to_refuse(sandbox: nsbox.Sandbox) -> None:
    """NUL, lone surrogates, no text at all, megabytes: a verdict each, or a clear error, and the sandbox lives."""
    for language in ("bash", "python", "c"):
        for code in ("\0", "\ud800", "", "(" * 100_000, "é" * 500_000):
            result: ExecutionResult = sandbox.execute(code, language=language)
            assert result.verdict in (Verdict.OK, Verdict.NONZERO_EXIT, Verdict.COMPILE_ERROR), (language, code[:10])
    with pytest.raises(nsbox.ConfigError, match="do not fit"):
        sandbox.execute("#" * (65 << 20))
    assert sandbox.execute("print(1)").ok


@pytest.mark.needs_tool("javac")
def test_the_class_with_main_is_started(sandbox: nsbox.Sandbox) -> None:
    """Wherever it stands, whatever the public class is called."""
    code = "public class Out { }\nclass Other { public static void main(String[] a) { System.out.println(a.length); } }"
    assert sandbox.execute(code, language="java", arguments=["x"]).stdout == "1\n"


def test_a_mounted_toolchain_is_found(tmp_path: Path) -> None:
    """A compiler outside of /usr is used where `mounts` shows it, and otherwise named as missing."""
    tool = tmp_path / "mycc"
    tool.write_text("#!/bin/sh\necho 'echo made of' $(cat $1) > $2\nchmod 755 $2\n")
    tool.chmod(0o755)
    tmp_path.chmod(0o755)
    runtime = nsbox.Runtime(
        name="mine", file_name="x", compile=["mycc", "{source}", "{output}/p"], run=["sh", "{output}/p"],
        environment={"PATH": "/opt/mine:/usr/bin:/bin"}, version=["mycc"],
    )  # fmt: skip
    mounts = [nsbox.Mount(source=tmp_path, target="/opt/mine")]
    with nsbox.Sandbox(mounts=mounts) as sandbox:
        assert sandbox.execute("it", language=runtime).stdout == "made of it\n"
        tool.write_text("#!/bin/sh\necho 'echo newly made of' $(cat $1) > $2\nchmod 755 $2\n")
        assert sandbox.execute("it", language=runtime).stdout == "newly made of it\n"  # another version, another key
    with nsbox.Sandbox() as sandbox, pytest.raises(nsbox.UnsupportedHostError, match="mycc"):
        sandbox.execute("it", language=runtime)


def _changed(runtime: nsbox.Runtime, **fields: Any) -> nsbox.Runtime:
    return dataclasses.replace(runtime, **fields)


def test_doctor_lists_the_languages(capfd: pytest.CaptureFixture[str]) -> None:
    """All nine, each with its version or what brings it."""
    doctor(as_json=True, self_test=False)
    found = {language["name"]: language for language in json.loads(capfd.readouterr().out)["languages"]}
    assert list(found) == list(nsbox.RUNTIMES)
    for language in found.values():
        assert language["found"]
        assert language["ok"] or language["remedy"].startswith("apt-get install ")
    assert "Python 3." in found["python"]["found"]
