"""Ten minutes of benchmarks/soak.py: what a process holds stays as it is over runs of every kind, some interrupted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what a process holds is read from /proc")
def test_a_process_holds_no_more_after_many_runs():
    pytest.importorskip("distributed")
    command = [sys.executable, str(PROJECT / "benchmarks" / "soak.py"), "--runs", "150", "--hours", str(1 / 6)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "'interrupted'" in done.stdout
