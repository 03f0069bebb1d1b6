"""Cells on a Dask cluster beyond `test_contract.py`: workers as threads and as processes, some of which are killed."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from agreement import Answers, assert_agree, run
from sampling import first
from strategies import cells_with_batches

import harmonax
from harmonax.algorithm.schedule import Block, FixedPartition
from harmonax.cells.dense import DenseCells
from harmonax.design import BatchDesign
from harmonax.errors import HarmonaxError, HarmonaxWarning, InputError, MissingExtraError
from harmonax.params import HarmonyParams

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")

from harmonax.cells.dask import partition as partition_module  # noqa: E402
from harmonax.cells.dask import workers as workers_module  # noqa: E402
from harmonax.cells.dask.cells import DaskCells  # noqa: E402

# A few passes and blocks: every call is a message to every worker.
SHORT = {
    **{"max_iter_harmony": 3, "max_iter_clustering": 2, "tol_clustering": 0.0, "tol_harmony": 0.0},
    **{"block_proportion": 0.25, "n_clusters": 9},
}
# Of very different sizes, one of a single cell and one of none; columns in two chunks.
CHUNKS = ((700, 1, 0, 260, 39), (7, 4))
LOCAL = {"dashboard_address": ":0", "threads_per_worker": 1}


@pytest.fixture(scope="module")
def threads():
    """A cluster of four workers in this process: messages cost little."""
    with (
        distributed.LocalCluster(n_workers=4, processes=False, **LOCAL) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def processes():
    """A cluster of two processes."""
    with (
        distributed.LocalCluster(n_workers=2, processes=True, **LOCAL) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


class Programs:
    """A scheduler and workers started from the command line, without nannies, so that the killed stay dead."""

    def __init__(self, directory) -> None:
        self.file, self.directory, self.children = directory / "scheduler.json", directory, []
        # A task may end one worker, and no more, before it is given up.
        self.start("scheduler", "--port", "0", DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1")
        until = time.time() + 600
        while not self.file.exists() and time.time() < until:
            time.sleep(0.05)
        self.client = distributed.Client(scheduler_file=str(self.file), timeout=600, set_as_default=False)

    def start(self, *command, **env) -> None:
        """Start a program and remember it."""
        command = ["-m", "dask", *command, "--no-dashboard", "--scheduler-file", str(self.file)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.children.append(subprocess.Popen([sys.executable, *command], env=os.environ | env, **quiet))

    def have(self, n: int):
        """Start workers until there are n; return the client."""
        alive = len(self.client.nthreads())
        for _ in range(n - alive):
            self.start("worker", "--no-nanny", "--nthreads", "1", "--local-directory", str(self.directory))
        if alive < n:
            self.client.wait_for_workers(n, timeout=600)
        return self.client

    def kill(self, address: str) -> None:
        """Kill one worker; it is gone when this returns, though nobody may have been told."""
        pid = self.client.run(os.getpid, workers=[address])[address]
        child = next(child for child in self.children if child.pid == pid)
        child.kill()
        child.wait()

    def close(self) -> None:
        """End them all."""
        self.client.close()
        for child in reversed(self.children):
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Programs that may be killed."""
    started = Programs(tmp_path_factory.mktemp("dask"))
    yield started
    started.close()


def problem(levels: tuple[int, ...] = (4, 2), seed: int = 1) -> tuple[np.ndarray, BatchDesign]:
    """Return 1000 cells; some partitions of `CHUNKS` carry one joint level only."""
    Z, codes = cells_with_batches(1000, 11, levels, seed)
    codes[700:961] = codes[700]
    return Z, BatchDesign.from_codes(codes)


def run_dask(Z, design, params, client, kind=DaskCells, **how) -> Answers:
    """Run on a client's cluster."""
    with client.as_current():
        return run(kind, Z, design, params, seed=3, precision=params.precision, client=client, **how)


def assert_same_bits(a, b) -> None:
    np.testing.assert_array_equal(a.embedding, b.embedding)
    np.testing.assert_array_equal(a.R, b.R)
    np.testing.assert_array_equal(a.fit.moment, b.fit.moment)
    assert a.fit.history == b.fit.history


def assert_nothing_is_left(client) -> None:
    """Fail unless the workers let their cells go, which they are told of by and by."""

    def held(dask_worker):
        from harmonax.cells.dask import partition

        return len(dask_worker.state.actors) + len(partition._LIVING)

    until = time.time() + 600
    while any(client.run(held).values()) and time.time() < until:
        time.sleep(0.05)
    assert not any(client.run(held).values())


