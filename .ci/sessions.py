"""Run sessions of the noxfile, each as ``make SESSION``, and sum them up at the end.

They run in two rows: those in WIDE, each of which keeps two processors busy, and beside them all others, whose output
comes when they end. Those in FIRST, which install what both rows use, run before.

usage: sessions.py [SESSION ...]     without a name: those that the noxfile runs by default

Exits with 1 if one failed. A session in which pytest ran counts as its tests; any other counts as one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

FIRST = ("browser", "environments")
WIDE = ("test", "thorough", "tutorials", "workflow312")

# The last line of a pytest run: "==== 2 failed, 10 passed, 1 skipped in 3.21s ====".
_PYTEST = re.compile(r"^=+ (?=.*\d+ (?:passed|failed|skipped|errors?)\b)(.*) in [0-9.]+s\b.*=+$")
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)\b")


class Outcome(NamedTuple):
    """What became of a session, and of the tests in it."""

    name: str
    result: str
    seconds: float
    passed: int
    failed: int
    skipped: int
    reason: str


def main(names: list[str]) -> int:
    """Run the sessions, print the summary and return the exit code."""
    listed = subprocess.check_output([sys.executable, "-m", "nox", "--list", "--json"], text=True)
    known = [session["name"] for session in json.loads(listed)]
    start = time.monotonic()
    outcomes = run_sessions(names or known)
    print(f"\n==== all, {time.monotonic() - start:.0f} s ====")
    for one in outcomes:
        tests = f"{one.passed} passed, {one.failed} failed, {one.skipped} skipped"
        print(f"{one.name:<12} {one.result:<8} {one.seconds:5.0f} s   {one.reason or tests}")
    passed, failed, skipped = (sum(getattr(one, what) for one in outcomes) for what in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return int(failed > 0)


def run_sessions(names: list[str]) -> list[Outcome]:
    """Run sessions in two rows, each in the order of the names, and return what became of them in that order."""
    done: dict[str, Outcome] = {}

    def run(row: list[str], beside: bool = False) -> None:
        for name in row:
            done[name] = run_session(name, beside)

    run([name for name in names if name in FIRST])
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(run, [name for name in names if name not in FIRST + WIDE], True)
        run([name for name in names if name in WIDE])
        others.result()
    return [done[name] for name in names]


def run_session(name: str, beside: bool = False) -> Outcome:
    """Run one session, showing its output, at its end where it runs beside another, and count its tests."""
    output: list[str] = []
    show = output.append if beside else partial(print, end="", flush=True)
    show(f"\n==== {name} ====\n")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = ["make", "--no-print-directory", name, f"NOX_ARGS=--report={report}"]
        counts = dict.fromkeys(("passed", "failed", "error", "skipped"), 0)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, text=True, errors="replace", **streams) as process:
            for line in process.stdout or ():
                show(line)
                add_counts(counts, line)
        seconds = time.monotonic() - start
        entries = json.loads(report.read_text(encoding="utf-8"))["sessions"] if report.exists() else []
    print("".join(output), end="", flush=True)
    skipped = process.returncode == 0 and any(entry["result"] == "skipped" for entry in entries)
    if skipped:
        return Outcome(name, "skipped", seconds, 0, 0, 1, str(entries[0].get("reason") or "see above"))
    failed = counts["failed"] + counts["error"]
    if process.returncode:
        return Outcome(name, "FAILED", seconds, counts["passed"], max(failed, 1), counts["skipped"], "")
    ran_pytest = any(counts.values())
    return Outcome(name, "passed", seconds, counts["passed"] if ran_pytest else 1, 0, counts["skipped"], "")


def add_counts(counts: dict[str, int], line: str) -> None:
    """Add what the last line of a pytest run says."""
    # Colours are for terminals, but some set FORCE_COLOR.
    if found := _PYTEST.match(re.sub(r"\x1b\[[0-9;]*m", "", line.strip())):
        for number, what in _COUNT.findall(found[1]):
            counts["error" if what.startswith("error") else what] += int(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
