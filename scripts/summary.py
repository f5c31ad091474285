"""Sum up the lanes of `scripts/test`, whose output is on stdin: one line for each, and "N passed, N failed" for all.

Errors count as failures, and so does a lane that ended badly without a failed test (a crash, a time-out, no test).
The exit status is 1 when anything failed.
"""

import re
import sys


def count(report: str) -> tuple[int, int]:
    """The passed and the failed of the last summary line of pytest; 0, 0 when there is none."""
    lines = re.findall(r"^=+ (.*) in [0-9.]+s.* =+\r?$", report, re.MULTILINE)
    found = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", lines[-1] if lines else "")
    }
    return found.get("passed", 0), found.get("failed", 0) + found.get("error", 0)


def main() -> int:
    """Read, print, judge."""
    passed = failed = 0
    for lane in re.split(r"^== lane ", sys.stdin.read(), flags=re.MULTILINE)[1:]:
        name, _, report = lane.partition("\n")
        status = re.findall(r"^== exit (\d+)$", report, re.MULTILINE)
        good, bad = count(report)
        if status[-1:] != ["0"] and bad == 0:
            bad = 1
            print(f"lane {name} ended with status {status[-1:]} and no failed test; its output is above")
        print(f"lane {name}: {good} passed, {bad} failed")
        passed += good
        failed += bad
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
