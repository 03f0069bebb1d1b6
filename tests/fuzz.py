"""Damage small files of every kind that harmonax reads, at random and by a seed, and say what became of it.

    python tests/fuzz.py --minutes 10 --seed 1        all kinds in turn
    python tests/fuzz.py --tries 50 model npy         these, so many times each

A good answer is the right result, or one error of harmonax. Bad ones are an end of the process, no end within a minute,
an error of another library or of Python, and a result that differs though what it is made of was read as it had been.
The exit code is 1 where there was one; `--seed S --only KIND:NUMBER` tries it again in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

import harmonax
from harmonax import cli
from harmonax.errors import HarmonaxError

N, D, LIMIT = 60, 4, 60
PARAMS = harmonax.HarmonyParams(n_clusters=3, max_iter_harmony=2, tol_harmony=0)
OPTIONS = [
    "--batch-key",
    "batch",
    "--n-clusters",
    "3",
    "--max-iter-harmony",
    "2",
    "--overwrite",
    "--quiet",
    "--seed",
    "0",
]


def table() -> anndata.AnnData:
    gen = np.random.default_rng(0)
    counts = sp.csr_matrix(gen.poisson(1.0, (N, 8)).astype(np.float32))
    batch = pd.Categorical(np.repeat(["a", "b"], N // 2))
    obs = pd.DataFrame({"batch": batch, "type": gen.choice(["T", "B"], N)}, index=[f"c{i}" for i in range(N)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(8)])
    Z = (gen.normal(size=(N, D)) + (batch == "b")[:, None]).astype(np.float32)
    return anndata.AnnData(counts, obs=obs, var=var, obsm={"X_pca": Z}, uns={"note": {"by": "hand", "n": 3}})


# ---- the files ----------------------------------------------------------------------------------------------------


def make_h5ad(folder: Path) -> None:
    table().write_h5ad(folder / "in.h5ad")


def make_zarr(folder: Path) -> None:
    table().write_zarr(folder / "in.zarr")


def make_bare(end: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        adata = table()
        frame = pd.DataFrame(adata.obsm["X_pca"], index=adata.obs_names, columns=[f"PC{i}" for i in range(D)])
        {"npy": lambda p: np.save(p, frame), "csv": frame.to_csv, "parquet": frame.to_parquet}[end](
            folder / f"in.{end}"
        )
        adata.obs.to_csv(folder / "table.csv")

    return make


def make_10x(folder: Path) -> None:
    adata = table()
    X, names = adata.X.T.tocsc(), [name.encode() for name in adata.var_names]
    with h5py.File(folder / "in.h5", "w") as file:
        arrays = {"data": X.data.astype(int), "indices": X.indices, "indptr": X.indptr, "shape": np.array(X.shape)}
        arrays["barcodes"] = np.array([name.encode() for name in adata.obs_names])
        features = {"id": names, "name": names, "feature_type": [b"Gene Expression"] * 8, "genome": [b"x"] * 8}
        for name, value in (arrays | {f"features/{k}": np.array(v) for k, v in features.items()}).items():
            file[f"matrix/{name}"] = value


def make_mtx(folder: Path) -> None:
    adata = table()
    (folder / "in").mkdir()
    scipy.io.mmwrite(folder / "in/matrix.mtx", adata.X.T.astype(int))
    (folder / "in/barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
    (folder / "in/genes.tsv").write_text("".join(f"{name}\t{name}\n" for name in adata.var_names))


def make_model(folder: Path) -> None:
    adata = table()
    harmonax.pp.harmony_integrate(adata, "batch", n_clusters=3, save_model=str(folder / "in.h5"), rng=0)


def make_checkpoint(folder: Path) -> None:
    adata = table()
    one = PARAMS.replace(max_iter_harmony=1)
    harmonax.harmonize(adata.obsm["X_pca"], adata.obs["batch"], one, rng=0, checkpoint=folder / "in")


def make_toml(folder: Path) -> None:
    make_h5ad(folder)
    (folder / "in.h5ad").rename(folder / "cells.h5ad")
    (folder / "in.toml").write_text('theta = [2.0]\nsigma = 0.1\nbatch-key = ["batch"]\nquiet = true\n')


# ---- what is done with them ---------------------------------------------------------------------------------------


def command(*words: str) -> None:
    with contextlib.redirect_stderr(None), contextlib.redirect_stdout(None):
        code = cli.run(list(words))
    if code == 1:
        raise RuntimeError(f"internal error of harmonax {' '.join(words)}")
    if code:
        raise HarmonaxError(f"exit {code}")


def integrate(name: str, *more: str) -> Callable[[Path], np.ndarray]:
    def use(folder: Path) -> np.ndarray:
        out = folder / "out.npy"
        command("integrate", str(folder / name), "-o", str(out), *OPTIONS, *[word.format(folder) for word in more])
        return np.load(out)

    return use


def copied(name: str) -> Callable[[Path], np.ndarray]:
    def use(folder: Path) -> np.ndarray:
        out = folder / "out.h5ad"
        command("integrate", str(folder / name), "-o", str(out), *OPTIONS)
        with h5py.File(out) as file:
            return file["obsm/X_pca_harmony"][:]

    return use


def counts(name: str) -> Callable[[Path], np.ndarray]:
    def use(folder: Path) -> np.ndarray:
        from harmonax.workflow.inputs import read

        return read(str(folder / name)).X.toarray()

    return use


def mapped(folder: Path) -> np.ndarray:
    return harmonax.HarmonyModel.load(folder / "in.h5").map(np.ones((5, D)))


def resumed(folder: Path) -> np.ndarray:
    adata = table()
    given = adata.obsm["X_pca"], adata.obs["batch"], PARAMS
    return harmonax.harmonize(*given, rng=0, checkpoint=folder / "in").embedding


def configured(folder: Path) -> np.ndarray:
    words = ["integrate", str(folder / "cells.h5ad"), "-o", str(folder / "out.npy"), "--overwrite"]
    command(*words, "--config", str(folder / "in.toml"))
    return np.load(folder / "out.npy")


def embedding_h5(folder: Path) -> Any:
    with h5py.File(folder / "in.h5ad") as file:
        return file["obsm/X_pca"][:].tobytes(), file["obs/batch/codes"][:].tobytes()


def arrays_10x(folder: Path) -> Any:
    with h5py.File(folder / "in.h5") as file:
        return [file[f"matrix/{name}"][:].tobytes() for name in ("data", "indices", "indptr", "shape")]


def arrays_zarr(folder: Path) -> Any:
    import zarr

    group = zarr.open_group(folder / "in.zarr", mode="r")
    return [group[name][:].tobytes() for name in ("obsm/X_pca", "obs/batch/codes", "obs/batch/categories")]


def frame(read: Callable[..., pd.DataFrame], name: str, **how: Any) -> Callable[[Path], Any]:
    def of(folder: Path) -> Any:
        found = read(folder / name, **how)
        return found.to_numpy(np.float32).tobytes(), list(found.index)

    return of


class Kind(NamedTuple):
    make: Callable[[Path], None]
    use: Callable[[Path], np.ndarray]
    # What the result is made of, read without harmonax; None: any damage may change it.
    read: Callable[[Path], Any] | None = None


KINDS = {
    "h5ad": Kind(make_h5ad, copied("in.h5ad"), embedding_h5),
    "zarr": Kind(make_zarr, copied("in.zarr"), arrays_zarr),
    "npy": Kind(
        make_bare("npy"), integrate("in.npy", "--metadata", "{}/table.csv"), lambda p: np.load(p / "in.npy").tobytes()
    ),
    "csv": Kind(
        make_bare("csv"), integrate("in.csv", "--metadata", "{}/table.csv"), frame(pd.read_csv, "in.csv", index_col=0)
    ),
    "parquet": Kind(
        make_bare("parquet"),
        integrate("in.parquet", "--metadata", "{}/table.csv"),
        frame(pd.read_parquet, "in.parquet"),
    ),
    "10x": Kind(make_10x, counts("in.h5"), arrays_10x),
    "mtx": Kind(make_mtx, counts("in")),
    "model": Kind(make_model, mapped, lambda _: "a checksum is over all of it"),
    "checkpoint": Kind(make_checkpoint, resumed, lambda _: "a round that is not as it was is made again"),
    "toml": Kind(make_toml, configured, lambda p: tomllib.loads((p / "in.toml").read_text(encoding="utf-8"))),
}


# ---- damage -------------------------------------------------------------------------------------------------------


def damage(path: Path, gen: np.random.Generator) -> str:
    """Change a file, or one in a folder, in one of five ways."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        path = files[gen.integers(len(files))]
    data = bytearray(path.read_bytes())
    size = max(1, len(data))
    at, length = int(gen.integers(size)), int(gen.integers(1, max(2, min(64, size))))
    how = ["flip", "cut", "zeros", "noise", "doubled"][gen.integers(5)]
    if how == "flip":
        for place in gen.integers(size, size=int(gen.integers(1, 4))) if data else ():
            data[place] ^= 1 << int(gen.integers(8))
    elif how == "cut":
        del data[at:]
    elif how == "doubled":
        data[at:at] = data[at : at + length]
    else:
        data[at : at + length] = bytes(length) if how == "zeros" else gen.bytes(length)
    path.write_bytes(data)
    return f"{how} at {at} of {path.name}"


