"""Cells in memory where `test_contract.py` does not look: parameters, sizes, layouts, threads, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from agreement import FIXED, assert_agrees_with_dense, run
from hypothesis import given, settings
from strategies import cells_with_batches, small_problems

import harmonax
from harmonax.algorithm.contracts import Assignment, Sweep
from harmonax.algorithm.schedule import FixedPartition
from harmonax.cells.dense import DenseCells
from harmonax.cells.memory import MemoryCells
from harmonax.design import BatchDesign
from harmonax.kernels import _native
from harmonax.params import HarmonyParams


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    "changes",
    [
        {"batch_prune_threshold": 0.05},
        {"batch_prune_threshold": None},
        {"batch_prune_threshold": 0.1},
        {"tau": 20.0},
        {"sigma": tuple(np.linspace(0.05, 0.3, 23))},
        {"sigma": 0.5},
        {"sigma": 0.02},
        {"theta": (0.0, 3.0)},
        {"theta": 0.0},
        {"ridge": "fixed", "ridge_lambda": (1.0, 5.0)},
        {"block_proportion": 1.0},
        {"block_proportion": 0.003},
        {"correction_method": "original"},
        {"flavor": "harmony1", "sigma": tuple(np.linspace(0.05, 0.3, 23)), "tau": 10.0},
    ],
    ids=lambda c: ",".join(c),
)
def test_agrees_with_dense_under(changes, precision):
    Z, codes = cells_with_batches(1500, 17, (4, 2), seed=2)
    design = BatchDesign.from_codes(codes)
    assert_agrees_with_dense(
        MemoryCells, Z, design, HarmonyParams(**{"n_clusters": 23, "precision": precision, **FIXED, **changes})
    )


@pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
def test_agrees_with_dense_where_passes_stop_by_themselves(flavor):
    # No pass is known to be the last, so the moments are a pass of their own.
    Z, codes = cells_with_batches(1500, 17, (4, 2), seed=2)
    design = BatchDesign.from_codes(codes)
    changes = {"max_iter_clustering": 50, "tol_clustering": 0.5}
    assert_agrees_with_dense(
        MemoryCells, Z, design, HarmonyParams(flavor=flavor, n_clusters=23, **{**FIXED, **changes})
    )


def test_a_skipped_cluster_agrees():
    # With this threshold some clusters keep no level and are skipped; the run must have seen that.
    Z, codes = cells_with_batches(1500, 17, (4,), seed=3)
    design = BatchDesign.from_codes(codes)
    params = HarmonyParams(n_clusters=23, precision="float64", batch_prune_threshold=0.08, **FIXED)
    skipped = run(DenseCells, Z, design, params).fit.correction.skipped
    assert skipped.any()
    assert not skipped.all()
    assert_agrees_with_dense(MemoryCells, Z, design, params)


@pytest.mark.parametrize("instruction_set", _native.instruction_sets())
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(("d", "K"), [(1, 2), (16, 16), (33, 65), (50, 100)])
def test_every_instruction_set_agrees_with_dense(instruction_set, precision, d, K):
    # Sizes below, at and above whole vectors and register blocks.
    Z, codes = cells_with_batches(700, d, (3,), seed=4, shift=2.0)
    design = BatchDesign.from_codes(codes)
    params = HarmonyParams(n_clusters=K, precision=precision, **{**FIXED, "max_iter_harmony": 2})
    assert_agrees_with_dense(MemoryCells, Z, design, params, instruction_set=instruction_set)


@given(problem=small_problems())
@settings(max_examples=60, deadline=None)
def test_agrees_with_dense_on_small_problems(problem):
    Z, design, n_clusters, seed = problem
    params = HarmonyParams(n_clusters=n_clusters, precision="float64", **{**FIXED, "max_iter_harmony": 2})
    expected, R, *_ = run(DenseCells, Z, design, params, seed=seed)
    got, R_got, *_ = run(MemoryCells, Z, design, params, seed=seed, precision="float64", n_threads=2)
    np.testing.assert_allclose(got, expected, atol=1e-7 * (1 + np.abs(expected).max()))
    np.testing.assert_allclose(R_got, R, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", ">f8"])
@pytest.mark.parametrize("layout", ["C", "F", "sliced", "reversed"])
def test_any_memory_layout_gives_the_same_bits(layout, dtype):
    Z, codes = cells_with_batches(800, 12, (3,), seed=5)
    Z = Z.astype(np.float32).astype(dtype)
    design = BatchDesign.from_codes(codes)
    wide = np.zeros((1600, 24), dtype)
    wide[::2, ::2] = Z
    laid = {"C": Z, "F": np.asfortranarray(Z), "sliced": wide[::2, ::2], "reversed": Z[::-1].copy()[::-1]}[layout]
    laid.flags.writeable = False
    params = HarmonyParams(n_clusters=9, **FIXED)
    expected = run(MemoryCells, Z.astype(np.float32), design, params).embedding
    np.testing.assert_array_equal(run(MemoryCells, laid, design, params).embedding, expected)


@pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
@pytest.mark.parametrize("levels", [(5,), (40, 7)])
def test_the_bits_do_not_depend_on_threads(flavor, levels):
    Z, codes = cells_with_batches(30_000, 20, levels, seed=6)
    design = BatchDesign.from_codes(codes)
    params = HarmonyParams(flavor=flavor, n_clusters=40, max_iter_harmony=2, max_iter_clustering=3)
    runs = [run(MemoryCells, Z, design, params, n_threads=n) for n in (1, 2, 4, 1)]
    for out, R, fit, _ in runs[1:]:
        np.testing.assert_array_equal(out, runs[0][0])
        np.testing.assert_array_equal(R, runs[0][1])
        assert fit.history == runs[0][2].history
        assert np.isfinite(fit.history.total).all()


@pytest.mark.parametrize("instruction_set", _native.instruction_sets())
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("sigma", [0.1, tuple(np.linspace(0.1, 0.3, 21)), 0.02], ids=["one", "each", "small"])
def test_the_bits_do_not_depend_on_what_is_kept(sigma, precision, instruction_set):
    Z, codes = cells_with_batches(3000, 18, (5, 3), seed=9)
    design = BatchDesign.from_codes(codes)
    how = {"precision": precision, "sigma": sigma, "n_clusters": 21, "theta": (2.0, 30.0)}
    params = HarmonyParams(**{**FIXED, **how})
    same = {"precision": precision, "instruction_set": instruction_set}
    expected = run(MemoryCells, Z, design, params, n_threads=1, **same)
    row = 21 * np.dtype(precision).itemsize
    for cache_bytes, n_threads in ((2000 * row, 1), (1 << 30, 1), (1 << 30, 3)):
        got = run(MemoryCells, Z, design, params, n_threads=n_threads, cache_bytes=cache_bytes, **same)
        np.testing.assert_array_equal(got.embedding, expected.embedding)
        np.testing.assert_array_equal(got.R, expected.R)
        np.testing.assert_array_equal(got.fit.moment, expected.fit.moment)
        assert got.fit.history == expected.fit.history


def test_what_is_kept_is_not_used_for_other_centroids_or_corrected_cells():
    Z, codes = cells_with_batches(900, 8, (4,), seed=10)
    design, schedule = BatchDesign.from_codes(codes), FixedPartition(3, np.random.SeedSequence(0))
    answers = []
    for cache_bytes in (0, 1 << 30):
        cells = MemoryCells(Z, design, schedule, n_threads=1, cache_bytes=cache_bytes)
        rng, swept = np.random.default_rng(0), []
        sigma, logp, W = np.full(6, 0.2), rng.normal(size=(3, 4, 6)), rng.normal(size=(4, 6, 8))
        Y = cells.points(np.arange(6))

        def ask(Y, sigma, logps, cells=cells, swept=swept):
            asked = zip(schedule.all_blocks(), logps, strict=True)
            swept += [cells.sweep(block, Y, sigma, own, moment=False) for block, own in asked]

        ask(Y, sigma, [None] * 3)
        ask(Y, sigma, logp)
        ask(Y[::-1].copy(), sigma, logp)
        ask(Y, sigma * 2, logp)
        ask(Y[:5], sigma[:5], logp[:, :, :5].copy())
        ask(Y, sigma, logp)
        cells.correct(Assignment(Y, logp, sigma), W, moment=False)
        ask(Y, sigma, logp)
        ask(Y, sigma, [None, logp[1], None])
        ask(Y, sigma, logp)
        swept += [cells.moments(Assignment(Y, logp, sigma))]
        answers.append(swept)
    for without, kept in zip(*answers, strict=True):
        for a, b in zip(*(vars(s).values() if isinstance(s, Sweep) else s for s in (without, kept)), strict=True):
            np.testing.assert_array_equal(a, b)


HASH = """
import hashlib, sys
import numpy as np
import harmonax
rng = np.random.default_rng(0)
codes = np.column_stack([rng.integers(300, size=20_000), rng.integers(70, size=20_000)])
Z = rng.normal(size=(20_000, 20)) + rng.normal(size=(300, 20))[codes[:, 0]]
params = harmonax.HarmonyParams(n_clusters=30, max_iter_harmony=2, max_iter_clustering=2)
for own in map(int, sys.argv[1:]):
    result = harmonax.harmonize(Z, codes, params, rng=3, n_threads=own, allow_many_levels=True)
    print(hashlib.sha256(result.embedding.tobytes()).hexdigest())
