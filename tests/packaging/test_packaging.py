"""The files in packaging/: their versions, their syntax, and their command lines, which run on a small data set.

Nextflow, Galaxy, Snakemake and viash are not needed: what each would give to a shell is taken from its file.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import anndata
import numpy as np
import pytest

import harmonax
from harmonax.cli import cli, run

yaml = pytest.importorskip("yaml")

PROJECT = Path(__file__).resolve().parents[2]
PACKAGING = PROJECT / "packaging"
YAML = sorted(path for kind in ("*.yaml", "*.yml") for path in PACKAGING.rglob(kind))
MODULES = {path.parent.name: path for path in PACKAGING.glob("nf-core/modules/harmonax/*/main.nf")}
GALAXY = PACKAGING / "galaxy" / "harmonax.xml"
# What has a shell, with the options of harmonax in it.
SHELLS = [
    *MODULES.values(),
    GALAXY,
    PACKAGING / "snakemake" / "wrapper.py",
    PACKAGING / "snakemake" / "test" / "Snakefile",
]


def script(name: str) -> dict[str, object]:
    """Run a file of .ci or packaging for the names in it."""
    return runpy.run_path(str(PROJECT / name))


@pytest.mark.parametrize("path", YAML, ids=lambda p: p.relative_to(PACKAGING).as_posix())
def test_yaml_is_yaml(path):
    text = path.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict)


def test_the_version_is_the_same_everywhere():
    places = script(".ci/set_version.py")
    for name, before in places["PLACES"].items():
        text = (PROJECT / name).read_text(encoding="utf-8")
        found = re.findall(f"{before}({places['VERSION']})", text, re.MULTILINE)
        assert found == [harmonax.__version__], name


def test_setting_the_version(tmp_path):
    places = script(".ci/set_version.py")
    for name in (*places["PLACES"], "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    places["main"].__globals__["ROOT"] = tmp_path
    places["main"]("7.8.9")
    for name, before in places["PLACES"].items():
        assert re.search(f"{before}7.8.9", (tmp_path / name).read_text(encoding="utf-8"), re.MULTILINE), name
    assert re.search(
        r"## \[Unreleased\]\n\n## \[7\.8\.9\] - \d{4}-\d\d-\d\d\n", (tmp_path / "CHANGELOG.md").read_text()
    )
    with pytest.raises(SystemExit, match=r"is not X\.Y\.Z"):
        places["main"]("1.2")


def test_the_changelog_has_this_version():
    log = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(harmonax.__version__)}\] - \d{{4}}-\d\d-\d\d$", log, re.MULTILINE)


def options_of(command: str) -> set[str]:
    return {name for option in cli.commands[command].params for name in option.opts}


@pytest.mark.parametrize("path", SHELLS, ids=lambda p: p.relative_to(PACKAGING).as_posix())
def test_every_option_is_one_of_the_command_line(path):
    text = re.sub(r"--(version|help)\b", "", path.read_text(encoding="utf-8"))
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    commands = set(re.findall(r"harmonax (run|integrate|map) ", text)) or {"integrate"}
    assert used
    assert not used - set.union(*map(options_of, commands))


def test_the_conda_recipe_asks_for_what_the_project_does():
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = yaml.safe_load((PACKAGING / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    core, workflow = ({line.replace(" ", "") for line in part["requirements"]["run"]} for part in recipe["outputs"])
    names = {"matplotlib": "matplotlib-base", "igraph": "python-igraph"}

    def conda(requirements: list[str]) -> set[str]:
        parts = (re.fullmatch(r"([\w-]+)(.*)", requirement).groups() for requirement in requirements)
        return {names.get(name, name) + bounds for name, bounds in parts}

    assert core - {"python"} == conda(project["dependencies"])
    extras = project["optional-dependencies"]
    own = [requirement for requirement in extras["workflow"] if not requirement.startswith("harmonax")]
    asked = conda([*extras["workflow-permissive"], *own])
    assert {line for line in workflow if "pin_subpackage" not in line} == asked


def test_the_container_runs_as_another_user_and_takes_nothing_but_the_wheel():
    text = (PACKAGING / "container" / "Containerfile").read_text(encoding="utf-8")
    last = text.rpartition("FROM ")[2]
    assert re.search(r"^USER [1-9]\d*$", last, re.MULTILINE)
    assert re.findall(r"^COPY (?!--from)(\S+)", text, re.MULTILINE) == ["dist/*.whl"]
    assert (PROJECT / ".dockerignore").read_text(encoding="utf-8").split() == ["*", "!dist/*.whl"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """The folder with cells.h5ad and model.h5, as the tests of the workflow systems have them."""
    pytest.importorskip("scanpy")
    folder = tmp_path_factory.mktemp("cells")
    script("packaging/test_data.py")["write"](folder)
    return folder


def nextflow_commands(name: str, values: dict[str, str]) -> list[list[str]]:
    """Return the commands of a module's script, with `values` for what Groovy puts in."""
    body = MODULES[name].read_text(encoding="utf-8").partition("script:")[2].partition('"""')[2].partition('"""')[0]
    filled = re.sub(r"(?<!\\)\$\{([\w.]+)\}", lambda found: values[found[1]], body.partition("cat <<")[0])
    return [shlex.split(line) for line in filled.replace("\\\\\n", " ").splitlines() if line.strip()]