def test_passes_that_stop_by_themselves_agree(threads):
    # No pass is known to be the last, so the moments are a question of their own.
    Z, design = problem()
    params = HarmonyParams(**{**SHORT, "precision": "float64", "max_iter_clustering": 20, "tol_clustering": 0.5})
    got = run_dask(da.from_array(Z, chunks=CHUNKS), design, params, threads)
    assert_agree(got, run(DenseCells, Z, design, params, seed=3), Z, 1e-9)
    assert got.cells.embedding.chunks == (CHUNKS[0], (11,))
    assert got.cells.description["n_partitions"] == 4
    assert_nothing_is_left(threads)


@pytest.mark.parametrize("flavor", first(1, ["harmony2", "harmony1"]))
def test_the_bits_depend_neither_on_workers_nor_on_threads(flavor, threads, processes):
    Z, design = problem()
    Z = da.from_array(Z.astype(np.float32), chunks=CHUNKS)
    params = HarmonyParams(flavor=flavor, **SHORT)
    four = run_dask(Z, design, params, threads)
    assert_same_bits(run_dask(Z, design, params, processes), four)
    assert_same_bits(run_dask(Z, design, params, threads, n_threads=3), four)
    with distributed.LocalCluster(n_workers=1, processes=False, **LOCAL) as one, distributed.Client(one) as client:
        alone = run_dask(Z, design, params, client)
    assert_same_bits(alone, four)
    assert [each.cells.description["n_workers"] for each in (alone, four)] == [1, 4]


class Forgetful(DaskCells):
    """Loses partitions before one of its calls, without anybody's help."""

    at, loses = "", ()

    def _maybe(self, name, count):
        if (name, count) == self.at:
            self._workers._lose(self.loses)

    def sweep(self, block, *args, **how):
        self.n_sweeps = getattr(self, "n_sweeps", -1) + 1
        self._maybe("sweep", self.n_sweeps)
        return super().sweep(block, *args, **how)

    def moments(self, *args, **how):
        self._maybe("moments", len(self._past))
        return super().moments(*args, **how)

    def correct(self, *args, **how):
        self._maybe("correct", len(self._past))
        return super().correct(*args, **how)

    def emit(self, *args, **how):
        self._maybe("emit", len(self._past))
        return super().emit(*args, **how)


@pytest.mark.parametrize("flavor", first(1, ["harmony2", "harmony1"]))
def test_many_workers_pass_questions_on(flavor, threads, monkeypatch):
    Z, design = problem()
    Z = da.from_array(Z.astype(np.float32), chunks=CHUNKS)
    params = HarmonyParams(flavor=flavor, **SHORT)
    expected, messages, gather = run_dask(Z, design, params, threads), [], workers_module.Workers._gather

    def counting(self, calls):
        messages.append([len(group) for group, _ in calls])
        return gather(self, calls)

    monkeypatch.setattr(workers_module.Workers, "_gather", counting)
    monkeypatch.setattr(workers_module, "_DIRECT", 3)
    assert_same_bits(run_dask(Z, design, params, threads), expected)
    # After the first, which finds out where the partitions live: two of the four workers pass on to one each.
    assert messages[0] == messages[1] == [1, 1, 1, 1]
    assert {tuple(each) for each in messages[2:]} == {(2, 2)}
    monkeypatch.setattr(workers_module, "_DIRECT", 4)
    messages.clear()
    run_dask(Z, design, params, threads)
    assert {tuple(each) for each in messages} == {(1, 1, 1, 1)}


def test_what_is_asked_again_is_not_done_again(threads, monkeypatch):
    # An answer that is lost on the way leaves a partition that has corrected already.
    done = []
    monkeypatch.setattr(partition_module.Partition, "ready", lambda self: done.append(self.part.number))
    Z, design = problem()
    schedule = FixedPartition(4, np.random.SeedSequence(0))
    cells = DaskCells(da.from_array(Z, chunks=CHUNKS), design, schedule, client=threads)
    workers = cells._workers
    assert sorted(done) == [0, 1, 2, 3]
    for call, expected in [(workers._n_calls, 4), (workers._n_calls + 1, 5), (workers._n_calls + 1, 5)]:
        workers._actors[2].ask(pickle.dumps((call, "ready", None, {2: (workers._builds[2], ())}))).result()
        assert len(done) == expected
    cells.close()


