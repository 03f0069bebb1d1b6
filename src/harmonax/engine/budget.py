"""How much memory a run takes, and which backend fits into what there is. Estimated before anything is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..cells import BACKENDS, BackendEntry, Situation
from ..cells.disk import SLAB_BYTES
from ..cells.native import cache_size
from ..design import BatchDesign
from ..errors import InputError
from ..params import ResolvedParams
from ..system.memory import available, human, resident

# Share of the free memory to use when no limit is given: other programs, and the estimate's error, need the rest.
_SHARE = 0.8
# Bytes a cell while its order is found: sorted keys and positions.
_ORDER = 24
# Pieces of a slab that are in memory together: being read, read, sorted, converted.
_SLABS = 5
MIN_SLAB = 1 << 20
# What the interpreter and libraries load later.
_LATER = 60 << 20


@dataclass(frozen=True)
class MemoryEstimate:
    """What a run takes, in bytes."""

    cells: int  # the embedding in the arithmetic's numbers
    to_load: int  # the embedding as it comes, where it is not in memory yet
    result: int  # the result, where it is to be in memory
    each: int  # the few bytes for each cell, wherever they are
    tables: int  # all that grows with levels and clusters
    cache: int = 0  # what may be kept of a round beside all that

    @property
    def in_memory(self) -> int:
        return 2 * self.cells + self.to_load + self.result + self.each + self.tables

    def on_disk(self, slab: int) -> int:
        return self.result + self.each // 2 + self.tables + _SLABS * slab + _LATER


@dataclass(frozen=True)
class BackendChoice:
    """Which backend, and why: in a few words, and with the sizes.

    With the size of the pieces in which it reads the cells, and that of what it may keep of a round.
    """

    name: str
    backend: BackendEntry
    slab_bytes: int
    cache_bytes: int
    reason: str
    why: str


def estimate(
    design: BatchDesign,
    resolved: ResolvedParams,
    n_features: int,
    *,
    n_loaded: int,
    n_result: int,
    n_threads: int,
    cache: bool = False,
) -> MemoryEstimate:
    """Estimate what a run takes; `n_loaded` and `n_result` are bytes per value, 0 for what memory need not hold.

    `cache` says whether its rounds have centroids that stay, so that something can be kept of each.
    """
    n, itemsize = design.n_cells, 4 if resolved.params.precision == "float32" else 8
    # Half of the order's bytes is of a slab only on disk.
    return MemoryEstimate(
        cells=n * n_features * itemsize,
        to_load=n * n_features * n_loaded,
        result=n * n_features * n_result,
        each=n * _ORDER,
        tables=table_size(design, resolved, n_features, n_threads) + n_threads * (4 << 20),
        cache=cache_size(n, resolved.sigma, resolved.params.precision) if cache else 0,
    )


def table_size(design: BatchDesign, resolved: ResolvedParams, n_features: int, n_threads: int) -> int:
    """Return the bytes of all that grows with levels and clusters, when there is most of it."""
    n, K, largest = design.n_levels, resolved.n_clusters, int(np.diff(design.offsets).max())
    # Beside the moments, coefficients as they are solved and as the kernels take them.
    moments = (design.n_joint * (1 + len(design.covariates)) + 2 * n) * K * n_features
    # Of each block: penalties, the mass, and penalties as the kernels take them.
    blocks = 3 * resolved.params.n_blocks(design.n_cells) * n * K
    # The ridge: a cluster's whole system and its factors; or each thread's, without the largest variable.
    rest = 1 + n - largest
    whole = resolved.params.correction_method == "original"
    systems = 4 * (1 + n) ** 2 if whole else n_threads * rest * (rest + n_features)
    return 8 * (moments + blocks + systems)


def choose(wanted: str, size: MemoryEstimate, max_memory: int | None, *, on_cluster: bool = False) -> BackendChoice:
    """Choose where the cells go: `wanted` is a name in `BACKENDS`, or ``"auto"``.

    `max_memory` is the maximum that the process may hold, in bytes; None: what is free. `on_cluster` says whether the
    embedding lies on a cluster that can be asked. A limit that is too small for the backend asked for is refused.
    """
    held, free = resident(), available()
    if max_memory is not None:
        limit, allowed = max_memory, f"{human(max_memory)} are allowed"
    elif free is not None:
        limit, allowed = held + int(_SHARE * free), f"{human(free)} are free"
    else:
        limit, allowed = 1 << 62, "it is not known how much is free"
    needed = held + size.in_memory
    slab = min(SLAB_BYTES, max(size.cells, 1), max(MIN_SLAB, (limit - held - size.on_disk(0)) // _SLABS))
    least = held + size.on_disk(min(MIN_SLAB, slab))
    situation = Situation(on_cluster, fits=needed <= limit)
    asked = wanted in BACKENDS
    name = wanted if asked else next(n for n, entry in BACKENDS.items() if entry.automatic(situation))
    backend = BACKENDS[name]
    why, spare = "", 0
    if backend.holds == "all":
        why, spare = f"in memory it needs {human(needed)}; {allowed}", limit - needed
        if max_memory is not None and needed > limit:
            raise InputError(
                f"in memory this run needs {human(needed)}, but {allowed}: raise max_memory (--max-memory), or use "
                f"backend='disk', which needs {human(least)}"
            )
    elif backend.holds == "pieces":
        why = f"from disk it needs {human(held + size.on_disk(slab))}, in memory {human(needed)}; {allowed}"
        if max_memory is not None and least > limit:
            raise InputError(f"even from disk this run needs {human(least)}, but {allowed}: raise max_memory")
        # Without a limit what is free is left to the system, which keeps the scratch file there.
        spare = limit - held - size.on_disk(slab) if max_memory is not None else 0
    cache = max(0, min(size.cache, spare))
    return BackendChoice(name, backend, slab, cache, "asked for" if asked else backend.because, why)