def trial(kind: str, number: int, seed: int, whole: Path, expected: np.ndarray) -> str:
    """Return what became of one damaged file, in a word."""
    made = KINDS[kind]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        before = made.read(folder) if made.read else None
        (path,) = folder.glob("in*")
        how = damage(path, np.random.default_rng([seed, number, len(kind)]))
        after: Any = ""
        if made.read:
            with contextlib.suppress(Exception):
                after = made.read(folder)
        try:
            result = made.use(folder)
        except HarmonaxError:
            return "refused"
        # Whatever else comes is what this looks for.
        except BaseException:
            return f"BAD {how}: {' / '.join(traceback.format_exc().splitlines()[-3:])}"
        if made.read and before == after and not np.array_equal(result, expected):
            return f"BAD {how}: another result of the same numbers"
        return "done"


def trials(kind: str, numbers: range, seed: int) -> Iterator[tuple[int, str]]:
    warnings.simplefilter("ignore")
    logging.getLogger("harmonax").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place, "whole")
        whole.mkdir()
        KINDS[kind].make(whole)
        shutil.copytree(whole, Path(place, "used"))
        expected = KINDS[kind].use(Path(place, "used"))
        for number in numbers:
            yield number, trial(kind, number, seed, whole, expected)


def watched(kind: str, numbers: range, seed: int) -> list[str]:
    """Try in a process of its own, begun again where it ends or hangs; return the answers."""
    answers: list[str] = []
    while len(answers) < len(numbers):
        first = numbers.start + len(answers)
        work = [sys.executable, __file__, "--seed", str(seed), "--worker", f"{kind}:{first}:{numbers.stop}"]
        process = subprocess.Popen(work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        with process:
            seen, last = 0, time.monotonic()
            for line in process.stdout:
                answers.append(line.rstrip("\n"))
                seen += 1
                last = time.monotonic()
        if process.returncode:
            hung = process.returncode == -14 and time.monotonic() - last > LIMIT / 2
            answers.append(
                f"BAD {'no end within a minute' if hung else f'the process ended with {process.returncode}'}"
            )
        elif not seen:
            raise SystemExit(f"{kind}: nothing was tried")
    return answers[: len(numbers)]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=", ".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, default=20, help="of each kind, in a turn")
    parser.add_argument("--minutes", type=float, default=0, help="turns, until so much time has passed")
    parser.add_argument("--only", metavar="KIND:NUMBER")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.only or given.worker:
        kind, *span = (given.only or given.worker).split(":")
        numbers = range(int(span[0]), int(span[1]) if len(span) > 1 else int(span[0]) + 1)
        for number, answer in trials(kind, numbers, given.seed):
            print(answer if given.worker else f"{kind}:{number} {answer}", flush=True)
            _alarm()
        return 0
    began, start, bad = time.monotonic(), 0, list[str]()
    counted = {kind: Counter[str]() for kind in given.kinds or KINDS}
    while start == 0 or time.monotonic() - began < 60 * given.minutes:
        for kind in counted:
            for i, answer in enumerate(watched(kind, range(start, start + given.tries), given.seed)):
                counted[kind][answer.split()[0]] += 1
                if answer.startswith("BAD"):
                    bad.append(f"{kind}:{start + i} {answer}")
                    print(bad[-1], flush=True)
        start += given.tries
    for kind, words_of in [*counted.items(), ("all", sum(counted.values(), Counter()))]:
        print(
            f"{kind}:", ", ".join(f"{count} {word}" for word, count in sorted(words_of.items())), f"(seed {given.seed})"
        )
    return int(bool(bad))


def _alarm() -> None:
    """End this process where the next trial takes longer than a minute."""
    import signal

    if hasattr(signal, "alarm"):
        signal.alarm(LIMIT)


if __name__ == "__main__":
    sys.exit(main())