@pytest.mark.thorough
@pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
def test_lost_partitions_are_made_anew_with_the_same_bits(flavor, threads):
    Z, design = problem()
    Z = da.from_array(Z, chunks=CHUNKS)
    params = HarmonyParams(flavor=flavor, **SHORT)
    expected = run_dask(Z, design, params, threads)
    for at in [("sweep", 0), ("sweep", 5), ("sweep", 14), ("sweep", 22), ("moments", 1), ("correct", 1), ("emit", 2)]:
        Losing = type("Losing", (Forgetful,), {"at": at, "loses": (0, 3)})
        assert_same_bits(run_dask(Z, design, params, threads, kind=Losing), expected)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flavor", "at", "passed_on"),
    [
        ("harmony2", [("sweep", 9), ("correct", 1)], False),
        ("harmony1", [("sweep", 21), ("emit", 2)], False),
        ("harmony2", [("sweep", 9), ("correct", 1)], True),
    ],
)
def test_killed_workers_are_survived_with_the_same_bits(flavor, at, passed_on, programs, threads, monkeypatch):
    # Sweep 21 is in the last pass of a round, whose moments are summed on the way.
    Z, design = problem()
    Z = da.from_array(Z, chunks=CHUNKS)
    params = HarmonyParams(flavor=flavor, **SHORT)
    if passed_on:
        monkeypatch.setattr(workers_module, "_DIRECT", 1)
    client, killed = programs.have(3), []

    class Killing(Forgetful):
        def _maybe(self, name, count):
            if (name, count) in at:
                # First the one that passes questions on, then one that they are passed on to.
                killed.append(self._workers.info[len(killed)].address)
                programs.kill(killed[-1])

    got = run_dask(Z, design, params, client, kind=Killing)
    assert len(set(killed)) == len(at)
    assert_same_bits(got, run_dask(Z, design, params, threads))
    assert_nothing_is_left(client)


@pytest.mark.thorough
def test_the_embedding_outlives_its_actors_and_all_workers(programs, tmp_path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    Z, design = problem()
    client = programs.have(1)
    expected, *_, cells = run_dask(da.from_array(Z, chunks=CHUNKS), design, HarmonyParams(**SHORT), client)
    assert_nothing_is_left(client)
    for address in client.nthreads():
        programs.kill(address)
    programs.have(1)
    np.testing.assert_array_equal(client.compute(cells.embedding, sync=True), expected)
    with client.as_current():
        # Zarr has chunks of one size.
        cells.embedding.rechunk((500, 11)).to_zarr(tmp_path / "corrected.zarr")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "corrected.zarr")[:], expected)


def per_pass(Z, design, client, chunks) -> tuple[int, int]:
    """Return bytes sent and received by a second pass with the same centroids."""
    schedule = FixedPartition(5, np.random.SeedSequence(0))
    cells = DaskCells(da.from_array(Z, chunks=(chunks, -1)), design, schedule, client=client)
    gen = np.random.default_rng(0)
    Y, sigma, logp = gen.normal(size=(20, Z.shape[1])), np.full(20, 0.1), gen.normal(size=(design.n_levels, 20))
    counts = []
    for _ in range(3):
        for block in schedule.all_blocks():
            cells.sweep(block, Y, sigma, logp, moment=False)
        counts.append((cells._workers.bytes_sent, cells._workers.bytes_received))
    cells.close()
    # Later passes with the same centroids do not send them.
    assert counts[1][0] - counts[0][0] == counts[2][0] - counts[1][0] < counts[0][0] - Y.nbytes
    return counts[2][0] - counts[1][0], counts[2][1] - counts[1][1]


def test_bytes_of_a_pass_depend_on_tables_not_on_cells(threads):
    codes = np.arange(8000) % 6
    Z = np.random.default_rng(0).normal(size=(8000, 5))
    once = per_pass(Z[:4000], BatchDesign.from_codes(codes[:4000]), threads, 1000)
    twice = per_pass(Z, BatchDesign.from_codes(codes), threads, 2000)
    assert once == twice
    # 5 blocks, 4 partitions, a table of 6 levels by 20 clusters each way, and a little around them.
    table = 5 * 4 * 6 * 20 * 8
    assert all(table <= n <= table + 5 * 4 * 700 for n in once)


