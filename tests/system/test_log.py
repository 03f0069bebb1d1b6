"""What is said about a run, and what scanpy's settings have to say about it."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest

from harmonax.pp import harmony_integrate
from harmonax.system.log import chosen_threads


@pytest.fixture
def scanpy(monkeypatch):
    """A stand-in for a loaded scanpy up to 1.12, with what its own logger was given."""
    said = []
    module = SimpleNamespace(
        settings=SimpleNamespace(verbosity=1, n_jobs=1), logging=SimpleNamespace(info=said.append), said=said
    )
    monkeypatch.setitem(sys.modules, "scanpy", module)
    return module


def levels(caplog):
    return [record.levelno for record in caplog.records if record.name == "harmonax"]


def test_one_line_says_how_a_run_ended(adata, caplog):
    caplog.set_level(logging.INFO, "harmonax")
    harmony_integrate(adata, "batch", max_iter_harmony=50, rng=0)
    harmony_integrate(adata, "batch", max_iter_harmony=1, rng=0)
    assert levels(caplog) == [logging.INFO, logging.WARNING]
    assert caplog.messages[0].startswith("harmony: converged after ")
    assert "max_iterations after 1 round (" in caplog.messages[1]
    assert "raise max_iter_harmony" in caplog.messages[1]


@pytest.mark.parametrize(("verbose", "n_lines"), [(True, 1), (False, 0), (0, 0)])
def test_verbose_says_it_or_not(adata, caplog, verbose, n_lines):
    caplog.set_level(logging.INFO, "harmonax")
    harmony_integrate(adata, "batch", max_iter_harmony=1, rng=0, verbose=verbose)
    assert len(levels(caplog)) == n_lines


@pytest.mark.parametrize(
    ("verbosity", "shown"), [(0, []), (1, [logging.WARNING]), (2, [logging.INFO, logging.WARNING])]
)
def test_scanpys_verbosity_decides_what_is_logged(adata, caplog, scanpy, verbosity, shown):
    caplog.set_level(logging.INFO)
    scanpy.settings.verbosity = verbosity
    harmony_integrate(adata, "batch", max_iter_harmony=50, rng=0)
    harmony_integrate(adata, "batch", max_iter_harmony=1, rng=0)
    assert levels(caplog) == shown
    assert scanpy.said == []


def test_information_that_logging_would_drop_goes_where_scanpys_goes(adata, caplog, scanpy):
    scanpy.settings.verbosity = 2
    harmony_integrate(adata, "batch", max_iter_harmony=50, rng=0)
    assert levels(caplog) == []
    assert len(scanpy.said) == 1
    assert "converged" in scanpy.said[0]


def test_the_loggers_own_level_wins_over_scanpys(adata, caplog, scanpy):
    caplog.set_level(logging.INFO, "harmonax")
    scanpy.settings.verbosity = 0
    harmony_integrate(adata, "batch", max_iter_harmony=50, rng=0)
    assert levels(caplog) == [logging.INFO]


@pytest.mark.parametrize(("n_jobs", "threads"), [(1, None), (3, 3), (-1, None)])
def test_scanpys_n_jobs_up_to_1_12(scanpy, n_jobs, threads):
    scanpy.settings.n_jobs = n_jobs
    assert chosen_threads() == threads


@pytest.mark.parametrize(
    ("was_set", "n_jobs", "threads"), [(set(), 4, None), ({"n_jobs"}, 1, 1), ({"n_jobs"}, -1, None)]
)
def test_scanpys_n_jobs_since_1_13(scanpy, was_set, n_jobs, threads):
    scanpy.settings = SimpleNamespace(n_jobs=n_jobs, model_fields_set=was_set)
    assert chosen_threads() == threads


def test_n_jobs_is_the_default_and_only_that(adata, scanpy):
    assert chosen_threads() is None
    scanpy.settings.n_jobs = 3
    harmony_integrate(adata, "batch", rng=0, max_iter_harmony=1)
    assert adata.uns["harmonax"]["backend"]["n_threads"] == 3
    harmony_integrate(adata, "batch", rng=0, max_iter_harmony=1, n_threads=2)
    assert adata.uns["harmonax"]["backend"]["n_threads"] == 2
    harmony_integrate(adata, "batch", rng=0, max_iter_harmony=1, ncores=1)
    assert adata.uns["harmonax"]["backend"]["n_threads"] == 1


def test_without_scanpy_nothing_is_chosen(monkeypatch):
    monkeypatch.delitem(sys.modules, "scanpy", raising=False)
    assert chosen_threads() is None
    assert "scanpy" not in sys.modules
