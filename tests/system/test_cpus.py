"""How many CPUs a process may use: affinity and container quotas, on made-up control groups."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import harmonax.system.cpus
from harmonax.system.cpus import available_cpus

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")


@pytest.fixture
def eight_cpus(monkeypatch):
    monkeypatch.setattr(harmonax.system.cpus.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("files", "membership", "cpus"),
    [
        ({}, "", 8),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 8),
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "10000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "nonsense\n"}, "0::/\n", 8),
        ({"slurm/cpu.max": "300000 100000\n", "slurm/job/cpu.max": "max 100000\n"}, "0::/slurm/job\n", 3),
        ({"slurm/cpu.max": "300000 100000\n", "other/cpu.max": "100000 100000\n"}, "0::/slurm/job\n", 3),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, "", 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "", 8),
        ({"cpu/a/cpu.cfs_quota_us": "500000", "cpu/a/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/a\n4:memory:/b", 5),
    ],
)
def test_quotas_bind(tmp_path, eight_cpus, files, membership, cpus):
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert available_cpus(tmp_path / "cgroup", tmp_path / "membership") == cpus


@linux
def test_affinity_binds():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from harmonax.system.cpus import available_cpus; print(available_cpus())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
