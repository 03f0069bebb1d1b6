"""Cells on JAX devices where `test_contract.py` does not look: parameters, tiles, compiling, several devices."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from agreement import FIXED, assert_agrees_with_dense, run
from strategies import cells_with_batches

from harmonax.algorithm.harmony import Harmony
from harmonax.algorithm.schedule import FixedPartition
from harmonax.algorithm.seeding import seed_centroids
from harmonax.cells.jax.tiles import cut, level_steps, sum_steps, tile_length
from harmonax.cells.memory import MemoryCells
from harmonax.design import BatchDesign
from harmonax.errors import InputError
from harmonax.params import HarmonyParams

jax = pytest.importorskip("jax", reason="jax is not installed; it comes with harmonax[jax]")

from harmonax.cells.jax import cells as jax_cells  # noqa: E402
from harmonax.cells.jax import kernels as jax_kernels  # noqa: E402
from harmonax.cells.jax.cells import JaxCells  # noqa: E402

JITTED = [getattr(jax_kernels, name) for name in ("zeros", "unit", "sweep", "moments", "correct")]
JITTED += [getattr(jax_kernels, name) for name in ("corrected", "corrected_moment")]


FIXED = {**FIXED, "max_iter_clustering": 3}


def test_empty_blocks():
    Z, codes = cells_with_batches(25, 4, (2,), seed=3)
    params = HarmonyParams(n_clusters=3, precision="float64", block_proportion=0.04, **FIXED)
    schedule = FixedPartition(params.n_blocks(25), np.random.SeedSequence(0))
    assert len(np.unique(schedule.block_of(0, 25))) < schedule.n_blocks
    assert_agrees_with_dense(JaxCells, Z, BatchDesign.from_codes(codes), params)


@pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
def test_several_chunks_and_a_batch_that_dominates(flavor, monkeypatch):
    monkeypatch.setattr(jax_cells, "MAX_VALUES", {"cpu": 1 << 11})
    Z, codes = cells_with_batches(2500, 8, (6, 2), seed=4)
    codes[: len(codes) // 2] = 0
    design = BatchDesign.from_codes(codes)
    schedule = FixedPartition(20, np.random.SeedSequence(0))
    tiling = cut(design, schedule, 8, 10, 1, 1 << 11)
    assert tiling.n_chunks > 2
    assert tiling.length > 1
    assert_agrees_with_dense(JaxCells, Z, design, HarmonyParams(flavor=flavor, n_clusters=10, **FIXED))


def test_the_same_run_gives_the_same_bits_and_compiles_nothing_more():
    Z, codes = cells_with_batches(800, 9, (4, 2), seed=1)
    design = BatchDesign.from_codes(codes)
    params = {"n_clusters": 11, **FIXED}
    # The first correction comes with the second round.
    short = HarmonyParams(**{**params, "max_iter_harmony": 2, "max_iter_clustering": 1})
    run(JaxCells, Z, design, short)
    compiled = [f._cache_size() for f in JITTED]
    first = run(JaxCells, Z, design, HarmonyParams(**params))
    again = run(JaxCells, Z, design, HarmonyParams(**params))
    assert [f._cache_size() for f in JITTED] == compiled
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[2].history == again[2].history


def test_64_bits_are_on_inside_only_and_do_not_matter_for_float32():
    Z, codes = cells_with_batches(800, 9, (4, 2), seed=1)
    design = BatchDesign.from_codes(codes)
    plain = run(JaxCells, Z, design, HarmonyParams(n_clusters=11, **FIXED))[0]
    before = jax.config.jax_enable_x64
    run(JaxCells, Z, design, HarmonyParams(n_clusters=11, **FIXED), precision="float64")
    assert jax.config.jax_enable_x64 == before
    with jax_kernels.x64(True):
        np.testing.assert_array_equal(run(JaxCells, Z, design, HarmonyParams(n_clusters=11, **FIXED))[0], plain)
        assert jax.config.jax_enable_x64


@pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
def test_a_run_that_goes_on_from_tables_gives_the_same_bits(flavor):
    Z, codes = cells_with_batches(800, 9, (4, 2), seed=1)
    design = BatchDesign.from_codes(codes)
    resolved = HarmonyParams(flavor=flavor, n_clusters=11, **FIXED).resolve(design)
    outs, rounds = [], []
    for past in (0, 1, 2, 3):
        schedule = FixedPartition(20, np.random.SeedSequence(0))
        cells = JaxCells(Z, design, schedule)
        Y = rounds[past - 1].assigned.Y if past else seed_centroids(cells, 11, np.random.default_rng(0))
        outs.append(np.empty(Z.shape))
        keep = (lambda ended: None) if past else rounds.append
        fit = Harmony(cells, design, schedule, resolved).run(Y, outs[-1], past=rounds[:past], keep=keep)
        assert len(fit.history.passes) == 3
        np.testing.assert_array_equal(outs[-1], outs[0])


def test_sums_of_many_chunks_are_as_exact_as_the_values(monkeypatch):
    # Cells far from the origin, and ten thousand additions: summed plainly in float32 the last digits were lost.
    monkeypatch.setattr(jax_cells, "MAX_VALUES", {"cpu": 32})
    rng = np.random.default_rng(0)
    Z = (rng.normal(size=(40_000, 2)) + 30).astype(np.float32)
    design = BatchDesign.from_codes(np.zeros(40_000, np.int64))
    schedule = FixedPartition(4, np.random.SeedSequence(0))
    monkeypatch.setattr("harmonax.cells.jax.tiles._LONGEST", 4)
    cells = JaxCells(Z, design, schedule)
    sigma, Y = np.full(1, 0.1), np.array([[1.0, 0.0]])
    for block in schedule.all_blocks():
        cells.sweep(block, Y, sigma, None, moment=False)
    S, O, _ = cells.moments(jax_cells.Assignment(Y, np.zeros((4, 1, 1)), sigma))
    np.testing.assert_allclose(O, [[40_000]], rtol=1e-12)
    np.testing.assert_allclose(S[0, 0], Z.sum(axis=0, dtype=np.float64), rtol=2e-8)


def test_memory_that_does_not_suffice_is_explained(monkeypatch):
    def fail(*args, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory while trying to allocate 1 bytes")

    monkeypatch.setattr(jax_kernels, "sweep", fail)
    Z, codes = cells_with_batches(800, 9, (4, 2), seed=1)
    design = BatchDesign.from_codes(codes)
    with pytest.raises(InputError, match=r"1 x cpu: out of memory with cells that take .*; use more devices"):
        run(JaxCells, Z, design, HarmonyParams(n_clusters=11, **FIXED), devices=jax.devices()[:1])


def test_without_jax_the_install_command_is_named():
    code = """
        import sys
        sys.modules["jax"] = None
        from harmonax.errors import MissingExtraError
        try:
            import harmonax.cells.jax.cells
        except MissingExtraError as error:
            print(error)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "jax is not installed; it comes with: pip install 'harmonax[jax]'\n"


