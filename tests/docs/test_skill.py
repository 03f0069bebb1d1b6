"""SKILL.md, which is installed with the package: every command in it runs, and its words are those of the program."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_recipes import blocks, run_page

import harmonax
from harmonax.cli import cli, run
from harmonax.evaluation.verdict import _HEADLINES, _OF_DIAGNOSIS

SKILL = Path(harmonax.__file__).with_name("SKILL.md")
TEXT = SKILL.read_text(encoding="utf-8")


def test_the_command_prints_its_path(capsys):
    assert run(["skill"]) == 0
    assert Path(capsys.readouterr().out.strip()) == SKILL


def test_it_is_of_this_version():
    assert f"\nVersion: {harmonax.__version__}\n" in TEXT


def test_it_names_every_verdict_of_a_diagnosis():
    table = TEXT.partition("| verdict of the diagnosis |")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(_OF_DIAGNOSIS)


def test_it_names_every_overall_verdict():
    said = TEXT.partition("verdicts.overall.verdict")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", said)) == set(_HEADLINES)


def test_every_option_in_its_text_exists():
    known = {name for command in cli.commands.values() for option in command.params for name in option.opts}
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    assert not used - known - {"--version", "--help"}


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_command_runs(tmp_path, monkeypatch):
    for module in ("igraph", "umap", "plotly", "scib_metrics"):
        pytest.importorskip(module)
    import scanpy as sc

    cells = harmonax.datasets.simulate(800, np.random.default_rng(0))
    new = np.arange(800) % 4 == 0
    cells[new].copy().write_h5ad(tmp_path / "new.h5ad")
    cells = cells[~new].copy()
    cells.layers["counts"] = cells.X.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=20)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    run_page(SKILL)
    assert {line.split()[1] for kind, body, _ in blocks(TEXT) if kind == "sh" for line in body.splitlines()} == {
        *("check", "run", "integrate", "diagnose", "evaluate", "sweep", "map", "report")
    }
    assert json.loads(Path("check.json").read_text())["verdict"] in {"needed", "not_needed"}
    assert json.loads(Path("diagnosis.json").read_text())["verdict"] in _OF_DIAGNOSIS
    assert json.loads(Path("results/run.json").read_text())["verdicts"]["overall"]["verdict"] in _HEADLINES
    assert all(Path(name).stat().st_size for name in ("results/report.html", "corrected.html", "metrics.tsv"))