def test_a_nextflow_module_runs(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(cells)
    values = {"task.cpus": "1", "args": "", "prefix": str(tmp_path / "out"), "h5ad": "cells.h5ad"}
    own = {"integrate": {"batch_key": "batch"}, "map": {"model": "model.h5", "args": "--batch-key batch"}}
    for name, more in own.items():
        (command,) = nextflow_commands(name, values | more | {"prefix": str(tmp_path / name)})
        assert command[0] == "harmonax"
        assert run(command[1:]) == 0
        assert "X_pca_harmony" in anndata.read_h5ad(tmp_path / f"{name}.h5ad").obsm
    for name, outputs in {"integrate": ["integrate.h5ad", "integrate.h5ad.run.json"], "map": ["map.h5ad"]}.items():
        text = MODULES[name].read_text(encoding="utf-8")
        promised = re.findall(r'path\("\$\{prefix\}(\S*)"\)', text)
        assert [name + end for end in promised] == outputs
        assert all((tmp_path / output).exists() for output in outputs)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_nextflow_module_of_the_whole_job_runs(cells, tmp_path, monkeypatch):
    for module in ("igraph", "umap", "plotly"):
        pytest.importorskip(module)
    monkeypatch.chdir(cells)
    values = {"task.cpus": "1", "counts": "cells.h5ad", "prefix": str(tmp_path / "out"), "batch": "--batch-key batch"}
    args = "--n-comps 10 --n-top-genes 200 --skip leiden,markers,umap,umap_uncorrected,evaluate,diagnose"
    (command,) = nextflow_commands("run", values | {"args": args})
    assert run(command[1:]) == 0
    promised = re.findall(r'path\("\$\{prefix\}/(\S+)"\)', MODULES["run"].read_text(encoding="utf-8"))
    assert len(promised) == 5
    # A run without an evaluation has no table of it.
    assert {name for name in promised if not (tmp_path / "out" / name).exists()} <= {"metrics.tsv"}


@pytest.mark.parametrize("name", MODULES)
def test_a_nextflow_module_is_described_as_it_is(name):
    folder = MODULES[name].parent
    text = MODULES[name].read_text(encoding="utf-8")
    meta = yaml.safe_load((folder / "meta.yml").read_text(encoding="utf-8"))
    emitted = re.findall(r"emit: (\w+)", text)
    assert list(meta["output"]) == emitted
    inputs = re.findall(r"(?:path|val)\((\w+)\)|^    val (\w+)$", text.partition("output:")[0], re.MULTILINE)
    described = [
        key for entry in meta["input"] for part in (entry if isinstance(entry, list) else [entry]) for key in part
    ]
    assert [a or b for a, b in inputs] == described
    test = (folder / "tests" / "main.nf.test").read_text(encoding="utf-8")
    process = re.search(r"^process (\w+)", text)[1]
    assert f'process "{process}"' in test
    assert set(re.findall(r"process\.out\.(\w+)", test)) == set(emitted)


def test_the_galaxy_command_runs(cells, tmp_path, monkeypatch):
    text = ET.parse(GALAXY).getroot().findtext("command")
    line = text.partition("#if $job.task == 'integrate'")[2].partition("#else")[0]
    line += (
        text.partition("#end if\n    --batch-key")[2]
        .join(["    --batch-key", ""])
        .partition("#if $job.task == 'run'")[0]
    )
    line = re.sub(r"#if.*?#end if", "", line, flags=re.DOTALL)
    line = line.replace('"\\${GALAXY_SLOTS:-1}"', "1")
    values = {
        option.get("argument") or option.get("name"): option.get("value") for option in ET.parse(GALAXY).iter("param")
    }
    values = {(name or "").lstrip("-").replace("-", "_"): value for name, value in values.items()} | {
        "flavor": "harmony2"
    }
    line = re.sub(r"\$(?:job\.|parameters\.)?(\w+)", lambda found: values[found[1]], line)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input.h5ad").write_bytes((cells / "cells.h5ad").read_bytes())
    assert run(shlex.split(line)[1:]) == 0
    assert "X_pca_harmony" in anndata.read_h5ad(tmp_path / "corrected.h5ad").obsm
    assert (tmp_path / "run.json").exists()


def test_every_parameter_of_galaxy_is_used():
    root = ET.parse(GALAXY).getroot()
    command = root.findtext("command")
    names = [
        (option.get("name") or option.get("argument").lstrip("-").replace("-", "_"))
        for option in root.find("inputs").iter("param")
    ]
    assert not [name for name in names if not re.search(rf"\$(\w+\.)?{name}\b", command)]


def test_the_open_problems_component_runs(cells, tmp_path, monkeypatch):
    adata = anndata.read_h5ad(cells / "cells.h5ad")
    adata.uns |= {"dataset_id": "cells", "normalization_id": "log_cp10k"}
    adata.write_h5ad(tmp_path / "dataset.h5ad")
    reader = "import anndata\ndef read_anndata(path, **parts):\n    return anndata.read_h5ad(path)\n"
    (tmp_path / "read_anndata_partial.py").write_text(reader)
    text = (PACKAGING / "openproblems" / "script.py").read_text(encoding="utf-8")
    par = {"input": str(tmp_path / "dataset.h5ad"), "output": str(tmp_path / "output.h5ad"), "theta": 2.0}
    meta = {"name": "harmonax", "resources_dir": str(tmp_path), "cpus": None}
    before, after = text.partition("## VIASH START")[0], text.partition("## VIASH END")[2]
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(f"{before}par = {par!r}\nmeta = {meta!r}\n{after}", {"__name__": "__main__"})
    output = anndata.read_h5ad(tmp_path / "output.h5ad")
    assert output.obsm["X_emb"].shape == (300, 10)
    assert dict(output.uns) == {"dataset_id": "cells", "normalization_id": "log_cp10k", "method_id": "harmonax"}
    assert not np.array_equal(output.obsm["X_emb"], adata.obsm["X_pca"])
    arguments = yaml.safe_load((PACKAGING / "openproblems" / "config.vsh.yaml").read_text(encoding="utf-8"))[
        "arguments"
    ]
    assert {argument["name"].lstrip("-") for argument in arguments} == {"theta"}


class Shell:
    """What the wrapper's `shell` is given, formatted by Snakemake's rules: ``:q`` quotes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str, **_: object) -> None:
        self.lines.append(line)


def test_the_snakemake_wrapper_runs(cells, tmp_path, monkeypatch):
    from types import ModuleType, SimpleNamespace

    shell = Shell()
    module = ModuleType("snakemake.shell")
    module.shell = shell
    monkeypatch.setitem(sys.modules, "snakemake", ModuleType("snakemake"))
    monkeypatch.setitem(sys.modules, "snakemake.shell", module)

    class Files(dict):
        __getattr__ = dict.__getitem__

    job = SimpleNamespace(
        input=str(cells / "cells.h5ad"),
        output=Files(corrected=str(tmp_path / "out.h5ad"), record=str(tmp_path / "out.json")),
        params=Files(batch_key="batch", extra="--theta 1"),
        threads=1,
        log_fmt_shell=lambda **_: "",
    )
    source = (PACKAGING / "snakemake" / "wrapper.py").read_text(encoding="utf-8")
    names: dict[str, object] = {"snakemake": job}
    exec(source, names)
    (line,) = shell.lines
    line = re.sub(r"\{([\w.]+)(:q)?\}", lambda found: str(eval(found[1], names)), line)
    assert run(shlex.split(line)[1:]) == 0
    assert "X_pca_harmony" in anndata.read_h5ad(tmp_path / "out.h5ad").obsm
    assert (tmp_path / "out.json").exists()
