"""The command line: what reaches the method, what is printed where, and the exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sampling import first

import harmonax
from harmonax import HarmonyParams
from harmonax.cli import cli, run
from harmonax.cli.integrate import integrate
from harmonax.cli.terminal import signals
from harmonax.io.annotated import quiet

MAIN = [sys.executable, "-c", "from harmonax.cli import main; main()"]
# Stands still in the middle of writing, and says so.
WRITING = """
import time, harmonax.io.sink as sink
def stand(*_):
    print("writing", flush=True)
    time.sleep(60)
sink._add = stand
from harmonax.cli import main
main()
"""
posix = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")


@pytest.fixture
def files(adata: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with in.h5ad."""
    monkeypatch.chdir(tmp_path)
    with quiet():
        adata.write_h5ad("in.h5ad")
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What reached the method, which is run as well."""
    seen: dict[str, Any] = {}
    real = harmonax.harmonize

    def harmonize(Z: np.ndarray, design: Any, params: HarmonyParams, **how: Any) -> harmonax.HarmonyResult:
        seen.update(Z=Z, design=design, params=params, how=how)
        return real(Z, design, params, **{**how, "backend": "dense"})

    monkeypatch.setattr("harmonax.files.harmonize", harmonize)
    return seen


def call(*arguments: str) -> int:
    return run(["integrate", "in.h5ad", "-o", "out.h5ad", "--batch-key", "batch", "--backend", "dense", *arguments])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed: one line on stderr."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("harmonax: error: ")
    return err


# ---- options ----------------------------------------------------------------------------------------------------


def test_defaults(files, asked, capsys):
    assert run(["integrate", "in.h5ad", "-o", "out.h5ad", "--batch-key", "batch"]) == 0
    assert asked["params"] == HarmonyParams()
    assert asked["params"].max_iter_harmony == 50
    beside = Path.cwd().resolve()
    assert asked["how"] == {
        **{"rng": 0, "n_threads": None, "dtype": None, "backend": "auto", "progress": None},
        **{"max_memory": None, "checkpoint": None, "scratch": beside, "out": "lazy"},
        **{"reference": None, "protect": None, "covariates": None},
    }
    with h5py.File("out.h5ad") as file:
        assert file["obsm/X_pca_harmony"].dtype == np.float32
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    assert "wrote out.h5ad" in err


OPTIONS = {
    "--flavor harmony1": {"flavor": "harmony1", "ridge": "fixed"},
    "--theta 2,1": {"theta": (2.0, 1.0)},
    "--theta 0": {"theta": 0.0},
    "--sigma 0.2": {"sigma": 0.2},
    "--tau 5": {"tau": 5.0},
    "--ridge fixed": {"ridge": "fixed"},
    "--ridge-lambda 3,4": {"ridge_lambda": (3.0, 4.0), "ridge": "fixed"},
    "--ridge-lambda 1": {"ridge_lambda": 1.0, "ridge": "fixed"},
    "--alpha 0.5": {"alpha": 0.5},
    "--batch-prune-threshold 0.01": {"batch_prune_threshold": 0.01},
    "--batch-prune-threshold none": {"batch_prune_threshold": None},
    "--n-clusters 7": {"n_clusters": 7},
    "--max-iter-harmony 3": {"max_iter_harmony": 3},
    "--max-iter-clustering 5": {"max_iter_clustering": 5},
    "--tol-harmony 0.1": {"tol_harmony": 0.1},
    "--tol-clustering 0.2": {"tol_clustering": 0.2},
    "--block-proportion 0.1": {"block_proportion": 0.1},
    "--correction-method original": {"correction_method": "original"},
    "--precision float64": {"precision": "float64"},
}


def test_what_stays_reaches_the_run(files, asked):
    levels = anndata.read_h5ad("in.h5ad").obs["batch"].unique().tolist()
    options = ["--reference", f"batch={levels[0]}", "--protect", "donor", "--overwrite"]
    assert run(["integrate", "in.h5ad", "-o", "out.h5ad", "--batch-key", "batch", *options]) == 0
    assert asked["how"]["reference"] == {"batch": [str(levels[0])]}
    assert asked["how"]["protect"].variables == ("donor",)


def test_every_parameter_is_tested():
    assert {f.name for f in dataclasses.fields(HarmonyParams)} == {name for given in OPTIONS.values() for name in given}


@pytest.mark.parametrize("option", OPTIONS)
def test_parameters_reach_the_method(files, asked, option):
    assert call("--batch-key", "donor", "--max-iter-harmony", "1", *option.split()) == 0
    given = {"max_iter_harmony": 1} | OPTIONS[option]
    assert asked["params"] == HarmonyParams(**given)


def test_other_options_reach_their_place(files, asked):
    with h5py.File("in.h5ad", "r+") as file:
        file["obsm"].move("X_pca", "other")
    options = "--basis other --adjusted-basis mine --seed 5 --threads 1 --dtype float64 --combine-keys"
    assert call(*options.split(), "--batch-key", "donor", "--run-json", "r.json", "--max-iter-harmony", "1") == 0
    assert asked["how"]["rng"] == 5
    assert asked["how"]["n_threads"] == 1
    assert asked["design"].variables == ("batch+donor",)
    with h5py.File("out.h5ad") as file:
        assert file["obsm/mine"].dtype == np.float64
    assert json.loads(Path("r.json").read_text())["seed"] == 5
    assert not Path("out.h5ad.run.json").exists()


@pytest.mark.parametrize("keys", [["--batch-key", "donor,batch"], ["--batch-key", "donor", "--batch-key", "batch"]])
def test_several_batch_columns(files, asked, keys):
    assert run(["integrate", "in.h5ad", "-o", "o.npy", "--max-iter-harmony", "1", *keys]) == 0
    assert asked["design"].variables == ("donor", "batch")


def test_help_names_the_defaults_and_every_option():
    text = " ".join(CliRunner().invoke(cli, ["integrate", "--help"]).output.split())
    options = [o for o in integrate.params if o.param_type_name == "option"]
    for option in options:
        assert f"{option.opts[-1]} " in text
        assert option.help  # type: ignore[attr-defined]
    for shown in (
        "Maximum number of rounds. [default: 50]",
        "1e-05]",
        "[default: 0.0001]",
        "[default: harmony2]",
        "[default: 2]",
    ):
        assert shown in text


def test_version(capsys):
    assert run(["--version"]) == 0
    assert harmonax.__version__ in capsys.readouterr().out


# ---- configuration files ----------------------------------------------------------------------------------------


def test_config_gives_defaults_and_the_command_line_wins(files, asked):
    Path("run.toml").write_text(
        'batch-key = ["batch", "donor"]\ntheta = [2, 1]\nmax_iter_harmony = 7\nseed = 3\nquiet = true\n'
        'output = "out.npy"\nridge-lambda = 1\nmissing = "level"\n'
    )
    assert run(["integrate", "in.h5ad", "--config", "run.toml", "--seed", "4", "--max-iter-harmony", "2"]) == 0
    assert asked["params"] == HarmonyParams(theta=(2, 1), max_iter_harmony=2, ridge="fixed")
    assert asked["how"]["rng"] == 4
    assert asked["design"].variables == ("batch", "donor")
    assert Path("out.npy").exists()


def test_names_with_commas_in_a_config(files, asked, adata):
    adata.obs["donor, first"] = adata.obs["donor"]
    with quiet():
        adata.write_h5ad("in.h5ad")
    Path("run.toml").write_text('batch-key = ["donor, first"]\n')
    assert run(["integrate", "in.h5ad", "-o", "o.npy", "--config", "run.toml", "--max-iter-harmony", "1"]) == 0
    assert asked["design"].variables == ("donor, first",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("thetta = 1", "unknown option 'thetta'; did you mean 'theta'?"),
        ("theta = ", "is not TOML"),
        ("[integrate]\ntheta = 1", "unknown option 'integrate'"),
        ("theta = {a = 1}", "'theta' is a table"),
        ("quiet = 1", "'quiet' must be true or false"),
        ("seed = true", "'seed' must be a value"),
        ("seed = [1, 2]", "'seed' takes one value"),
        ("seed = 'x'", "'x' is not a valid integer"),
        ("tol-harmony = 1\ntol_harmony = 2", "given twice"),
        ("config = 'other.toml'", "unknown option 'config'"),
        ("flavor = 'harmony3'", "'harmony3' is not one of"),
    ],
)
def test_bad_config(files, capsys, text, says):
    Path("run.toml").write_text(text)
    assert call("--config", "run.toml") == 2
    assert says in capsys.readouterr().err
    assert not Path("out.h5ad").exists()


def test_missing_config(files, capsys):
    assert call("--config", "none.toml") == 2
    assert "none.toml: no such file" in capsys.readouterr().err


def test_the_config_is_not_written_over(files, capsys):
    Path("run.toml").write_text("seed = 1")
    assert call("--config", "run.toml", "--run-json", "run.toml", "--overwrite") == 3
    assert "is the input run.toml" in error_of(capsys)


# ---- exit codes and messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["integrate", "in.h5ad", "-o", "out.h5ad"],
        ["integrate", "in.h5ad", "--batch-key", "batch"],
        ["integrate", "--batch-key", "batch"],
        ["integrate", "in.h5ad", "-o", "o.h5ad", "--batch-key", "batch", "--thetta", "2"],
        ["integrate", "in.h5ad", "-o", "o.h5ad", "--batch-key", "batch", "--theta", "two"],
        ["integrate", "in.h5ad", "-o", "o.h5ad", "--batch-key", "batch,,donor"],
        ["integrate", "in.h5ad", "-o", "o.h5ad", "--batch-key", "batch", "--flavor", "harmony3"],
        ["integrate", "in.h5ad", "-o", "o.h5ad", "--batch-key", "batch", "--threads", "0"],
        ["integrate", "in.h5ad", "-o", "o.h5ad", "--batch-key", "batch", "--batch-prune-threshold", "few"],
        ["integrate", "in.h5ad", "-o", "o.h5ad", "--batch-key", "batch", "--quiet", "--verbose"],
        ["integrat"],
    ],
)
def test_usage(files, capsys, arguments):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Error: " in err
    assert os.listdir() == ["in.h5ad"]


BAD = {
    "--batch-key bacth": "obs has no column 'bacth'; did you mean 'batch'?",
    "--batch-key batch": "'batch' is named more than once",
    "--basis X_pac": "obsm has no basis 'X_pac'; did you mean 'X_pca'?",
    "--theta 1,2,3,4": "theta has 4 values; allowed are 1, one per batch variable (1) or one per level",
    "--theta -1": "theta=-1.0 must be a number from 0 to 1e+10",
    "--sigma nan": "sigma=nan must be a number greater than 0 and at most 1e+10",
    "--n-clusters 1000": "n_clusters=1000 is more than the 180 cells",
    "--max-iter-harmony 0": "max_iter_harmony=0 must be a whole number of at least 1",
    "--block-proportion 2": "block_proportion=2.0 must be a number greater than 0 and at most 1",
    "--metadata m.csv": "has its own obs",
    "-o none/out.h5ad": "there is no directory",
    "-o in.h5ad": "is the input in.h5ad",
    "-o out.loom": "allowed are .h5ad, .zarr",
    "--flavor harmony1 --ridge dynamic": "ridge='dynamic' belongs to harmony2",
}


@pytest.mark.parametrize("options", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(files, capsys, options):
    assert call(*options.split()) == 3
    assert BAD[options] in error_of(capsys)
    assert os.listdir() == ["in.h5ad"]


def change(adata: anndata.AnnData, name: str) -> None:
    n = adata.n_obs
    if name == "nan":
        adata.obsm["X_pca"][3:5, 1] = np.nan
    elif name == "infinite":
        adata.obsm["X_pca"][3, 1] = np.inf
    elif name == "missing":
        adata.obs["batch"] = adata.obs["batch"].where(np.arange(n) != 2)
    elif name == "measurement":
        adata.obs["batch"] = np.arange(n) / 7
    elif name == "barcode":
        adata.obs["batch"] = [f"AAC-{i}" for i in range(n)]
    elif name == "text":
        adata.obsm["X_pca"] = pd.DataFrame({"a": ["x"] * n, "b": ["y"] * n}, index=adata.obs_names)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nan", "in.h5ad has NaN or infinite values in 2 cells (first: cell 'cell"),
        ("infinite", "in.h5ad has NaN or infinite values in 1 cells (first: cell 'cell"),
        ("missing", "obs['batch'] has 1 missing values (first: cell 'cell"),
        ("measurement", "looks like a measurement; if these really are batches, pass allow_many_levels=True"),
        ("barcode", "looks like a cell barcode"),
        ("text", "real numbers"),
    ],
)
def test_bad_data(files, capsys, adata, name, says):
    change(adata, name)
    with quiet():
        adata.write_h5ad("in.h5ad")
    assert call() == 3
    assert says in error_of(capsys)
    assert os.listdir() == ["in.h5ad"]


@pytest.mark.parametrize(
    ("name", "option"), [("missing", ["--missing", "level"]), ("barcode", ["--allow-many-levels"])]
)
def test_insisting(files, adata, asked, name, option):
    change(adata, name)
    with quiet():
        adata.write_h5ad("in.h5ad")
    assert call("--max-iter-harmony", "1", *option) == 0
    assert asked["design"].n_joint == {"missing": 4, "barcode": 180}[name]


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_cells(files, capsys, adata, n):
    with quiet():
        adata[:n].copy().write_h5ad("in.h5ad")
    assert call() == 3
    assert f"has {n} cells; at least 2 are needed" in error_of(capsys)


def test_truncated_file(files, capsys):
    os.truncate("in.h5ad", 20000)
    assert call() == 3
    assert "in.h5ad is not a readable .h5ad file: truncated or corrupt?" in error_of(capsys)


def test_one_batch_warns_and_returns_the_input(files, capsys, adata):
    adata.obs["one"] = "x"
    with quiet():
        adata.write_h5ad("in.h5ad")
    assert run(["integrate", "in.h5ad", "-o", "out.npy", "--batch-key", "one", "--strict"]) == 0
    assert "harmonax: warning: one: every cell has the same batch" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load("out.npy"), adata.obsm["X_pca"])


def test_strict(files, capsys):
    assert call("--strict", "--max-iter-harmony", "1", "--quiet") == 4
    assert "max_iterations after 1 round" in error_of(capsys)
    assert {"out.h5ad", "out.h5ad.run.json"} < set(os.listdir())
    assert call("--strict", "--tol-harmony", "1", "--overwrite") == 0


def test_quiet_and_verbose(files, capsys):
    assert call("--quiet", "--max-iter-harmony", "1") == 0
    assert capsys.readouterr() == ("", "")
    assert call("--max-iter-harmony", "1", "--overwrite") == 0
    plain = capsys.readouterr().err
    assert "harmonax: warning: harmony: max_iterations after 1 round" in plain
    assert call("--verbose", "--max-iter-harmony", "1", "--overwrite") == 0
    verbose = capsys.readouterr().err
    assert "read 180 cells x 6 features; batch: 3 levels" in verbose
    assert len(verbose.splitlines()) > len(plain.splitlines())


def test_a_parameter_without_effect_warns(files, capsys):
    assert call("--flavor", "harmony1", "--alpha", "0.7", "--max-iter-harmony", "1") == 0
    assert "harmonax: warning: alpha has no effect with flavor='harmony1'" in capsys.readouterr().err


def test_a_fault_of_ours_is_one_line_too(files, capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("harmonax.files.harmonize", fail)
    assert call() == 1
    assert "internal error: ZeroDivisionError: oh; --verbose shows where" in error_of(capsys)
    with pytest.raises(ZeroDivisionError):
        call("--verbose")


def test_the_file_in_python_and_on_the_command_line_agree(files, adata):
    assert call("--max-iter-harmony", "2", "--seed", "3") == 0
    params = HarmonyParams(max_iter_harmony=2)
    direct = harmonax.harmonize(adata.obsm["X_pca"], adata.obs["batch"], params, rng=3, backend="dense")
    with h5py.File("out.h5ad") as file:
        np.testing.assert_array_equal(file["obsm/X_pca_harmony"][:], direct.embedding)


def test_demo_is_handed_its_options(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr("harmonax.demo.run_demo", lambda *a, **k: seen.update(k, out=a[0]))
    assert run(["demo", "-o", str(tmp_path), "--seed", "2", "--quiet", "--cells", "500"]) == 0
    assert seen == {"out": str(tmp_path), "seed": 2, "quiet": True, "n_cells": 500}


# ---- as its own process -----------------------------------------------------------------------------------------

ARGUMENTS = [
    "integrate",
    "in.h5ad",
    "-o",
    "out.h5ad",
    "--batch-key",
    "batch",
    "--max-iter-harmony",
    "1",
    "--backend",
    "dense",
    "--quiet",
]


def test_process(files):
    arguments = [*ARGUMENTS, "--backend", "auto"]
    done = subprocess.run([*MAIN, *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(os.listdir()) == ["in.h5ad", "out.h5ad", "out.h5ad.run.json"]


@pytest.mark.thorough
@posix
def test_progress_is_shown_on_a_terminal_only(files):
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    arguments = [*MAIN, *ARGUMENTS[:-1], "--run-json"]
    piped = subprocess.run([*arguments, "r1.json"], capture_output=True, timeout=600, check=True)
    assert b"after 1 round" in piped.stderr
    assert b"\r" not in piped.stderr
    reader, writer = pty.openpty()
    subprocess.run([*arguments, "r2.json", "--overwrite"], stderr=writer, timeout=600, check=True)
    assert b"\rharmony [" in os.read(reader, 100_000)
    os.close(reader)
    os.close(writer)


def started(program: list[str]) -> subprocess.Popen[str]:
    """Start a program that heeds Ctrl-C, also where the tests run in the background and inherit that it is ignored."""
    # Not by preexec_fn, which runs after a fork: JAX, which other tests have loaded here, warns of one.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", heed, *program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def begun(arguments: list[str]) -> subprocess.Popen[str]:
    """Start the program and return when it stands in the middle of writing."""
    program = [sys.executable, "-c", WRITING, *arguments]
    process = started(program)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


@posix
@pytest.mark.parametrize(("number", "code"), first(1, [("SIGINT", 130), ("SIGTERM", 143)], names=2))
def test_stopped_while_writing(files, number, code):
    process = begun(ARGUMENTS)
    assert any(name.endswith(".part") for name in os.listdir())
    process.send_signal(getattr(signal, number))
    _, err = process.communicate(timeout=600)
    assert process.returncode == code
    assert "Traceback" not in err
    assert os.listdir() == ["in.h5ad"]


@posix
def test_killed_while_writing_leaves_the_old_result(files):
    Path("out.h5ad").write_bytes(b"the old result")
    Path("out.h5ad.run.json").write_bytes(b"the old record")
    process = begun([*ARGUMENTS, "--overwrite"])
    process.kill()
    process.communicate(timeout=600)
    assert Path("out.h5ad").read_bytes() == b"the old result"
    assert Path("out.h5ad.run.json").read_bytes() == b"the old record"


@posix
def test_stopped_while_computing(files):
    gen = np.random.default_rng(0)
    np.save("Z.npy", gen.normal(size=(40_000, 30)).astype(np.float32))
    pd.DataFrame({"batch": gen.choice(list("abc"), 40_000)}).to_csv("m.csv", index=False)
    endless = (
        "--metadata m.csv --tol-harmony 0 --tol-clustering 0 --max-iter-harmony 1000000 --verbose --batch-key batch"
    )
    process = started([*MAIN, "integrate", "Z.npy", "-o", "out.npy", *endless.split()])
    try:
        assert process.stderr is not None
        assert "read 40000 cells" in process.stderr.readline()
        # Until the kernels are at work.
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "harmonax: error: interrupted; nothing was written"
    assert sorted(os.listdir()) == ["Z.npy", "in.h5ad", "m.csv"]


@pytest.mark.thorough
@posix
@pytest.mark.parametrize(
    ("output", "limit"), [("out.h5ad", 10_000), ("out.h5ad", 0), ("out.npy", 1000), ("out.zarr", 1000)]
)
def test_full_disk(files, output, limit):
    """A limit on the size of files stops writing in the middle, as a full disk does; 0: a little above the input's."""
    limit = limit or os.path.getsize("in.h5ad") + 500
    program = f"""
import resource, harmonax.io.convert
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from harmonax.cli import main
main()
"""
    arguments = [output if a == "out.h5ad" else a for a in ARGUMENTS]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "the disk is full: " in done.stderr
    assert " are needed, " in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir() == ["in.h5ad"]


@posix
def test_signals_that_are_ignored_stay_ignored():
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_relative_output_in_another_directory(files):
    os.mkdir("sub")
    assert call("-o", "sub/out.csv.gz", "--max-iter-harmony", "1") == 0
    assert sorted(os.listdir("sub")) == ["out.csv.gz", "out.csv.gz.run.json"]
    shutil.rmtree("sub")