TWO_DEVICES = """
import jax, numpy as np
from test_jax_cells import FIXED, run, jax_kernels
from strategies import cells_with_batches
from harmonax.cells.jax.cells import JaxCells
from harmonax.cells.memory import MemoryCells
from harmonax.design import BatchDesign
from harmonax.params import HarmonyParams
assert len(jax.devices()) == 2
Z, codes = cells_with_batches(800, 9, (4, 2), seed=1)
design = BatchDesign.from_codes(codes)
params = HarmonyParams(flavor="harmony1", n_clusters=11, **FIXED)
one = run(JaxCells, Z, design, params, devices=jax.devices()[:1])[0]
two = run(JaxCells, Z, design, params)[0]
assert not np.array_equal(one, two)
print(*(np.abs(x - run(MemoryCells, Z, design, params)[0]).max() / np.abs(two).max() for x in (one, two)))
assert np.array_equal(two, run(JaxCells, Z, design, params)[0])
# Each device works on its own: nothing is sent between them.
kept = []
class Kept(JaxCells):
    def _open(self, n_clusters):
        super()._open(n_clusters)
        kept.append(self)
fit = run(Kept, Z, design, params).fit
cells = kept[-1]
assert all(len(z.sharding.device_set) == 2 for z in cells._Z + cells._Zn)
with jax_kernels.x64(False):
    W = cells._coefficients(fit.correction.W)
    tables = next(cells._tables_of_blocks(fit.assigned))
    own = cells._Zn[0], cells._tiles[0], tables
    for lowered in (
        jax_kernels.sweep.lower(*own, cells._levels, moment=True),
        jax_kernels.correct.lower(cells._Z[0], *own, W, moment=True),
    ):
        text = lowered.compile().as_text()
        assert not any(word in text for word in ("all-reduce", "all-gather", "all-to-all", "collective"))
"""


