"""Cells on a GPU, a TPU or any other device of JAX, or on several: the tiles of `cells/jax/tiles.py`, jitted.

The plain statement of every method is `cells/dense.py`; `tests/cells/test_jax_cells.py` compares with memory.
Nothing is summed across devices, and within one in a fixed order: each answers with tables of its own, which are added
here in float64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...algorithm.contracts import Assignment, Moments, Sweep
from ...algorithm.schedule import Block, FixedPartition
from ...algorithm.seeding import unit
from ...design import BatchDesign
from ...errors import InputError
from ...inputs.rows import slabs
from ...system.extras import need
from ...system.memory import human
from ..memory import MemoryCells, sample
from ..native import Arithmetic
from .tiles import Tiling, cut, describe, level_steps

need("jax", "jax")

import jax  # noqa: E402

from . import kernels as kernels  # noqa: E402

# Maximum number of values in any array of a chunk: on a CPU they stay in its cache; elsewhere they keep the device busy
# and are few beside Z.
MAX_VALUES = {"cpu": 1 << 18}
MAX_VALUES_ELSE = 1 << 24


class JaxCells:
    """Cells on JAX devices, which hold 2 N d values together and a few percent of padding.

    For the precision ``"float64"`` JAX's 64-bit mode is on during each call, and as it was after it. `devices` are of
    one kind; None: all local ones of the default kind. The bits depend on their number.
    """

    embedding: np.ndarray | None = None

    def __init__(
        self,
        Z: np.ndarray,
        design: BatchDesign,
        schedule: FixedPartition,
        *,
        precision: str = "float32",
        devices: Sequence[Any] | None = None,
    ) -> None:
        self.n_cells, self.n_features = Z.shape[0], Z.shape[1] - len(design.covariates)
        self.design, self.schedule, self.precision = design, schedule, precision
        self.devices = list(devices) if devices is not None else jax.local_devices()
        # For the sample that seeding takes, which is computed here: every backend begins with the same centroids.
        self._arithmetic = Arithmetic.of(precision)
        mesh = jax.sharding.Mesh(np.array(self.devices), ("devices",))
        self._spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
        self._everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._input = Z
        self._tiling: Tiling | None = None
        self._mass: dict[int, np.ndarray] = {}
        self._entropy: dict[int, float] = {}

    @property
    def description(self) -> dict[str, Any]:
        """The devices, for the record of a run."""
        return {"device": self.devices[0].device_kind, "n_devices": len(self.devices)}

    def take(self, rows: np.ndarray) -> MemoryCells:
        return sample(self._input[rows, : self.n_features], self._arithmetic)

    def points(self, rows: np.ndarray) -> np.ndarray:
        return unit(self._input[rows, : self.n_features].astype(self.precision).astype(np.float64))

    def mass(self, block: Block) -> np.ndarray:
        return self._mass[block.index]

    def sweep(
        self,
        block: Block,
        Y: np.ndarray,
        sigma: np.ndarray,
        logp: np.ndarray | None,
        *,
        moment: bool,
        last: bool = False,
    ) -> Sweep:
        with self._computing():
            self._open(len(Y))
            logp = np.zeros((self.design.n_levels, len(Y))) if logp is None else logp
            tables = self._tables(Y, sigma, logp)
            g = block.index
            answer = kernels.sweep(self._Zn[g], self._tiles[g], tables, self._levels, moment=moment)
            mass, sums, moments = (_total(a) for a in jax.device_get(answer))
        self._mass[g] = mass
        log_partition, self._entropy[g] = map(float, sums.sum(axis=0))
        return Sweep(mass, log_partition, moments)

    def moments(self, assigned: Assignment) -> Moments:
        with self._computing():
            mass = (len(self.devices), self.design.n_joint, len(assigned.Y))
            width = (1 + len(self.design.covariates)) * self._input.shape[1]
            # Twice, since both are donated.
            sums, errors = (kernels.zeros(((*mass, width), mass), self.precision, self._spread) for _ in range(2))
            for g, tables in enumerate(self._tables_of_blocks(assigned)):
                sums, errors = kernels.moments(self._Z[g], self._Zn[g], self._tiles[g], tables, sums, errors)
            S, O = (_total(a) + _total(b) for a, b in jax.device_get(list(zip(sums, errors, strict=True))))
        return Moments(S, O, sum(self._entropy.values()))

    def correct(self, assigned: Assignment, W: np.ndarray, moment: bool) -> np.ndarray:
        with self._computing():
            coefficients = self._coefficients(W)
            moments = []
            for g, tables in enumerate(self._tables_of_blocks(assigned)):
                self._Zn[g], own = kernels.correct(
                    self._Z[g], self._Zn[g], self._tiles[g], tables, coefficients, moment=moment
                )
                moments.append(own)
            return np.sum([_total(own) for own in jax.device_get(moments)], axis=0)

    def emit(self, assigned: Assignment, W: np.ndarray, out: Any, moment: bool) -> np.ndarray:
        self._mass.clear()
        # Only an array takes rows by their numbers.
        target = out if isinstance(out, np.ndarray) else np.empty((self.n_cells, self.n_features), self.precision)
        moments = []
        with self._computing():
            coefficients = self._coefficients(W)
            self._gather(kernels.corrected, assigned, target, coefficients)
            for g, tables in enumerate(self._tables_of_blocks(assigned) if moment else ()):
                moments.append(kernels.corrected_moment(self._Z[g], self._Zn[g], self._tiles[g], tables, coefficients))
            sums = np.sum([_total(own) for own in jax.device_get(moments)], axis=0)
        if out is None:
            self.embedding = target
        elif target is not out:
            for start, rows in slabs(target):
                out[start : start + len(rows)] = rows
        return sums if moment else np.empty((0, self.n_features))

    def assignments(self, assigned: Assignment) -> np.ndarray:
        """Return R (N, K), in the cells' precision."""
        out = np.empty((self.n_cells, len(assigned.Y)), self.precision)
        with self._computing():
            self._gather(kernels.assignments, assigned, out, None)
        return out

    def close(self) -> None:
        """Release the tables of the last pass; the cells themselves are needed for `assignments`."""
        self._mass.clear()

    def _gather(self, kernel: Any, assigned: Assignment, out: np.ndarray, coefficients: Any) -> None:
        """Write what `kernel` makes of the cells in their order, one block computed while another is copied."""
        coming: list[tuple[int, Any]] = []
        for g, tables in enumerate(self._tables_of_blocks(assigned)):
            coming.append((g, kernel(self._Z[g], self._Zn[g], self._tiles[g], tables, coefficients)))
            coming[-1][1].copy_to_host_async()
            if g:
                self._put(out, *coming.pop(0))
        self._put(out, *coming.pop())

    def _put(self, out: np.ndarray, g: int, tiled: Any) -> None:
        tiling = self._tiling
        assert tiling is not None  # opened by `_tables_of_blocks`
        out[tiling.rows(g)] = np.asarray(tiled).reshape(-1, out.shape[1])[tiling.places(g)]

    def _open(self, n_clusters: int) -> None:
        """Lay the cells out, block by block, at the first question about them."""
        if self._tiling is not None:
            return
        limit = MAX_VALUES.get(self.devices[0].platform, MAX_VALUES_ELSE)
        tiling = cut(self.design, self.schedule, self.n_features, n_clusters, len(self.devices), limit)
        spread = lambda tree: jax.device_put(tree, self._spread)  # noqa: E731
        self._tiles = [spread(tiles) for tiles in describe(tiling, self.design)]
        self._levels = jax.device_put(level_steps(self.design), self._everywhere)
        self._Z, self._Zn = [], []
        for g in range(self.schedule.n_blocks):
            # A new one each time: on a CPU the device may use this very memory.
            rows = np.zeros((np.prod(tiling.shape), self._input.shape[1]), self.precision)
            rows[tiling.places(g)] = self._input[tiling.rows(g)]
            self._Z.append(spread(rows.reshape(*tiling.shape, self._input.shape[1])))
            self._Zn.append(kernels.unit(self._Z[g], n_features=self.n_features))
        self._tiling = tiling

    def _tables(self, *tables: np.ndarray) -> tuple[np.ndarray, ...]:
        # Sent with the call: for small tables that takes half the time of device_put.
        return tuple(np.asarray(t, self.precision) for t in tables)

    def _coefficients(self, W: np.ndarray) -> Any:
        return jax.device_put(np.asarray(W, self.precision), self._everywhere)

    def _tables_of_blocks(self, assigned: Assignment) -> Iterator[Any]:
        # A resumed run does not begin with a sweep.
        self._open(len(assigned.Y))
        Y, sigma = self._tables(assigned.Y, assigned.sigma)
        for logp in assigned.logp:
            yield (Y, sigma, *self._tables(logp))

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute in the cells' precision, and say what to do where the device has too little memory."""
        try:
            with kernels.x64(self.precision == "float64"):
                yield
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            least = 2 * self.n_cells * self.n_features * np.dtype(self.precision).itemsize
            raise InputError(
                f"{len(self.devices)} x {self.devices[0].device_kind}: out of memory with cells that take "
                f"{human(least)} and some more; use more devices, precision='float32', or backend='auto'"
            ) from error


def _total(by_device: Any) -> np.ndarray:
    return np.asarray(by_device).sum(axis=0, dtype=np.float64)
