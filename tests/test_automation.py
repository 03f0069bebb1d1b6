"""The sessions, what calls them, and how `.ci/run` counts; the workflows' actions."""

from __future__ import annotations

import ast
import importlib.util
import re
import threading
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def sessions():
    spec = importlib.util.spec_from_file_location("ci_sessions", PROJECT / ".ci" / "sessions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sessions_by_default() -> list[str]:
    """Return the names in CI of the noxfile; nox itself need not be installed."""
    tree = ast.parse((PROJECT / "noxfile.py").read_text(encoding="utf-8"))
    lists = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AugAssign)) and ast.unparse(node).startswith("CI ")
    ]
    return [name for names in lists for name in names]


def test_make_knows_every_session_that_ci_runs():
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^SESSIONS := (.*)$", makefile, re.MULTILINE)[1].split()
    targets += [
        name for name in ("test", "demo") if re.search(rf"^{name}: nox\n\t\$\(NOX\) {name} ", makefile, re.MULTILINE)
    ]
    assert len(sessions_by_default()) == 18
    assert not set(sessions_by_default()) - set(targets)


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("===== 10 passed in 3.21s =====\n", (10, 0, 0, 0)),
        ("== 2 failed, 10 passed, 1 skipped, 3 deselected, 4 warnings, 1 error in 100.21s (0:01:40) ==", (10, 2, 1, 1)),
        (
            "\x1b[32m==== \x1b[32m\x1b[1m7 passed\x1b[0m, \x1b[33m2 skipped\x1b[0m\x1b[32m in 0.5s\x1b[0m ====\x1b[0m",
            (7, 0, 0, 2),
        ),
        ("==== 5 skipped in 0.10s ====", (0, 0, 0, 5)),
        ("12 passed, 3 failed", (0, 0, 0, 0)),
        ("==== warnings summary ====", (0, 0, 0, 0)),
    ],
)
def test_the_last_line_of_pytest_is_counted(sessions, line, counts):
    kinds = ("passed", "failed", "error", "skipped")
    counted = dict.fromkeys(kinds, 0)
    sessions.add_counts(counted, line)
    assert tuple(counted[kind] for kind in kinds) == counts


def test_a_failed_session_ends_the_run_with_1(sessions, monkeypatch, capsys):
    outcomes = {
        "lint": sessions.Outcome("lint", "passed", 3.0, 1, 0, 0, ""),
        "test": sessions.Outcome("test", "FAILED", 60.0, 10, 2, 1, ""),
        "r": sessions.Outcome("r", "skipped", 0.1, 0, 0, 1, "there is no R"),
    }
    monkeypatch.setattr(sessions.subprocess, "check_output", lambda *args, **kwargs: "[]")
    monkeypatch.setattr(sessions, "run_session", lambda name, beside: outcomes[name])
    assert sessions.main(["lint", "test", "r"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "11 passed, 2 failed, 2 skipped"
    assert printed[-2].split(maxsplit=4) == ["r", "skipped", "0", "s", "there is no R"]
    assert sessions.main(["lint", "r"]) == 0


def test_sessions_run_in_two_rows_once_what_both_use_is_installed(sessions, monkeypatch):
    begun, both = [], threading.Barrier(2, timeout=10)

    def run(name, beside):
        begun.append(name)
        if name in ("test", "lint"):
            both.wait()
        return name

    monkeypatch.setattr(sessions, "run_session", run)
    assert sessions.run_sessions(sessions_by_default()) == sessions_by_default()
    assert sorted(begun) == sorted(sessions_by_default())
    assert tuple(begun[:2]) == sessions.FIRST
    assert set(sessions.WIDE) < set(sessions_by_default())
    assert begun.index("package") < min(map(begun.index, ("r", "smoke312", "smoke313")))


def test_actions_are_pinned_by_commit():
    for workflow in (PROJECT / ".github" / "workflows").glob("*.yml"):
        used = re.findall(r"uses: *(.*)", workflow.read_text(encoding="utf-8"))
        assert used
        assert not [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", line)]
        assert "permissions:\n  contents: read\n" in workflow.read_text(encoding="utf-8")
