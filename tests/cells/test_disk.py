"""Cells on disk and rounds in a checkpoint: the bits of a run in memory, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from agreement import FIXED, run
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import first
from strategies import cells_with_batches

import harmonax
from harmonax import io
from harmonax.cells.disk import DiskCells
from harmonax.cells.memory import MemoryCells
from harmonax.cli import run as command
from harmonax.design import BatchDesign
from harmonax.engine.budget import MemoryEstimate, choose
from harmonax.engine.checkpoint import _ROUND, Checkpoint
from harmonax.errors import HarmonaxWarning, InputError, OutputError
from harmonax.inputs.values import data_hash
from harmonax.params import HarmonyParams
from harmonax.system.memory import available, human, parse_size

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="cells on disk need pread")
FLAVORS = ["harmony1", "harmony2"]
ENDLESS = {"tol_clustering": 0.0, "tol_harmony": 0.0}


def assert_same_bits(one, other):
    np.testing.assert_array_equal(one.embedding, other.embedding)
    np.testing.assert_array_equal(one.R, other.R)
    assert one.fit.history == other.fit.history


class TestBits:
    @settings(max_examples=15, deadline=None)
    @given(
        n=st.integers(30, 400),
        slab=st.integers(1, 60_000),
        threads=st.integers(1, 3),
        seed=st.integers(0, 99),
        flavor=st.sampled_from(FLAVORS),
        precision=st.sampled_from(["float32", "float64"]),
        levels=st.sampled_from([(3,), (3, 2), (5, 3, 2), (25,)]),
        cache_bytes=st.sampled_from([0, 5_000, 1 << 20]),
    )
    def test_are_those_of_memory(self, n, slab, threads, seed, flavor, precision, levels, cache_bytes):
        Z, codes = cells_with_batches(n, 5, levels, seed=seed)
        work = BatchDesign.from_codes(codes), HarmonyParams(flavor=flavor, n_clusters=4, **FIXED)
        how = {"slab_bytes": slab, "n_threads": threads, "cache_bytes": cache_bytes}
        on_disk = run(DiskCells, Z, *work, precision=precision, **how)
        assert_same_bits(on_disk, run(MemoryCells, Z, *work, precision=precision))

    def test_seeding_and_all_else_too(self, tmp_path):
        # More cells than the seeding's sample.
        Z, codes = cells_with_batches(12_000, 6, (4,), seed=0)
        one = harmonax.harmonize(Z.astype(np.float32), codes, rng=3)
        with h5py.File(tmp_path / "Z.h5", "w") as file:
            file["Z"] = Z.astype(np.float32)
            other = harmonax.harmonize(file["Z"], codes, rng=3, backend="disk", max_memory="64G", scratch=tmp_path)
        np.testing.assert_array_equal(one.embedding, other.embedding)
        np.testing.assert_array_equal(one.cluster_mass, other.cluster_mass)
        np.testing.assert_array_equal(one.assignments(), other.assignments())
        assert other.backend["cells"] == "disk"
        assert other.data_sha256 == data_hash(Z.astype(np.float32), other.design)

    def test_rows_are_given_in_any_order(self, tmp_path):
        Z, codes = cells_with_batches(2000, 6, (4,), seed=0)
        whole = harmonax.harmonize(Z, codes, rng=0, dtype=np.float64)
        lazy = harmonax.harmonize(Z, codes, rng=0, dtype=np.float64, backend="disk", out="lazy", scratch=tmp_path)
        assert (lazy.embedding.shape, lazy.embedding.dtype) == (Z.shape, np.float64)
        for part in (slice(700, 900), slice(0, 10), slice(1990, None), slice(5, 5), slice(0, 100, 7)):
            np.testing.assert_array_equal(lazy.embedding[part], whole.embedding[part])
        np.testing.assert_array_equal(np.asarray(lazy.embedding), whole.embedding)

    def test_the_result_goes_where_it_is_told(self, tmp_path):
        Z, codes = cells_with_batches(2000, 6, (4,), seed=0)
        whole = harmonax.harmonize(Z, codes, rng=0).embedding
        for backend in ("memory", "disk"):
            out = np.empty(Z.shape, np.float32)
            result = harmonax.harmonize(Z, codes, rng=0, backend=backend, out=out, scratch=tmp_path)
            assert result.embedding is out
            np.testing.assert_array_equal(out, whole)
        with pytest.raises(InputError, match=r"out has shape \(3,\)"):
            harmonax.harmonize(Z, codes, out=np.empty(3))

    def test_nothing_is_left_behind(self, tmp_path):
        Z, codes = cells_with_batches(500, 6, (4,), seed=0)
        result = harmonax.harmonize(Z, codes, backend="disk", scratch=tmp_path)
        assert not list(tmp_path.iterdir())
        assert result.assignments().shape[0] == 500


class TestRefusals:
    def test_values_seen_on_the_way(self, tmp_path):
        Z, codes = cells_with_batches(500, 6, (4,), seed=0)
        Z[321, 2] = np.nan
        with h5py.File(tmp_path / "Z.h5", "w") as file:
            file["Z"] = Z
            for backend in ("disk", "memory", "dense"):
                with pytest.raises(InputError, match=r"NaN or infinite values in 1 cells \(first: row 321\)"):
                    harmonax.harmonize(file["Z"], codes, backend=backend, scratch=tmp_path)

    def test_text_and_shapes(self, tmp_path):
        with h5py.File(tmp_path / "Z.h5", "w") as file:
            file["text"] = np.array([["a", "b"]] * 3, dtype=object)
            file["flat"] = np.zeros(5)
            with pytest.raises(InputError, match="dtype object; allowed are real numbers"):
                harmonax.harmonize(file["text"], ["x", "y", "x"])
            with pytest.raises(InputError, match=r"shape \(5,\)"):
                harmonax.harmonize(file["flat"], list("xyxyx"))

    def test_too_little_memory_is_told_before_anything_is_made(self, tmp_path):
        Z, codes = cells_with_batches(500, 6, (4,), seed=0)
        with pytest.raises(InputError, match=r"even from disk this run needs .* [MG]iB, but 10 MiB are allowed"):
            harmonax.harmonize(Z, codes, max_memory="10M", scratch=tmp_path)
        with pytest.raises(InputError, match="in memory this run needs"):
            harmonax.harmonize(Z, codes, max_memory="10M", backend="memory")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("size", ["much", "-3", 0, "3X", "", "1.2.3G"])
    def test_what_is_no_size(self, size):
        with pytest.raises(InputError, match="is not a valid size; write bytes, or for instance 500M"):
            parse_size(size)

    def test_a_scratch_directory_that_is_not_there(self, tmp_path):
        Z, codes = cells_with_batches(500, 6, (4,), seed=0)
        with pytest.raises(OutputError, match=r"scratch file in .*: No such file"):
            harmonax.harmonize(Z, codes, backend="disk", scratch=tmp_path / "none")


class TestSelection:
    @pytest.fixture(autouse=True)
    def small_process(self, monkeypatch):
        monkeypatch.setattr("harmonax.engine.budget.resident", lambda: 200 << 20)

    SIZE = MemoryEstimate(cells=10 << 30, to_load=5 << 30, result=0, each=1 << 30, tables=1 << 20)

    def test_memory_while_it_suffices_else_disk(self):
        assert choose("auto", self.SIZE, 40 << 30).name == "memory"
        choice = choose("auto", self.SIZE, 4 << 30)
        assert choice.name == "disk"
        assert "4.00 GiB are allowed" in choice.why
        # The pieces fit into what is allowed.
        assert self.SIZE.on_disk(choice.slab_bytes) < 4 << 30
        assert choose("auto", self.SIZE, 2 << 30).slab_bytes <= choice.slab_bytes

    def test_without_a_limit_what_is_free_decides(self, monkeypatch):
        for free, backend in ((None, "memory"), (4 << 30, "disk"), (80 << 30, "memory")):
            monkeypatch.setattr("harmonax.engine.budget.available", lambda free=free: free)
            assert choose("auto", self.SIZE, None).name == backend

    def test_what_memory_is_left_keeps_something_of_a_round(self, monkeypatch):
        monkeypatch.setattr("harmonax.engine.budget.available", lambda: 80 << 30)
        size = dataclasses.replace(self.SIZE, cache=10 << 30)
        kept = {limit: choose("auto", size, limit << 30).cache_bytes for limit in (60, 30, 8)}
        assert kept[60] == size.cache
        assert 0 < kept[30] < size.cache
        assert 0 < kept[8] < size.cache
        for limit, name in ((30, "memory"), (8, "disk")):
            choice = choose("auto", size, limit << 30)
            assert choice.name == name
            taken = size.in_memory if name == "memory" else size.on_disk(choice.slab_bytes)
            assert (200 << 20) + taken + choice.cache_bytes <= limit << 30
        # The scratch file wants what is free to be cached by the system.
        assert choose("disk", size, None).cache_bytes == 0
        assert choose("memory", size, None).cache_bytes == size.cache

    @pytest.mark.parametrize(
        ("params", "said"),
        [
            ({}, "all"),
            ({"flavor": "harmony1"}, None),
            ({"sigma": 0.05}, None),
            ({"sigma": 0.05, "precision": "float64"}, "all"),
        ],
    )
    def test_the_record_says_whether_something_is_kept(self, params, said):
        Z, codes = cells_with_batches(500, 6, (4,), seed=0)
        result = harmonax.harmonize(
            Z, codes, HarmonyParams(n_clusters=5, max_iter_harmony=2, **params), backend="memory"
        )
        assert result.backend.get("cache") == said

    def test_free_memory_of_a_container(self, tmp_path):
        (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
        group = tmp_path / "cgroup"
        group.mkdir()
        none = tmp_path / "none"
        assert available(tmp_path / "meminfo", group, none) == 8000 * 1024
        for name, text in {
            "max": "5000000",
            "current": "3000000",
            "stat": "inactive_file 600\nactive_file 400",
        }.items():
            (group / f"memory.{name}").write_text(text)
        assert available(tmp_path / "meminfo", group, none) == 2_001_000
        (group / "memory.max").write_text("max")
        assert available(tmp_path / "meminfo", group, none) == 8000 * 1024
        assert available(none, none, none) is None

    def test_sizes(self):
        assert [parse_size(s) for s in (None, 1000, "2k", "1.5 GiB", "4g", "1e3")] == [
            None, 1000, 2048, 3 << 29, 4 << 30, 1000,
        ]  # fmt: skip
        sizes = [0, 999, 1 << 10, 5 << 20, 3 << 29, 104 << 30, 30_000 << 40]
        texts = ["0 bytes", "999 bytes", "1 KiB", "5 MiB", "1.50 GiB", "104.00 GiB", "30000.00 TiB"]
        assert [human(size) for size in sizes] == texts


def interrupted(Z, codes, params, directory, after, **how):
    """Run until a few passes are done, and stop there."""

    class Enough(Exception):
        pass

    passes = iter(range(10_000))

    def stop(*_):
        if next(passes) >= after:
            raise Enough

    with pytest.raises(Enough):
        harmonax.harmonize(Z, codes, params, checkpoint=directory, progress=stop, **how)


class TestCheckpoint:
    @pytest.mark.parametrize(("first", "then"), [("memory", "disk"), ("disk", "memory"), ("disk", "disk")])
    @pytest.mark.parametrize("flavor", FLAVORS)
    def test_goes_on_with_the_same_bits(self, flavor, first, then, tmp_path):
        Z, codes = cells_with_batches(900, 7, (3, 2), seed=2)
        params = HarmonyParams(flavor=flavor, n_clusters=9, max_iter_harmony=5, max_iter_clustering=6, **ENDLESS)
        whole = harmonax.harmonize(Z, codes, params, rng=7)
        for after in (0, 1, 8, 8, 8):
            interrupted(Z, codes, params, tmp_path / "kept", after, rng=7, backend=first, scratch=tmp_path)
        assert len(list((tmp_path / "kept").glob("round-*.h5"))) >= 2
        rest = harmonax.harmonize(Z, codes, params, checkpoint=tmp_path / "kept", backend=then, scratch=tmp_path)
        np.testing.assert_array_equal(rest.embedding, whole.embedding)
        np.testing.assert_array_equal(rest.cluster_mass, whole.cluster_mass)
        assert rest.history.to_dict() == whole.history.to_dict()
        assert (rest.seed, rest.status, rest.notes) == (7, whole.status, whole.notes)

    def test_a_finished_run_is_only_written_out_again(self, tmp_path):
        Z, codes = cells_with_batches(500, 6, (3,), seed=2)
        whole = harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path)
        calls = []
        again = harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path, progress=lambda *a: calls.append(a))
        np.testing.assert_array_equal(again.embedding, whole.embedding)
        assert calls == []

    def test_a_run_that_ended_at_its_limit_goes_on_with_a_higher_one(self, tmp_path):
        Z, codes = cells_with_batches(500, 6, (3,), seed=2)
        params = HarmonyParams(tol_harmony=0, max_iter_harmony=2)
        harmonax.harmonize(Z, codes, params, rng=1, checkpoint=tmp_path)
        more = harmonax.harmonize(Z, codes, params.replace(max_iter_harmony=4), rng=1, checkpoint=tmp_path)
        whole = harmonax.harmonize(Z, codes, params.replace(max_iter_harmony=4), rng=1)
        assert len(more.history.passes) == 4
        np.testing.assert_array_equal(more.embedding, whole.embedding)

    def test_a_round_that_cannot_be_read_is_made_again(self, tmp_path):
        Z, codes = cells_with_batches(500, 6, (3,), seed=2)
        params = HarmonyParams(tol_harmony=0, max_iter_harmony=4)
        whole = harmonax.harmonize(Z, codes, params, rng=1, checkpoint=tmp_path)
        damaged = bytearray((tmp_path / "round-0003.h5").read_bytes())
        damaged[len(damaged) // 2] ^= 0xFF
        (tmp_path / "round-0003.h5").write_bytes(damaged)
        with pytest.warns(HarmonaxWarning, match=r"round-0003.h5 cannot be used .* from the round before it"):
            again = harmonax.harmonize(Z, codes, params, rng=1, checkpoint=tmp_path)
        np.testing.assert_array_equal(again.embedding, whole.embedding)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"params": HarmonyParams(theta=1)}, r"another run \(theta is 2.0 there and 1.0 here\)"),
            ({"rng": 2}, r"another run \(seed is 1 there and 2 here\)"),
            ({"Z": 1.0}, "other data"),
            ({"codes": 1}, "other data"),
        ],
        ids=["params", "seed", "embedding", "labels"],
    )
    def test_another_run_is_refused(self, change, says, tmp_path):
        Z, codes = cells_with_batches(500, 6, (3,), seed=2)
        harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        other = np.roll(codes, change.get("codes", 0))
        with pytest.raises(InputError, match=says):
            harmonax.harmonize(
                Z + change.get("Z", 0), other, change.get("params"), rng=change.get("rng", 1), checkpoint=tmp_path
            )
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_directories_that_hold_something_else_are_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("all of it")
        with pytest.raises(InputError, match="is not empty and holds no checkpoint"):
            Checkpoint(tmp_path)
        (tmp_path / "checkpoint.json").write_text("{}")
        with pytest.raises(InputError, match="is not a checkpoint of this version"):
            Checkpoint(tmp_path)
        with pytest.raises(OutputError, match="checkpoint directory"):
            Checkpoint(tmp_path / "no" / "such")
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="checkpoint directory"):
            Checkpoint(tmp_path / "file")

    @pytest.mark.parametrize("seed", ['"x"', "null", "[1]", '{"a": 1}'])
    def test_a_seed_that_is_none_is_refused(self, seed, tmp_path):
        Z, codes = cells_with_batches(200, 4, (2,), seed=2)
        harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path)
        run = tmp_path / "checkpoint.json"
        run.write_text(run.read_text().replace('"seed": 1', f'"seed": {seed}'))
        with pytest.raises(InputError, match="is not a checkpoint of this version"):
            harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path)

    def test_nothing_is_made_before_the_input_is_known_to_be_good(self, tmp_path):
        Z, codes = cells_with_batches(200, 4, (2,), seed=2)
        Z[5, 1] = np.nan
        with pytest.raises(InputError, match="NaN"):
            harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path / "kept")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("what", ["another seed", "the first", "edited", "sealed again", "not finite", "cut"])
    def test_rounds_that_are_not_of_this_run_are_made_again(self, what, tmp_path):
        Z, codes = cells_with_batches(300, 4, (2,), seed=2)
        params = HarmonyParams(tol_harmony=0, max_iter_harmony=3, n_clusters=5)
        whole = harmonax.harmonize(Z, codes, params, rng=1)
        kept, other = tmp_path / "kept", tmp_path / "other"
        for seed, place in ((1, kept), (2, other)):
            harmonax.harmonize(Z, codes, params.replace(max_iter_harmony=2), rng=seed, checkpoint=place)
        second = kept / "round-0002.h5"
        if what == "another seed":
            shutil.copy(other / "round-0002.h5", second)
        elif what == "the first":
            shutil.copy(kept / "round-0001.h5", second)
        elif what == "edited":
            with h5py.File(second, "r+") as file:
                file["tables/Y"][0, 0] *= 1.01
        else:
            resealed(second, what)
        with pytest.warns(HarmonaxWarning, match=r"round-0002.h5 cannot be used"):
            again = harmonax.harmonize(Z, codes, params, rng=1, checkpoint=kept)
        np.testing.assert_array_equal(again.embedding, whole.embedding)

    def test_of_two_runs_at_once_the_second_is_told_so(self, tmp_path):
        Z, codes = cells_with_batches(300, 4, (2,), seed=2)
        refused = []

        def at_the_same_time(*_):
            if not refused:
                with pytest.raises(OutputError, match="another run is using the checkpoint") as error:
                    harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path)
                refused.append(error)

        harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path, progress=at_the_same_time)
        assert refused
        harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path)

    def test_another_version_or_instruction_set_is_said(self, tmp_path):
        Z, codes = cells_with_batches(300, 4, (2,), seed=2)
        harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path)
        run = tmp_path / "checkpoint.json"
        known = json.loads(run.read_text())
        run.write_text(json.dumps(known | {"made_by": known["made_by"] | {"cells": "abacus"}}))
        with pytest.warns(HarmonaxWarning, match=r"cells abacus; this is .* the last bits may differ"):
            harmonax.harmonize(Z, codes, rng=1, checkpoint=tmp_path)


def resealed(path: Path, what: str) -> None:
    """Write other tables into a round, with a checksum that fits them."""
    plain = io.read_bundle(path, io.H5AD, _ROUND)
    about, tables = io.unseal(plain, _ROUND, str(path)), plain["tables"]
    if what == "sealed again":
        about = about | {"after": "0" * 64}
    if what == "not finite":
        tables["W"] = tables["W"] * np.nan
    if what == "cut":
        tables["mass"] = tables["mass"][:1]
    path.unlink()
    io.save_bundle(path, io.H5AD, io.seal(_ROUND, about, {"tables": tables}))


# Runs as often as it is told to, each in a process that kills itself at a moment which nothing announces, after so many
# seconds; 0: it does not. All are forked from one that has imported what takes long.
WORK = """
    import os, signal, sys, threading, numpy as np
    import harmonax
    backend, flavor = sys.argv[1:]
    Z, codes = np.load("Z.npy"), np.load("codes.npy")
    params = harmonax.HarmonyParams(
        flavor=flavor, n_clusters=40, max_iter_harmony=12, max_iter_clustering=10, tol_harmony=0, tol_clustering=0
    )
    for line in sys.stdin:
        if not (child := os.fork()):
            if float(line) > 0:
                threading.Timer(float(line), os.kill, (os.getpid(), signal.SIGKILL)).start()
            result = harmonax.harmonize(Z, codes, params, rng=0, backend=backend, checkpoint="kept", scratch=".")
            np.save("part.npy", result.embedding)
            os.replace("part.npy", "out.npy")
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.thorough
@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
@pytest.mark.parametrize("backend", ["disk", "memory"])
def test_killed_at_random_moments_it_ends_with_the_same_bits(backend, tmp_path):
    Z, codes = cells_with_batches(30_000, 12, (4,), seed=5)
    np.save(tmp_path / "Z.npy", Z.astype(np.float32))
    np.save(tmp_path / "codes.npy", codes)
    flavor = "harmony1" if backend == "memory" else "harmony2"
    work = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(WORK), backend, flavor]
    with subprocess.Popen(work, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def start(delay):
            print(delay, file=process.stdin, flush=True)
            return int(process.stdout.readline())

        assert start(0) == 0
        expected = (tmp_path / "out.npy").read_bytes()
        rng, kills = random.Random(0), 0
        clear(tmp_path)
        while kills < 6:
            ended = start(rng.uniform(0.01, 0.6))
            assert ended in (0, -9)
            kills += ended == -9
            if ended == 0:
                assert (tmp_path / "out.npy").read_bytes() == expected
                clear(tmp_path)
        assert start(0) == 0
    assert (tmp_path / "out.npy").read_bytes() == expected
    # Neither scratch files nor half a round.
    assert {p.name for p in tmp_path.iterdir()} <= {"Z.npy", "codes.npy", "kept", "out.npy", "part.npy"}
    assert not [p for p in (tmp_path / "kept").iterdir() if p.name.endswith(".part")]


def clear(folder: Path) -> None:
    """Remove what a run made."""
    (folder / "out.npy").unlink()
    for path in (folder / "kept").iterdir():
        path.unlink()


@pytest.fixture
def small_disk(tmp_path):
    """Give a file system of 6 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


class TestFullDisk:
    def test_scratch_says_what_it_needs_before_it_starts(self, small_disk):
        Z, codes = cells_with_batches(40_000, 20, (3,), seed=0)
        with pytest.raises(OutputError, match=r"\d+ MiB are needed, \d+ [KM]iB are free; choose another"):
            harmonax.harmonize(Z, codes, backend="disk", scratch=small_disk)
        assert not list(small_disk.iterdir())

    def test_a_round_that_finds_no_room_leaves_those_before_it(self, small_disk, tmp_path):
        Z, codes = cells_with_batches(3000, 20, (60,), seed=0)
        params = HarmonyParams(n_clusters=60, max_iter_harmony=8, tol_harmony=0)
        whole = harmonax.harmonize(Z, codes, params, rng=0)
        with pytest.raises(OutputError, match=r"round-000\d.h5: the disk is full: .* are needed"):
            harmonax.harmonize(Z, codes, params, rng=0, checkpoint=small_disk / "kept")
        rounds = sorted(path.name for path in (small_disk / "kept").glob("round-*"))
        assert 1 <= len(rounds) < 8
        # With more room it goes on.
        (tmp_path / "kept").mkdir()
        for path in (small_disk / "kept").iterdir():
            (tmp_path / "kept" / path.name).write_bytes(path.read_bytes())
        rest = harmonax.harmonize(Z, codes, params, checkpoint=tmp_path / "kept")
        np.testing.assert_array_equal(rest.embedding, whole.embedding)


@pytest.fixture
def atlas(tmp_path, monkeypatch):
    """Give the same embedding in every format, in the working directory, and its correction in memory."""
    monkeypatch.chdir(tmp_path)
    Z, codes = cells_with_batches(4000, 6, (3,), seed=4)
    Z = Z.astype(np.float32)
    obs = pd.DataFrame({"batch": pd.Categorical([f"b{c}" for c in codes[:, 0]])}, [f"cell{i}" for i in range(len(Z))])
    adata = anndata.AnnData(np.ones((len(Z), 2), np.float32), obs=obs, obsm={"X_pca": Z})
    adata.write_h5ad("in.h5ad")
    if pytest.importorskip("zarr"):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata.write_zarr("in.zarr")
    adata[:1000].copy().write_h5ad("first.h5ad")
    adata[1000:].copy().write_h5ad("second.h5ad")
    np.save("in.npy", Z)
    obs.to_csv("meta.csv")
    pd.DataFrame(Z, obs.index, [f"PC{i}" for i in range(6)]).to_parquet("in.parquet", row_group_size=700)
    design = harmonax.inputs.columns.design_from_table(obs, "batch")
    return harmonax.harmonize(Z, design, rng=0).embedding


def integrate(*words: str) -> int:
    return command(["integrate", *words, "--batch-key", "batch", "--quiet"])


def embedding_in(path: str) -> np.ndarray:
    if path.endswith(".npy"):
        return np.load(path)
    if path.endswith(".parquet"):
        return pd.read_parquet(path).to_numpy()
    if path.endswith(".csv"):
        return pd.read_csv(path, index_col=0, dtype={"cell": str}).to_numpy(np.float32)
    read = anndata.read_h5ad if path.endswith(".h5ad") else anndata.read_zarr
    return read(path).obsm["X_pca_harmony"]


SOURCES = ["in.h5ad", "in.zarr", "in.npy", "in.parquet"]
TARGETS = ["out.zarr", "out.npy", "out.parquet", "out.csv", "out.h5ad"]
# Each of them at least once, then all other pairs.
PAIRS = list(zip(SOURCES + SOURCES[1:2], TARGETS, strict=True))
PAIRS += sorted(set(itertools.product(SOURCES, TARGETS)) - set(PAIRS))


class TestCommand:
    @pytest.mark.parametrize(("source", "target"), first(len(TARGETS), PAIRS, names=2))
    def test_every_format_is_read_and_written_in_pieces(self, source, target, atlas, monkeypatch):
        monkeypatch.setattr("harmonax.cells.disk.SLAB_BYTES", 10_000)
        monkeypatch.setattr("harmonax.engine.budget.SLAB_BYTES", 10_000)
        metadata = [] if source in ("in.h5ad", "in.zarr") else ["--metadata", "meta.csv"]
        assert integrate(source, "-o", target, "--backend", "disk", *metadata) == 0
        np.testing.assert_array_equal(embedding_in(target), atlas)
        record = json.loads(Path(f"{target}.run.json").read_text())
        assert record["backend"]["cells"] == "disk"
        assert len(record["input"]["sha256"]) == 64
        if target == "out.parquet" and source != "in.npy":
            assert pd.read_parquet(target).index[1] == "cell1"
        if target == "out.h5ad" and source in ("in.h5ad", "in.zarr"):
            whole = anndata.read_h5ad(target)
            assert (whole.obs_names[3], whole.X.shape) == ("cell3", (4000, 2))

    def test_the_record_has_the_same_hash_as_in_memory(self, atlas):
        found = []
        for backend in ("memory", "disk"):
            assert integrate("in.h5ad", "-o", f"{backend}.h5ad", "--backend", backend) == 0
            found.append(json.loads(Path(f"{backend}.h5ad.run.json").read_text())["input"]["sha256"])
        assert found[0] == found[1]

    def test_several_files_are_as_one(self, atlas):
        for options in ([], ["--backend", "disk"]):
            assert integrate("first.h5ad", "second.h5ad", "-o", "both.h5ad", "--overwrite", *options) == 0
            both = anndata.read_h5ad("both.h5ad")
            np.testing.assert_array_equal(both.obsm["X_pca_harmony"], atlas)
            assert both.obs["batch"].tolist() == anndata.read_h5ad("in.h5ad").obs["batch"].tolist()
        record = json.loads(Path("both.h5ad.run.json").read_text())
        assert [Path(part["path"]).name for part in record["input"]["files"]] == ["first.h5ad", "second.h5ad"]

    def test_the_names_of_files_make_batches(self, atlas):
        words = ["integrate", "first.h5ad", "second.h5ad", "-o", "both.h5ad", "--batch-key", "lab", "--quiet"]
        assert command([*words, "--batch-from", "file"]) == 0
        assert anndata.read_h5ad("both.h5ad").obs["lab"].value_counts().to_dict() == {"second": 3000, "first": 1000}

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["first.h5ad", "first.h5ad"], "given more than once"),
            (["first.h5ad", "in.npy"], "several inputs must be .h5ad or .zarr"),
            (["first.h5ad", "--batch-from", "file"], "there is one input only"),
            (["in.h5ad", "--max-memory", "lots"], "is not a valid size"),
            (["in.h5ad", "--max-memory", "1M"], "but 1 MiB are allowed: raise max_memory"),
            (["first.h5ad", "second.h5ad", "--metadata", "meta.csv"], "metadata table goes with one bare"),
        ],
    )
    def test_what_cannot_be_done_is_refused(self, words, says, atlas, capsys):
        assert integrate(*words, "-o", "out.h5ad") == 3
        assert says in capsys.readouterr().err
        assert not Path("out.h5ad").exists()

    def test_files_with_other_features_are_refused(self, atlas, capsys):
        other = anndata.read_h5ad("second.h5ad")
        other.obsm["X_pca"] = other.obsm["X_pca"][:, :4]
        other.write_h5ad("fewer.h5ad")
        assert integrate("first.h5ad", "fewer.h5ad", "-o", "out.h5ad") == 3
        assert "has 4 features but that of first.h5ad has 6: one PCA of all cells" in capsys.readouterr().err

    def test_a_limit_that_reading_exceeds_is_no_promise(self, atlas, capsys, monkeypatch):
        monkeypatch.setattr("harmonax.system.memory.peak", lambda: 3 << 30)
        assert integrate("in.h5ad", "-o", "out.h5ad", "--max-memory", "2G") == 3
        assert "took 3.00 GiB, but 2.00 GiB are allowed" in capsys.readouterr().err
        assert not Path("out.h5ad").exists()

    def test_the_checkpoint_goes_when_the_output_is_in_place(self, atlas):
        assert integrate("in.h5ad", "-o", "out.h5ad", "--checkpoint", "kept") == 0
        assert not Path("kept").exists()
        np.testing.assert_array_equal(embedding_in("out.h5ad"), atlas)


PEAK = """
    import json, sys
    from harmonax.cli import run
    assert run(sys.argv[1:]) == 0
"""


@pytest.mark.thorough
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is measured on Linux")
def test_the_promise_on_memory_is_kept(tmp_path):
    # 1.5 million x 40: in memory it takes 240 MB for each copy.
    n, d, rng = 1_500_000, 40, np.random.default_rng(0)
    with h5py.File(tmp_path / "in.h5ad", "w") as file:
        obs = pd.DataFrame({"batch": pd.Categorical(["a"], ["a", "b", "c"])}, index=["cell"])
        anndata.io.write_elem(file, "/", anndata.AnnData(obs=obs))
        Z = file["obsm"].create_dataset("X_pca", (n, d), np.float32)
        Z.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for start in range(0, n, 100_000):
            Z[start : start + 100_000] = rng.standard_normal((100_000, d), np.float32)
        for group, name, values in (
            ("obs/batch", "codes", rng.integers(3, size=n).astype(np.int8)),
            ("obs", "_index", np.arange(n).astype("S7")),
        ):
            attributes = dict(file[group][name].attrs)
            del file[group][name]
            file[group].create_dataset(name, data=values, dtype=h5py.string_dtype() if name == "_index" else None)
            file[group][name].attrs.update(attributes)
    words = ["integrate", "in.h5ad", "-o", "out.npy", "--batch-key", "batch", "--max-memory", "400M", "--quiet"]
    words += ["--max-iter-harmony", "2", "--max-iter-clustering", "2", "--n-clusters", "20"]
    subprocess.run([sys.executable, "-c", textwrap.dedent(PEAK), *words], cwd=tmp_path, check=True)
    record = json.loads((tmp_path / "out.npy.run.json").read_text())
    assert record["backend"]["cells"] == "disk"
    assert record["peak_memory_bytes"] < 400 << 20


@pytest.mark.thorough
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the parent's memory counts on Linux")
def test_what_the_parent_held_is_not_counted():
    ballast = np.ones(80_000_000)
    say = [sys.executable, "-c", "from harmonax.system.memory import peak; print(peak())"]
    assert int(subprocess.run(say, capture_output=True, text=True, check=True).stdout) < ballast.nbytes