def test_only_levels_of_a_partition_travel(threads):
    Z = np.random.default_rng(0).normal(size=(4000, 5))
    mixed = per_pass(Z, BatchDesign.from_codes(np.arange(4000) % 40), threads, 1000)
    sorted_ = per_pass(Z, BatchDesign.from_codes(np.arange(4000) // 100), threads, 1000)
    # A quarter of the levels in each, and a little around the tables.
    assert sum(sorted_) < 0.3 * sum(mixed)


def make(Z, client, n_cells=None):
    design = BatchDesign.from_codes(np.arange(n_cells or Z.shape[0]) % 2)
    return DaskCells(Z, design, FixedPartition(4, np.random.SeedSequence(0)), client=client)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"NaN or infinite values in 2 cells \(first: row 77\); remove or repair them"),
        (np.inf, r"NaN or infinite values in 2 cells \(first: row 77\)"),
        (1e16, r"values up to 1.0e\+16; allowed is up to 1e\+15: rescale it"),
    ],
)
def test_values_that_cannot_be_corrected_are_named(value, message, threads):
    Z = np.ones((100, 3))
    Z[[77, 90], 1] = value
    with pytest.raises(InputError, match=message):
        make(da.from_array(Z, chunks=(30, 3)), threads)
    assert_nothing_is_left(threads)


def test_unusable_arrays_are_refused(threads):
    Z = da.ones((100, 3), chunks=(30, 3))
    with pytest.raises(InputError, match="has 100 cells but the batch labels have 90"):
        make(Z, threads, 90)
    with pytest.raises(InputError, match=r"unknown size; call its compute_chunk_sizes\(\) first"):
        make(Z[Z[:, 0] > 0], threads, 100)
    with pytest.raises(InputError, match=r"shape \(100,\); allowed is \(cells, features\)"):
        make(Z[:, 0], threads)
    with pytest.raises(InputError, match="dtype complex64; allowed are real numbers"):
        make(Z.astype("complex64"), threads)
    wrong = Z.map_blocks(lambda block: block[:-1], dtype=Z.dtype, meta=np.empty((0, 0)))
    with pytest.raises(InputError, match=r"rows 0 to 29 of the embedding came with shape \(29, 3\)"):
        make(wrong, threads)


def test_without_a_client_it_says_what_to_do(monkeypatch):
    def nobody():
        raise ValueError("No global client found and no address provided")

    monkeypatch.setattr(distributed, "get_client", nobody)
    with pytest.raises(InputError, match=r"no Dask client; make one first, such as dask.distributed.Client\('tcp:"):
        make(da.ones((100, 3), chunks=(30, 3)), None)


def test_without_distributed_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"distributed is not installed; .* pip install 'harmonax\[dask\]'"):
        make(da.ones((100, 3), chunks=(30, 3)), None)