@pytest.mark.thorough
def test_two_devices_agree_with_one_and_exchange_nothing():
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = path
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert max(float(x) for x in done.stdout.split()) < 1e-5


class TestTiles:
    @pytest.mark.parametrize("n_devices", [1, 3])
    def test_every_cell_has_a_place_of_its_own_in_a_tile_of_its_level(self, n_devices):
        rng = np.random.default_rng(0)
        design = BatchDesign.from_codes(rng.integers(5, size=(700, 2)) ** 2)
        schedule = FixedPartition(6, np.random.SeedSequence(0))
        tiling = cut(design, schedule, 5, 4, n_devices, 1 << 8)
        seen = []
        for g, tiles in enumerate(jax_cells.describe(tiling, design)):
            places, rows = tiling.places(g), tiling.rows(g)
            assert len(np.unique(places)) == len(places)
            tile, within = np.divmod(places, tiling.length)
            np.testing.assert_array_equal(np.bincount(tile, minlength=tiles.count.size), tiles.count.ravel())
            assert (within < tiles.count.ravel()[tile]).all()
            np.testing.assert_array_equal(tiles.levels.reshape(-1, 2)[tile], design.joint_levels[design.joint[rows]])
            assert (schedule.block_of(0, 700)[rows] == g).all()
            seen.append(rows)
        np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(700))

    def test_steps_add_up_what_belongs_together(self):
        rng = np.random.default_rng(1)
        segment = np.sort(rng.choice([0, 1, 1, 1, 4, 7], size=(3, 150)), axis=1)
        segment[1, 100:] = 9
        values = rng.normal(size=(3, 150))
        steps, left = sum_steps(segment, 9)
        assert max(step.shape[2] for step in steps) <= 8
        for i in range(3):
            x = values[i]
            for step in steps:
                x = np.append(x, 0)[step[i]].sum(axis=1)
            found = {int(s): v for s, v in zip(left[i], x, strict=False) if s != 9}
            assert found.keys() == set(segment[i]) - {9}
            for s, v in found.items():
                assert v == pytest.approx(values[i][segment[i] == s].sum(), abs=1e-12)

    def test_levels_are_sums_of_joint_levels(self):
        rng = np.random.default_rng(2)
        design = BatchDesign.from_codes(rng.integers(7, size=(300, 3)))
        table = rng.normal(size=(design.n_joint, 2))
        rows, steps = level_steps(design)
        x = table[rows]
        for step in steps:
            x = np.concatenate([x, np.zeros((1, 2))])[step].sum(axis=1)
        np.testing.assert_allclose(x, design.fold(table), atol=1e-12)

    def test_short_runs_get_short_tiles(self):
        assert tile_length(np.full((20, 10), 5000), 50) == 256
        assert tile_length(np.full((20, 1000), 3), 50) <= 4
        # One batch of many cells does not make the others' tiles long.
        assert tile_length(np.array([[5000] + [2] * 3000]), 50) <= 4


@pytest.fixture
def gpu():
    found = [device for device in jax.devices() if device.platform == "gpu"]
    if not found:
        pytest.skip("JAX finds no GPU here")
    return found


def test_a_million_cells_on_a_gpu(gpu):
    Z, codes = cells_with_batches(1_000_000, 50, (10,), seed=1)
    Z, design = Z.astype(np.float32), BatchDesign.from_codes(codes)
    params = HarmonyParams(n_clusters=100, **{**FIXED, "max_iter_harmony": 2})
    expected, _, fit, _ = run(MemoryCells, Z, design, params)
    start = time.perf_counter()
    got, _, fit_got, _ = run(JaxCells, Z, design, params, devices=gpu[:1])
    print(f"{gpu[0].device_kind}: {time.perf_counter() - start:.2f} s, compilation included")
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(fit_got.history.total, fit.history.total, rtol=1e-5)
    np.testing.assert_array_equal(run(JaxCells, Z, design, params, devices=gpu[:1])[0], got)
