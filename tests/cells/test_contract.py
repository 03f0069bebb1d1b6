"""Every backend against the plain statement of the method, `cells/dense.py`, on one and the same fixed partition."""

from __future__ import annotations

import copy
import functools
import os
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from agreement import FIXED, TOLERANCE, Answers, Slices, assert_agree, run
from sampling import first
from strategies import cells_with_batches

import harmonax.cells
from harmonax.algorithm.contracts import Assignment
from harmonax.algorithm.harmony import Harmony
from harmonax.algorithm.schedule import FixedPartition
from harmonax.cells import BACKENDS, BackendName, CellsInput, Situation
from harmonax.cells.dense import DenseCells
from harmonax.design import BatchDesign
from harmonax.errors import InputError
from harmonax.params import HarmonyParams

N, D, K = 800, 9, 11
# Few blocks and passes: on a cluster every sweep is a message.
SHORT = {**FIXED, "max_iter_clustering": 2, "n_clusters": K, "block_proportion": 0.25}
PRECISIONS = ["float32", "float64"]
by_precision = pytest.mark.parametrize("precision", PRECISIONS)


@pytest.fixture(scope="module")
def cluster():
    """Two workers in this process."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    quiet = {"dashboard_address": ":0", "threads_per_worker": 1}
    with (
        distributed.LocalCluster(n_workers=2, processes=False, **quiet) as local,
        distributed.Client(local),
    ):
        yield


# With how much memory to keep something of a round in: none, for some of the blocks, or for all.
NO, SOME, ALL = 0, 25_000, 1 << 30
KEPT = {NO: "", SOME: ", some kept", ALL: ", all kept"}
MAKERS = [*((name, NO) for name in BACKENDS), ("memory", SOME), ("memory", ALL), ("disk", SOME), ("disk", ALL)]


@pytest.fixture(params=MAKERS, ids=lambda param: param[0] + KEPT[param[1]])
def backend(request, tmp_path):
    """Give what makes cells of one backend, through its entry in the table."""
    name, cache_bytes = request.param
    as_input = lambda Z: Z  # noqa: E731
    if name == "disk" and not hasattr(os, "preadv"):
        pytest.skip("cells on disk need pread")
    if name == "jax":
        pytest.importorskip("jax", reason="jax is not installed; it comes with harmonax[jax]")
    if name == "dask":
        request.getfixturevalue("cluster")
        da = pytest.importorskip("dask.array", reason="dask.array is not installed")
        as_input = lambda Z: da.from_array(Z, chunks=((500, 1, 0, 299), (5, Z.shape[1] - 5)))  # noqa: E731

    def make(Z, design, schedule, *, precision):
        how = {"n_threads": 2, "scratch": tmp_path, "slab_bytes": 5_000, "digest": None}
        how["cache_bytes"] = cache_bytes
        return BACKENDS[name].make(CellsInput(as_input(Z), design, schedule, precision, **how))

    make.name = name
    return make


@functools.cache
def problem(levels: tuple[int, ...]) -> tuple[np.ndarray, BatchDesign]:
    Z, codes = cells_with_batches(N, D, levels, seed=1)
    # On the cluster one partition carries one joint level only.
    codes[501:] = codes[501]
    codes[560:] = cells_with_batches(N, D, levels, seed=2)[1][560:]
    return Z, BatchDesign.from_codes(codes)


def with_covariates(Z: np.ndarray, design: BatchDesign, n: int) -> tuple[np.ndarray, BatchDesign]:
    """Return cells that have `n` numeric columns, which Z depends on, after their own."""
    gen = np.random.default_rng(5)
    x = gen.normal(size=(N, n))
    names = tuple(f"x{i}" for i in range(n))
    return np.column_stack([Z + x @ gen.normal(size=(n, D)), x]), replace(design, covariates=names)


@functools.cache
def reference(flavor: str, levels: tuple[int, ...]) -> Answers:
    return run(DenseCells, *problem(levels), HarmonyParams(flavor=flavor, **SHORT))


@by_precision
@pytest.mark.parametrize(
    "levels", first(1, [(4, 2), (3,), (5, 3, 2)]), ids=["2 variables", "1 variable", "3 variables"]
)
@pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
def test_a_run_agrees_with_dense(backend, flavor, levels, precision):
    Z, design = problem(levels)
    params = HarmonyParams(flavor=flavor, precision=precision, **SHORT)
    got = run(backend, Z, design, params, precision=precision)
    assert_agree(got, reference(flavor, levels), Z, TOLERANCE[precision])
    assert backend.name == "dense" or got.embedding.dtype == got.R.dtype == precision


@pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
def test_a_run_with_covariates_agrees_with_dense(backend, flavor):
    Z, design = with_covariates(*problem((4, 2)), 2)
    params = HarmonyParams(flavor=flavor, precision="float64", **SHORT)
    got = run(backend, Z, design, params, precision="float64")
    assert_agree(got, run(DenseCells, Z, design, params), Z[:, :D], 1e-9)
    assert got.embedding.shape == (N, D)
    assert got.fit.correction.W.shape == (8, K, D)


def test_many_joint_levels(backend):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(N, D)) * 3
    design = BatchDesign.from_codes(np.column_stack([rng.integers(60, size=N), rng.integers(9, size=N)]))
    params = HarmonyParams(**{**SHORT, "precision": "float64", "max_iter_harmony": 2})
    assert_agree(run(backend, Z, design, params, precision="float64"), run(DenseCells, Z, design, params), Z, 1e-9)


def conversation(cells, design: BatchDesign, schedule: FixedPartition) -> dict[str, np.ndarray]:
    """Ask cells everything, once; return the answers by name."""
    rng = np.random.default_rng(3)
    Y = cells.points(np.arange(0, N, 75))
    sigma, logp = rng.uniform(0.1, 0.3, len(Y)), rng.normal(size=(schedule.n_blocks, design.n_levels, len(Y)))
    said = {"points": Y}

    def note(what, swept):
        said.update({f"{what} {name}": np.asarray(value) for name, value in vars(swept).items()})

    first = FixedPartition(1, np.random.SeedSequence(0)).all_blocks()[0]
    note("sample", cells.take(np.array([3, 790, 3, 501])).sweep(first, Y, sigma, None, moment=True))
    for block in schedule.all_blocks():
        note(f"unpenalised {block.index}", cells.sweep(block, Y, sigma, None, moment=True))
        said[f"mass {block.index}"] = cells.mass(block)
    for last in (False, True):
        for block in schedule.all_blocks():
            swept = cells.sweep(block, Y, sigma, logp[block.index], moment=not last, last=last)
            note(f"penalised {last} {block.index}", swept)
    assigned = Assignment(Y, logp, sigma)
    W = rng.normal(size=(design.n_levels + len(design.covariates), len(Y), D))
    said |= {name: np.asarray(value) for name, value in cells.moments(assigned)._asdict().items()}
    for moment in (True, False):
        said[f"correct {moment}"] = cells.correct(assigned, W, moment=moment)
        for block in schedule.all_blocks():
            note(f"{moment} {block.index}", cells.sweep(block, Y, sigma, logp[block.index], moment=moment))
    said["emit"] = cells.emit(assigned, W, None, moment=True)
    cells.close()
    said["embedding"], said["assignments"] = np.asarray(cells.embedding), np.asarray(cells.assignments(assigned))
    return said


@by_precision
@pytest.mark.parametrize("n_covariates", [0, 2])
@pytest.mark.parametrize("levels", first(1, [(4, 2), (3,)]), ids=["2 variables", "1 variable"])
def test_every_answer_agrees_with_dense(backend, precision, levels, n_covariates):
    Z, design = with_covariates(*problem(levels), n_covariates)
    schedule = FixedPartition(4, np.random.SeedSequence(2))
    expected = conversation(DenseCells(Z, design, schedule), design, schedule)
    got = conversation(backend(Z, design, schedule, precision=precision), design, schedule)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].shape == value.shape, name
        bound = TOLERANCE[precision] * np.abs(value).max(initial=0)
        np.testing.assert_allclose(got[name], value, rtol=0, atol=bound, err_msg=name)


def test_the_result_goes_where_it_is_told(backend):
    if BACKENDS[backend.name].result_stays == "always":
        pytest.skip("its result is not written: it stays where the cells live")
    Z, design = problem((3,))
    params = HarmonyParams(**SHORT)
    expected = run(backend, Z, design, params, precision="float32").embedding
    for out in (np.empty(Z.shape), np.empty(Z.shape, order="F"), np.empty(Z.shape, np.float32), Slices(Z.shape)):
        run(backend, Z, design, params, precision="float32", out=out)
        np.testing.assert_array_equal(getattr(out, "values", out), expected.astype(getattr(out, "dtype", float)))


def test_the_table_says_which_to_use():
    assert tuple(BACKENDS) == get_args(BackendName)
    for name, entry in BACKENDS.items():
        assert f"\n{name} " in harmonax.cells.__doc__
        assert entry.purpose.endswith(".")
    for on_cluster in (False, True):
        for fits in (False, True):
            assert sum(entry.automatic(Situation(on_cluster, fits)) for entry in BACKENDS.values()) == 1


def test_tables_of_a_round_are_never_written_over():
    Z, design = problem((4, 2))
    for flavor in ("harmony1", "harmony2"):
        resolved = HarmonyParams(flavor=flavor, **SHORT).resolve(design)
        schedule = FixedPartition(4, np.random.SeedSequence(0))
        cells, kept, then = DenseCells(Z, design, schedule), [], []
        keep = lambda ended: (kept.append(ended), then.append(copy.deepcopy(vars(ended.assigned))))  # noqa: B023, E731
        Harmony(cells, design, schedule, resolved).run(cells.points(np.arange(K)), np.empty(Z.shape), keep=keep)
        assert len(kept) == 3
        for ended, tables in zip(kept, then, strict=True):
            for name, before in tables.items():
                np.testing.assert_array_equal(getattr(ended.assigned, name), before)
                with pytest.raises(ValueError, match="read-only"):
                    getattr(ended.assigned, name)[...] = 0


def test_a_result_that_cannot_be_written_is_refused_also_where_auto_takes_the_cluster(cluster):
    da = pytest.importorskip("dask.array", reason="dask.array is not installed")
    Z, design = problem((3,))
    with pytest.raises(InputError, match="leave out=None and write that"):
        harmonax.harmonize(da.from_array(Z, chunks=(400, -1)), design, out=np.empty(Z.shape))
