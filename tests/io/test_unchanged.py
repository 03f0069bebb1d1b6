"""An input that changes while it is in use, what is no file, and what killed and simultaneous runs leave."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from harmonax import cli, files, io
from harmonax.errors import InputError, OutputError
from harmonax.files import integrate as front
from harmonax.files import map as mapping
from harmonax.io import staging
from harmonax.io.annotated import quiet

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
posix = pytest.mark.skipif(os.name != "posix", reason="needs kill -9")


def replaced(path: Path) -> None:
    """Put another file in the place of one, of the same size and time."""
    facts = path.stat()
    shutil.copy(path, path.with_name("other"))
    os.replace(path.with_name("other"), path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def edited(path: Path) -> None:
    """Change one byte in the middle of a file."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        value = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([value ^ 1]))
    os.utime(path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def removed(path: Path) -> None:
    path.unlink()


def a_chunk(store: Path) -> Path:
    """Return a file of a Zarr store with values of the embedding in it."""
    return max((p for p in (store / "obsm").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.fixture
def source(adata, tmp_path) -> Path:
    adata.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def meanwhile(monkeypatch, module, name, change):
    """Let something happen after a function of a module has ended."""
    work = getattr(module, name)

    def and_then(*args, **kwargs):
        result = work(*args, **kwargs)
        change()
        return result

    monkeypatch.setattr(module, name, and_then)


@pytest.mark.parametrize("change", [replaced, edited, cut, removed])
@pytest.mark.parametrize("out", ["out.h5ad", "out.npy"])
def test_an_input_that_changes_gives_no_result(source, tmp_path, monkeypatch, capsys, change, out):
    meanwhile(monkeypatch, files, "harmonize", lambda: change(source))
    assert cli.run(["integrate", str(source), "-o", str(tmp_path / out), "--batch-key", "batch"]) == 3
    assert str(source) in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"in.h5ad"}


def test_also_one_of_several_and_the_metadata(adata, tmp_path, monkeypatch):
    for name in ("a.h5ad", "b.h5ad"):
        adata.write_h5ad(tmp_path / name)
    np.save(tmp_path / "Z.npy", adata.obsm["X_pca"])
    adata.obs.to_csv(tmp_path / "table.csv")
    changing = tmp_path / "b.h5ad"
    meanwhile(monkeypatch, files, "harmonize", lambda: os.utime(changing))
    job = front.FileJob([str(tmp_path / "a.h5ad"), str(changing)], str(tmp_path / "o.h5ad"), ["batch"])
    with pytest.raises(InputError, match=r"b.h5ad was changed"):
        front.integrate_file(job, rng=0)
    changing = tmp_path / "table.csv"
    job = front.FileJob(str(tmp_path / "Z.npy"), str(tmp_path / "o.npy"), ["batch"], metadata=str(changing))
    with pytest.raises(InputError, match=r"table.csv was changed"):
        front.integrate_file(job, rng=0)


def test_a_store_is_all_its_files(adata, tmp_path, monkeypatch):
    pytest.importorskip("zarr")
    with quiet():
        adata.write_zarr(store := tmp_path / "in.zarr")
    job = front.FileJob(str(store), str(tmp_path / "out.zarr"), ["batch"])
    front.integrate_file(job, rng=0)
    meanwhile(monkeypatch, files, "harmonize", lambda: os.utime(a_chunk(store)))
    job = front.FileJob(str(store), str(tmp_path / "other.zarr"), ["batch"], run_json=str(tmp_path / "other.json"))
    with pytest.raises(InputError, match=r"in.zarr was changed"):
        front.integrate_file(job, rng=0)


def test_mapped_cells_and_their_model(adata, source, tmp_path, monkeypatch):
    model = tmp_path / "model.h5"
    job = front.FileJob(str(source), str(tmp_path / "o.h5ad"), ["batch"], save_model=str(model))
    front.integrate_file(job, rng=0)
    for changing in (source, model):
        with monkeypatch.context() as patch:
            meanwhile(patch, mapping, "map_cells", lambda changing=changing: replaced(changing))
            arguments = ["map", str(source), "--model", str(model), "-o", str(tmp_path / "m.h5ad"), "--basis", "X_pca"]
            assert cli.run([*arguments, "--batch-key", "batch"]) == 3
        assert not (tmp_path / "m.h5ad").exists()


def test_what_only_looks_notices_too(source, tmp_path, monkeypatch, capsys):
    meanwhile(monkeypatch, io, "read_parts", lambda: replaced(source))
    assert cli.run(["check", str(source), "--batch-key", "batch"]) == 3
    assert "in.h5ad was changed" in capsys.readouterr().err


def test_a_run_notices(tmp_path, monkeypatch, capsys):
    for name in ("scanpy", "igraph"):
        pytest.importorskip(name, reason="needs harmonax[workflow]")
    from harmonax.workflow import inputs

    gen = np.random.default_rng(0)
    counts = scipy.sparse.csr_matrix(gen.poisson(1.0, (120, 40)).astype(np.float32))
    adata = anndata.AnnData(counts, obs={"batch": np.repeat(["a", "b"], 60)})
    adata.write_h5ad(source := tmp_path / "in.h5ad")
    meanwhile(monkeypatch, inputs, "read_inputs", lambda: replaced(source))
    assert cli.run(["run", str(source), "-o", str(tmp_path / "out"), "--batch-key", "batch"]) == 3
    assert "in.h5ad was changed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]


def test_a_page_notices(adata, source, tmp_path, monkeypatch):
    for name in ("plotly", "jinja2"):
        pytest.importorskip(name, reason="needs harmonax[workflow]")
    from harmonax.report import write

    meanwhile(monkeypatch, write, "parts_of", lambda: replaced(source))
    with pytest.raises(InputError, match=r"in.h5ad was changed"):
        write.write_report(str(source), tmp_path / "report.html")


# ---- what is no file ---------------------------------------------------------------------------------------------


@pipes
@pytest.mark.parametrize("name", ["in.h5ad", "in.csv", "in.npy", "in.parquet", "in.h5"])
def test_a_pipe_is_no_input(name, tmp_path, capsys):
    os.mkfifo(pipe := tmp_path / name)
    command = ["run", str(pipe), "-o", str(tmp_path / "out"), "--batch-key", "batch"]
    if name != "in.h5":
        command = ["integrate", str(pipe), "-o", str(tmp_path / "out.npy"), "--batch-key", "batch"]
        command += [] if name == "in.h5ad" else ["--metadata", str(pipe.with_name("table.csv"))]
        pd.DataFrame({"batch": ["a", "b"]}).to_csv(tmp_path / "table.csv")
    if name == "in.parquet":
        pytest.importorskip("pyarrow")
    assert cli.run(command) == 3
    assert "is a pipe" in capsys.readouterr().err


@pipes
@pytest.mark.parametrize("place", ["out.h5ad", "out.h5ad.run.json", "config.toml"])
def test_a_pipe_is_no_output_no_record_and_no_configuration(place, source, tmp_path, capsys):
    os.mkfifo(tmp_path / place)
    command = ["integrate", str(source), "-o", str(tmp_path / "out.h5ad"), "--batch-key", "batch", "--overwrite"]
    command += ["--config", str(tmp_path / place)] if place == "config.toml" else []
    assert cli.run(command) in (2, 3, 4)
    assert f"{place} is a pipe" in capsys.readouterr().err
    assert not (tmp_path / place).is_file()


def test_a_link_to_itself_is_neither(source, tmp_path, capsys):
    loop = tmp_path / "loop.h5ad"
    loop.symlink_to(loop)
    assert cli.run(["integrate", str(loop), "-o", str(tmp_path / "o.h5ad"), "--batch-key", "batch"]) == 3
    assert cli.run(["integrate", str(source), "-o", str(loop), "--batch-key", "batch", "--overwrite"]) == 3
    assert "leads to itself" in capsys.readouterr().err
    assert loop.is_symlink()


# ---- what is left behind -----------------------------------------------------------------------------------------


WRITE = """
import sys, time
from pathlib import Path
from harmonax.io import check_destination, whole_or_nothing
place = check_destination(sys.argv[1], inputs=[], overwrite=True)
with whole_or_nothing(place, overwrite=True, needed=0) as (part,):
    part.mkdir() if sys.argv[1].endswith(".zarr") else part.write_bytes(b"half")
    print(part, flush=True)
    time.sleep(60)
"""


@posix
@pytest.mark.parametrize("name", ["out.bin", "out.zarr"])
def test_what_a_killed_process_was_writing_is_removed_by_the_next(name, tmp_path):
    def begin(stack):
        work = [sys.executable, "-c", WRITE, tmp_path / name]
        process = stack.enter_context(subprocess.Popen(work, stdout=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    with contextlib.ExitStack() as stack:
        killed, left = begin(stack)
        _, working_on = begin(stack)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        foreign = tmp_path / ".harmonax-0badc0de-1-1-00000000.part"
        foreign.touch()
        assert left.exists()
        staging.check_destination(tmp_path / "other", inputs=[], overwrite=False)
        # Not what somebody works on, nor what came from another computer.
        assert sorted(tmp_path.iterdir()) == sorted([working_on, foreign])


@posix
def test_a_number_that_another_process_has_now_does_not_keep_it(tmp_path):
    own = staging._part(tmp_path / "out")
    own.touch()
    earlier = own.with_name(own.name.replace(f"-{staging._began(os.getpid())}-", "-1-"))
    if earlier == own:
        pytest.skip("when a process began is not known here")
    earlier.touch()
    staging.check_destination(tmp_path / "out", inputs=[], overwrite=False)
    assert list(tmp_path.iterdir()) == [own]


TWICE = """
import sys
from pathlib import Path
from harmonax.errors import OutputError
from harmonax.io import whole_or_nothing
for record, result in zip(*[map(Path, sys.argv[2:])] * 2):
    try:
        with whole_or_nothing(record, result, overwrite=False, needed=0) as parts:
            for part in parts:
                part.write_text(sys.argv[1])
            print("ready", flush=True)
            sys.stdin.readline()
        print("written", flush=True)
    except OutputError as error:
        print(error, flush=True)
"""


@posix
def test_of_several_that_end_at_once_exactly_one_has_written(tmp_path):
    places = [tmp_path / f"{attempt}.{ending}" for attempt in range(3) for ending in ("json", "bin")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        runs = []
        for i in range(4):
            process = subprocess.Popen([sys.executable, "-c", TWICE, str(i), *places], **pipes)
            runs.append(stack.enter_context(process))
            stack.callback(process.kill)
        for record, result in zip(places[::2], places[1::2], strict=True):
            assert {process.stdout.readline() for process in runs} == {"ready\n"}
            for process in runs:
                print(file=process.stdin, flush=True)
            said = [process.stdout.readline() for process in runs]
            winners = [str(i) for i, text in enumerate(said) if text == "written\n"]
            assert [record.read_text()] == [result.read_text()] == winners
            assert sum("exists already" in text for text in said) == 3


def test_what_is_not_a_file_is_not_replaced(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "out")
    with pytest.raises(OutputError, match="is a pipe"):
        staging.check_destination(tmp_path / "out", inputs=[], overwrite=True)


def test_what_zarr_still_writes_after_an_interrupt_is_waited_for(tmp_path, monkeypatch):
    zarr = pytest.importorskip("zarr", minversion="3")
    sync = pytest.importorskip("zarr.core.sync")

    def interrupted(*args, **kwargs):
        monkeypatch.undo()
        raise KeyboardInterrupt

    def write():
        with staging.whole_or_nothing(tmp_path / "out.zarr", overwrite=False, needed=0) as (part,):
            array = zarr.open_group(str(part), mode="w").create_array("x", shape=(4000,), chunks=(10,), dtype="f8")
            monkeypatch.setattr(sync, "wait", interrupted)
            # Hundreds of files, which zarr's own thread writes on.
            array[:] = np.arange(1, 4001)

    with pytest.raises(KeyboardInterrupt):
        write()
    time.sleep(0.5)
    assert not list(tmp_path.iterdir())
