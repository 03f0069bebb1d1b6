"""Cells in a file: memory does not grow with their number, but for a few bytes each.

Z and Zn lie in a scratch file in the order that `cells/memory.py` has in memory, and the same kernels read them grain
by grain, so the answers are those of memory to the last bit, whatever the slabs. The file has no name: it is gone when
the process is, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..algorithm.contracts import Assignment, Moments
from ..algorithm.schedule import FixedPartition
from ..algorithm.seeding import unit
from ..design import BatchDesign
from ..errors import InputError, OutputError
from ..inputs.rows import Rows, slabs
from ..kernels import _native
from ..system.memory import human
from .memory import MemoryCells, sample
from .native import NativeCells, count_runs, order, plan

# Default size of the pieces of the input, or of the result, that are in memory at a time.
SLAB_BYTES = 64 << 20


class DiskCells(NativeCells):
    """Cells in a scratch file in `directory`, which takes 2 N d values.

    Z answers ``Z[start:stop]`` with rows of the embedding: an array, or a data set of HDF5 or Zarr. `slab_bytes` is the
    size of the pieces in which it is read and the result written; `look` is called with each piece as it is read.
    """

    def __init__(
        self,
        Z: Any,
        design: BatchDesign,
        schedule: FixedPartition,
        *,
        directory: str | os.PathLike[str] | None = None,
        slab_bytes: int = SLAB_BYTES,
        look: Callable[[np.ndarray], None] = lambda slab: None,
        **how: Any,
    ) -> None:
        super().__init__(Z, design, schedule, **how)
        if not hasattr(os, "preadv"):
            raise InputError("backend='disk' needs pread and pwrite, which this system lacks; use backend='memory'")
        # The covariates lie behind the features, of Z and of Zn.
        self._width = Z.shape[1]
        self._row = self._width * np.dtype(self.precision).itemsize
        self._slab = max(1, slab_bytes // self._row)
        self._directory = Path(directory) if directory is not None else scratch_directory()
        self._look = look
        runs = count_runs(design, schedule)
        self._run_start = np.cumsum(runs) - runs
        self._before, self._at = np.zeros_like(runs), 0
        self._file = self._scratch()
        # Closed with the cells, silently.
        weakref.finalize(self, self._file.close)

    def _scratch(self) -> Any:
        """Make a file without a name that has room for Z and Zn."""
        needed = 2 * self.n_cells * self._row
        file = None
        try:
            file = tempfile.TemporaryFile(dir=self._directory, prefix=".harmonax-")  # noqa: SIM115
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, needed)
            else:
                file.truncate(needed)
        except OSError as error:
            if file is not None:
                file.close()
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise OutputError(f"scratch file in {self._directory}: {error.strerror}") from None
            free = shutil.disk_usage(self._directory).free
            raise OutputError(
                f"scratch file in {self._directory}: {human(needed)} are needed, {human(free)} are free; "
                "choose another directory (scratch=, --scratch)"
            ) from None
        return file

    def _open(self, kind: Any) -> Any:
        for start, slab in self._slabs():
            stop = start + len(slab)
            rows = np.ascontiguousarray(slab, self.precision)[order(self.design, self.schedule, start, stop)]
            with self._explained():
                for piece in self._pieces(start, stop):
                    self._transfer(os.pwritev, rows[piece.rows], piece.place)
        with self._explained():
            return kind(
                self._file.fileno(),
                self._width,
                _native.Plan(**plan(self.design, self.schedule)),
                instruction_set=self.arithmetic.instruction_set,
                n_threads=self.arithmetic.n_threads,
            )

    def open(self) -> None:
        """Read all of Z; what `look` raises comes from here."""
        _ = self._cells

    def take(self, rows: np.ndarray) -> MemoryCells:
        return sample(self._read(rows), self.arithmetic)

    def points(self, rows: np.ndarray) -> np.ndarray:
        return unit(self._read(rows).astype(np.float64))

    def sweep(self, *args: Any, **how: Any) -> Any:
        with self._explained():
            return super().sweep(*args, **how)

    def moments(self, assigned: Assignment) -> Moments:
        with self._explained():
            return super().moments(assigned)

    def correct(self, assigned: Assignment, W: np.ndarray, moment: bool) -> np.ndarray:
        with self._explained():
            return super().correct(assigned, W, moment)

    def emit(self, assigned: Assignment, W: np.ndarray, out: Any, moment: bool) -> np.ndarray:
        """Write the result to what takes ``out[start:stop] = rows``.

        The scratch file then has it in place of Z; with None for `out` it stays there, for `embedding`.
        """
        self._mass.clear()
        with self._explained():
            sums = self._narrow(self._cells.emit_in_place(*self._tables(assigned), self._wide(W), moment))
        if out is not None:
            for start, rows in slabs(self.embedding, self._slab * self._row):
                out[start : start + len(rows)] = rows
        return sums

    @property
    def embedding(self) -> Rows:
        """The result, from the scratch file."""
        return _Emitted(self)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows of what the scratch file has in the place of Z, in the order of the input."""
        in_order = np.empty((stop - start, self._width), self.precision)
        with self._explained():
            for piece in self._pieces(start, stop):
                self._transfer(os.preadv, in_order[piece.rows], piece.place)
        rows = np.empty((stop - start, self.n_features), self.precision)
        rows[order(self.design, self.schedule, start, stop)] = in_order[:, : self.n_features]
        return rows

    def _slabs(self) -> Iterator[tuple[int, np.ndarray]]:
        """Give Z piece by piece, the next one read while this one is used."""
        starts = range(0, self.n_cells, self._slab)

        def read(start: int) -> np.ndarray:
            slab = np.asarray(self._Z[start : min(start + self._slab, self.n_cells)])
            self._look(slab)
            return slab

        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(read, 0)
            for start in starts:
                slab = coming.result()
                if start + self._slab < self.n_cells:
                    coming = reader.submit(read, start + self._slab)
                yield start, slab

    def _pieces(self, start: int, stop: int) -> Iterator[_Piece]:
        """Give the runs of cells start..stop-1: which of them, in order, and at which cell of the file they lie."""
        # Those of earlier rows lie before them in every run; mostly this goes through all rows in order.
        if start != self._at:
            self._before = count_runs(self.design, self.schedule, 0, start)
        counts = count_runs(self.design, self.schedule, start, stop)
        ends = np.cumsum(counts)
        for run in np.flatnonzero(counts):
            place = int(self._run_start[run] + self._before[run])
            yield _Piece(slice(int(ends[run] - counts[run]), int(ends[run])), place)
        self._before, self._at = self._before + counts, stop

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Return a few rows of Z, before any result was written."""
        self.open()
        sorted_rows, back = np.unique(rows, return_inverse=True)
        found = np.empty((len(sorted_rows), self._width), self.precision)
        with self._explained():
            for start in range(0, self.n_cells, self._slab):
                stop = min(self.n_cells, start + self._slab)
                place = np.empty(stop - start, np.int64)
                within = order(self.design, self.schedule, start, stop)
                for piece in self._pieces(start, stop):
                    place[within[piece.rows]] = piece.place + np.arange(piece.rows.stop - piece.rows.start)
                lo, hi = np.searchsorted(sorted_rows, [start, stop])
                for i in range(lo, hi):
                    self._transfer(os.preadv, found[i : i + 1], int(place[sorted_rows[i] - start]))
        return found[back, : self.n_features]

    def _transfer(self, call: Callable[..., int], rows: np.ndarray, place: int) -> None:
        """Read or write whole rows at a cell's place."""
        view, at = rows.data.cast("B"), place * self._row
        while view:
            done = call(self._file.fileno(), [view], at)
            if done == 0:
                raise OSError(errno.EIO, "the scratch file ends early")
            view, at = view[done:], at + done

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, OutputError) or error.filename is not None:
                raise
            raise OutputError(f"scratch file in {self._directory}: {error.strerror or error}") from error


class _Emitted(Rows):
    def __init__(self, cells: DiskCells) -> None:
        super().__init__((cells.n_cells, cells.n_features), cells.precision)
        self._cells = cells

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._cells.rows(start, stop)


class _Piece(NamedTuple):
    rows: slice
    place: int


def scratch_directory() -> Path:
    """Return where scratch files go: ``$TMPDIR``, else /var/tmp, which unlike /tmp is hardly ever memory."""
    if os.environ.get("TMPDIR") is None and os.access("/var/tmp", os.W_OK):
        return Path("/var/tmp")
    return Path(tempfile.gettempdir())