"""


@pytest.mark.thorough
def test_the_bits_do_not_depend_on_blas_threads():
    def digests(blas: str, *own: str) -> list[str]:
        env = {**os.environ, "OPENBLAS_NUM_THREADS": blas, "OMP_NUM_THREADS": blas, "MKL_NUM_THREADS": blas}
        done = subprocess.run([sys.executable, "-c", HASH, *own], env=env, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert len({*digests("1", "1", "2"), *digests("4", "1", "4")}) == 1


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    Z, codes = cells_with_batches(400, 6, (3,), seed=7)
    params = HarmonyParams(n_clusters=5, precision="float64", max_iter_harmony=2)
    Z_corr = harmonax.harmonize(Z, codes, params, rng=11).embedding
    again = harmonax.harmonize(Z, codes, params, rng=11).embedding
    other = harmonax.harmonize(Z, codes, params, rng=12).embedding
    np.testing.assert_array_equal(Z_corr, again)
    assert not np.array_equal(Z_corr, other)


def test_ctrl_c_is_answered_in_the_middle_of_a_run():
    # In a process of its own, whose main thread makes the calls: only that is told of signals.
    code = """
        import signal
        import numpy as np
        import harmonax
        signal.signal(signal.SIGINT, signal.default_int_handler)
        Z = np.random.default_rng(0).normal(size=(400_000, 50)).astype(np.float32)
        started = False
        def progress(*_):
            global started
            if not started:
                started = True
                print("running", flush=True)
        try:
            # What would run for hours.
            params = harmonax.HarmonyParams(tol_harmony=-1, tol_clustering=-1, max_iter_harmony=10_000)
            harmonax.harmonize(Z, np.arange(len(Z)) % 3, params, rng=0, progress=progress)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "running\n"
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=600)
    assert out == "interrupted\n"


def test_an_unknown_instruction_set_is_refused():
    Z, codes = cells_with_batches(50, 3, (2,), seed=8)
    design = BatchDesign.from_codes(codes)
    with pytest.raises(ValueError, match="instruction set 'sse9' is not available here"):
        MemoryCells(Z, design, FixedPartition(3, np.random.SeedSequence(0)), instruction_set="sse9")


def test_a_fork_after_a_run_works():
    # Threads belong to a call, so a forked child starts its own.
    code = """
        import os, numpy as np, harmonax
        Z = np.random.default_rng(0).normal(size=(5000, 5)); batch = np.arange(5000) % 2
        first = harmonax.harmonize(Z, batch, rng=0, n_threads=2).embedding
        child = os.fork()
        if child == 0:
            again = harmonax.harmonize(Z, batch, rng=0, n_threads=2).embedding
            os._exit(0 if np.array_equal(first, again) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=600)
    assert done.stdout == "0\n", done.stderr