def test_an_error_of_the_users_graph_comes_out_as_it_is(threads):
    def broken(block):
        raise ZeroDivisionError("in the user's own code")

    Z = da.ones((100, 3), chunks=(30, 3)).map_blocks(broken, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(ZeroDivisionError, match="in the user's own code"):
        make(Z, threads)
    assert_nothing_is_left(threads)


def test_rows_with_other_values_the_second_time_are_refused(threads):
    def drawn(block):
        return np.random.default_rng().normal(size=block.shape)

    cells = make(da.ones((100, 3), chunks=(30, 3)).map_blocks(drawn, dtype=float, meta=np.empty((0, 0))), threads)
    cells._workers._lose([1])
    with pytest.raises(InputError, match=r"rows 30 to 59 of the embedding were computed again .* other values now"):
        cells.points(np.array([0]))
    cells.close()


def test_a_partition_that_is_lost_each_time_ends_the_run(threads, monkeypatch):
    cells = make(da.ones((100, 3), chunks=(30, 3)), threads)
    answer = cells._workers._answer

    async def unless_second(call, numbers):
        return None if numbers == [1] else await answer(call, numbers)

    monkeypatch.setattr(cells._workers, "_answer", unless_second)
    with pytest.raises(HarmonaxError, match=r"1 partitions \(first: rows 30 to 59\) were lost .* 4 times"):
        cells.sweep(Block(0), np.eye(3), np.full(3, 0.1), None, moment=False)
    cells.close()
    assert_nothing_is_left(threads)


def test_a_client_that_is_not_the_current_one_is_used(programs, threads):
    cells = make(da.ones((100, 3), chunks=(50, 3)), programs.have(1))
    assert distributed.get_client() is not programs.client
    assert all(actor.client is programs.client for actor in cells._workers._actors.values())
    cells.close()


def test_a_chunk_that_ends_its_worker_ends_the_run(programs):
    def deadly(block):
        os._exit(1)

    Z = da.ones((100, 3), chunks=(100, 3)).map_blocks(deadly, dtype=float, meta=np.empty((0, 0)))
    # More than it may end: one that was killed before may not have been missed yet.
    with pytest.raises(HarmonaxError, match=r"the workers of the Dask cluster died one after another .* more memory"):
        make(Z, programs.have(4))


@pytest.mark.parametrize("name", ["sweep", "correct"])
def test_futures_that_the_scheduler_cancels_are_made_anew(name, threads):
    Z, design = problem()
    Z = da.from_array(Z, chunks=CHUNKS)
    params = HarmonyParams(**SHORT)

    class Cancelled(Forgetful):
        def _maybe(self, called, count):
            if (called, count) == (name, 1):
                threads.cancel(list(self._workers._futures.values()))

    assert_same_bits(run_dask(Z, design, params, threads, kind=Cancelled), run_dask(Z, design, params, threads))
    assert_nothing_is_left(threads)


@pytest.mark.parametrize("error", [CancelledError("of key"), asyncio.CancelledError()])
def test_a_wait_that_is_cancelled_is_asked_again(error, threads, monkeypatch):
    """As under load: what is waited for is given up by others than us."""
    cells = make(da.ones((100, 3), chunks=(30, 3)), threads)
    given_up = []

    async def once(call):
        if not given_up:
            given_up.append(call)
            raise error
        return await call

    monkeypatch.setattr(workers_module, "_waiting", once)
    monkeypatch.setattr(distributed.actor.ActorFuture, "done", lambda self: False)
    assert len(cells.points(np.arange(100))) == 100
    assert len(given_up) == 1
    cells.close()


@pytest.mark.thorough
def test_a_scheduler_that_goes_away_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(workers_module, "_NO_WORKERS", 1.0)
    own = Programs(tmp_path)
    try:
        own.have(1)
        with distributed.Client(scheduler_file=str(own.file), timeout=3, set_as_default=False) as client:
            cells = make(da.ones((100, 3), chunks=(30, 3)), client)
            own.children[0].kill()
            own.children[0].wait()
            with pytest.raises(HarmonaxError, match="the Dask cluster"):
                cells.sweep(Block(0), np.eye(3), np.full(3, 0.1), None, moment=False)
    finally:
        own.close()


def test_a_cluster_without_workers_is_not_waited_for_forever(monkeypatch):
    monkeypatch.setattr(workers_module, "_NO_WORKERS", 0.2)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, **LOCAL) as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(HarmonaxError, match="the Dask cluster has had no workers"),
    ):
        make(da.ones((100, 3), chunks=(30, 3)), client)


def test_ctrl_c_leaves_no_actors_behind(processes):
    Z, design = problem()
    # A shell starts programs in the background with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    class Interrupted(Forgetful):
        def _maybe(self, name, count):
            if (name, count) == ("sweep", 12):
                signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            run_dask(da.from_array(Z, chunks=CHUNKS), design, HarmonyParams(**SHORT), processes, kind=Interrupted)
    finally:
        signal.signal(signal.SIGINT, before)
    assert_nothing_is_left(processes)


def test_what_a_partition_is_told_is_small():
    # The scheduler keeps it: a byte a cell, and not the levels of others.
    from harmonax.cells.dask.partition import PartitionSpec

    design = BatchDesign.from_codes(np.arange(100_000) // 100)
    how = {"precision": "float32", "n_threads": None}
    schedule = FixedPartition(20, np.random.SeedSequence(0))
    part = PartitionSpec.of(design, schedule, 40_000, 60_000, "run", 0, **how)
    assert part.design.n_levels == 200
    assert len(pickle.dumps(part)) < 30_000
    np.testing.assert_array_equal(
        part.levels[part.design.joint_levels[part.design.joint, 0]], np.arange(40_000, 60_000) // 100
    )
    np.testing.assert_array_equal(part.block_of(5, 50), schedule.block_of(40_005, 40_050))


class TestFront:
    """Through `pp.harmony_integrate` and `harmonize`."""

    def adata(self):
        import anndata
        import pandas as pd

        Z, codes = cells_with_batches(1000, 6, (3,), seed=2)
        names = [f"cell{i}" for i in range(len(Z))]
        obs = pd.DataFrame({"batch": pd.Categorical(codes[:, 0].astype(str))}, index=names)
        return anndata.AnnData(obs=obs, obsm={"X_pca": Z.astype(np.float32)})

    def test_a_dask_array_becomes_one_and_is_written_to_zarr_by_the_workers(self, processes, tmp_path):
        adata = self.adata()
        harmonax.pp.harmony_integrate(adata, "batch", rng=0, **SHORT)
        in_memory = adata.obsm["X_pca_harmony"]
        adata.obsm["X_pca"] = da.from_array(adata.obsm["X_pca"], chunks=(400, -1))
        harmonax.pp.harmony_integrate(adata, "batch", rng=0, **SHORT)
        corrected = adata.obsm["X_pca_harmony"]
        assert isinstance(corrected, da.Array)
        assert (corrected.chunks[0], corrected.dtype) == ((400, 400, 200), np.float64)
        assert adata.uns["harmonax"]["backend"]["cells"] == "dask"
        corrected.to_zarr(str(tmp_path / "corrected.zarr"))
        written = da.from_zarr(str(tmp_path / "corrected.zarr")).compute()
        assert np.abs(written - in_memory).max() < 1e-4 * np.abs(in_memory).max()
        assert_nothing_is_left(processes)

    def test_without_a_cluster_it_is_read_in_pieces(self, monkeypatch):
        monkeypatch.setattr("harmonax.engine.placement.has_client", lambda: False)
        adata = self.adata()
        lazy = da.from_array(adata.obsm["X_pca"], chunks=(400, -1))
        for backend in ("auto", "disk"):
            result = harmonax.harmonize(lazy, adata.obs[["batch"]], rng=0, backend=backend)
            whole = harmonax.harmonize(adata.obsm["X_pca"], adata.obs[["batch"]], rng=0)
            np.testing.assert_array_equal(result.embedding, whole.embedding)

    def test_goes_on_from_a_checkpoint(self, threads, tmp_path):
        adata = self.adata()
        Z, batch = da.from_array(adata.obsm["X_pca"], chunks=(400, -1)), adata.obs[["batch"]]
        params = HarmonyParams(**SHORT)
        whole = harmonax.harmonize(Z, batch, params, rng=0).embedding.compute()
        harmonax.harmonize(Z, batch, params.replace(max_iter_harmony=1), rng=0, checkpoint=tmp_path)
        rest = harmonax.harmonize(Z, batch, params, checkpoint=tmp_path)
        assert len(rest.history.passes) == 3
        np.testing.assert_array_equal(rest.embedding.compute(), whole)
        with pytest.raises(InputError, match="other data"):
            harmonax.harmonize(Z + 1, batch, params, checkpoint=tmp_path)

    def test_one_batch_stays_as_it_is(self, threads):
        Z = da.ones((10, 3), chunks=4)
        with pytest.warns(HarmonaxWarning, match="every cell has the same batch"):
            result = harmonax.harmonize(Z, np.zeros(10, int))
        assert isinstance(result.embedding, da.Array)

    def test_what_it_cannot_do_is_said(self, threads):
        Z, batch = self.adata().obsm["X_pca"], np.arange(1000) % 2
        with pytest.raises(InputError, match="backend='dask' needs a Dask array"):
            harmonax.harmonize(Z, batch, backend="dask")
        with pytest.raises(InputError, match="leave out=None and write that"):
            harmonax.harmonize(da.from_array(Z), batch, backend="dask", out=np.empty(Z.shape))


def test_covariates_go_with_the_cells(threads):
    Z, codes = cells_with_batches(300, 4, (3,), 1)
    x = np.random.default_rng(0).normal(size=(300, 2))
    lazy = da.from_array(Z + x @ np.ones((2, 4)), chunks=((100, 1, 0, 199), (3, 1)))
    how = {"covariates": x, "rng": 0, "precision": "float64", "progress": False, **SHORT}
    found = harmonax.harmonize(lazy, codes[:, 0], **how)
    want = harmonax.harmonize(np.asarray(lazy), codes[:, 0], backend="memory", **how)
    assert found.backend["cells"] == "dask"
    np.testing.assert_allclose(np.asarray(found.embedding), want.embedding, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.slopes, want.slopes, rtol=1e-9, atol=1e-9)
