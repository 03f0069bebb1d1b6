"""The query's expression, brought to the normalisation of the reference."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from ..inputs.expression import dense, is_sparse
from .normalisation import NOT_LOGGED, SAME, are_counts, known_totals, linear, logged, spaced_rows, totals_of

# The genes' share of all counts may differ so many times between two tissues; but where one has hardly any others, and
# the other has, genes were left out.
_UNLIKE_SHARE, _NO_OTHERS, _OTHERS = 1.5, 0.99, 0.95


class Normalised(Protocol):
    """What is known of the reference's expression; `projection.Projection` says what each is."""

    @property
    def integers(self) -> bool: ...
    @property
    def target_sum(self) -> float | None: ...
    @property
    def log_base(self) -> float: ...
    @property
    def share(self) -> float | None: ...
    @property
    def center(self) -> np.ndarray: ...
    @property
    def scaled(self) -> bool: ...


class Expression:
    """The query's expression in pieces, as the reference has it before scaling.

    Counts, and what was scaled to another total or logged to another base, are brought to the reference's where its
    total and the query's are known (they must have all genes then); where they are not, `notes` say so, or counts are
    refused, as scaled expression is. A piece is what ``X[start:stop]`` gives: an array or a sparse matrix.

    Parameters
    ----------
    projection
        Of the reference.
    X, what
        The query's expression, and what messages call it.
    target_sum
        What the query's cells were scaled to, where X does not show it.
    """

    def __init__(self, projection: Normalised, X: Any, what: str = "X", target_sum: float | None = None) -> None:
        self.shape, self._X, self._what, self._ours = X.shape, X, what, projection
        self._may_be_negative = not projection.scaled and bool(projection.center.min(initial=0) < 0)
        self._stated: float | None = None  # the total of all cells, as the user gave it
        self._base: float | None = None  # of the query's logarithm, where its pieces are brought to the reference's
        self.notes: list[str] = []  # what the user should know
        self.empty = np.zeros(X.shape[0], bool)  # which cells have no count in the reference's genes, once read
        sample = dense(X[spaced_rows(X.shape[0])], np.float64)
        self._check(sample)
        # Totals of the query's cells, which may be several, or None; what the record has.
        self._totals: np.ndarray | None = None
        self._settle(sample, target_sum)

    def _settle(self, sample: np.ndarray, target_sum: float | None) -> None:
        """Find out how the query was normalised, and what to do about it."""
        ours, counts, what = self._ours, are_counts(sample), f"the query's {self._what}"
        if ours.integers:
            if not counts and sample.max(initial=0) > 0:
                self.notes.append(f"the reference's components are those of counts, and {what} is not counts")
            return
        if counts:
            if ours.target_sum is None:
                raise InputError(
                    f"{what} has counts, and how the reference was normalised is not known: normalise the query alike, "
                    "such as sc.pp.normalize_total and sc.pp.log1p, or say what the reference was normalised to with "
                    "model.with_target_sum()"
                )
            if target_sum is not None:
                raise InputError(
                    f"target_sum={target_sum:g} is of normalised cells, but {what} has counts; leave it out"
                )
            self._base = NOT_LOGGED
            return
        if ours.target_sum is None:
            self.notes.append(
                "the model does not know what the reference's cells were normalised to (it is of an older version, or "
                f"genes were left out of X since), so whether {what} fits cannot be told: with another total, known "
                "cells are called novel or absent types are missed. Normalise the query with the reference's "
                "target_sum, and say that total once with model.with_target_sum()"
            )
            return
        found = known_totals(sample)
        if target_sum is not None:
            self._take(found, target_sum)
        elif found is not None:
            base, self._totals = found
            if base != ours.log_base or np.abs(self._totals - ours.target_sum).max() > SAME * ours.target_sum:
                self._base = base
        else:
            own = totals_of(sample, ours.log_base)
            # Too few cells to share a total may still have the reference's.
            if not len(own) or np.abs(own - ours.target_sum).max() > SAME * ours.target_sum:
                self._tell_unknown(own)

    def _take(self, found: tuple[float, np.ndarray] | None, target_sum: float) -> None:
        """Take the total that the user states, unless the numbers show another."""
        if found is not None and np.abs(found[1] - target_sum).max() > SAME * target_sum:
            raise InputError(
                f"target_sum={target_sum:g}, but the cells of the query's {self._what} add up to {_said(found[1])}; "
                "leave target_sum out"
            )
        self._totals, self._stated = np.array([target_sum]), target_sum
        base = found[0] if found is not None else self._ours.log_base
        if base != self._ours.log_base or abs(target_sum - self._ours.target_sum) > SAME * target_sum:  # type: ignore[operator]
            self._base = base

    def _tell_unknown(self, own: np.ndarray) -> None:
        seen = f"its cells add up to {own.min():,.0f} to {own.max():,.0f}, as" if len(own) else "as"
        self.notes.append(
            f"what the query's cells were normalised to cannot be read from {self._what} ({seen} where genes were left "
            f"out): it is taken as it is. The reference has {self._ours.target_sum:,.6g} per cell; with another total, "
            "known cells are called novel or absent types are missed. Pass counts or log-normalised expression of all "
            "genes (layer=), or say the query's total with target_sum= (--target-sum)"
        )

    def check_share(self, column: np.ndarray) -> None:
        """Note where the reference's genes, at these columns (-1: missing), have another share of all counts.

        Then cells were scaled over other genes: the total is the same number, and not the same thing.
        """
        there, ours = column[column >= 0], self._ours.share
        if ours is None or len(there) < 0.9 * len(column) or (self._base is None and self._totals is None):
            return
        sample = dense(self._X[spaced_rows(self.shape[0])], np.float64)
        base = self._ours.log_base if self._base is None else self._base
        totals = totals_of(sample, base, keep=True) if self._stated is None else self._stated
        with np.errstate(invalid="ignore", divide="ignore"):
            share = float(np.nanmedian(totals_of(sample[:, there], base, keep=True) / totals))
        low, high = min(share, ours), max(share, ours)
        if high > _UNLIKE_SHARE * low or (high > _NO_OTHERS and low < _OTHERS):
            fewer = "query" if share > ours else "reference"
            self.notes.append(
                f"the reference's genes have {ours:.0%} of its counts, but {share:.0%} of the query's: were genes left "
                f"out of the {fewer} before its cells were normalised? Then their totals are not the same thing; "
                "normalise both over the same genes"
            )

    def record(self) -> dict[str, Any]:
        """Return what the query and the reference were normalised to, as far as it is known."""
        theirs = {} if self._totals is None else {"query": np.unique(np.rint(self._totals * 100) / 100)}
        ours = {} if self._ours.target_sum is None else {"reference": self._ours.target_sum}
        how = "counts normalised" if self._base == NOT_LOGGED and self._totals is None else "rescaled"
        return {"done": how if self._base is not None else "taken as it is", **theirs, **ours}

    def __getitem__(self, rows: slice) -> Any:
        X = self._X[rows]
        X = X.compute() if hasattr(X, "compute") else X
        self._check(X.data if is_sparse(X) else np.asarray(X))
        if self._base is None:
            return X
        X = linear(X if is_sparse(X) else np.asarray(X), self._base)
        totals = np.asarray(X.sum(axis=1), np.float64).ravel()
        if self._stated is not None:
            totals = np.full(len(totals), self._stated)
        factor = np.divide(self._ours.target_sum or 0.0, totals, out=np.zeros_like(totals), where=totals > 0)[:, None]
        return logged(X.multiply(factor).tocsr() if is_sparse(X) else X * factor, self._ours.log_base)

    def _check(self, values: np.ndarray) -> None:
        least = float(values.min(initial=0.0))
        # NaN and infinity pass through.
        if not np.isfinite(least) or not np.isfinite(float(values.max(initial=0.0))):
            raise InputError(f"the query's {self._what} has NaN or infinite values; remove or repair them")
        if least < 0 and not self._may_be_negative:
            raise InputError(
                f"the query's {self._what} has negative values: it looks scaled. Pass log-normalised expression; it is "
                "scaled by the reference's means and standard deviations"
            )


def _said(totals: np.ndarray) -> str:
    low, high = totals.min(), totals.max()
    return f"{low:,.6g}" if high - low <= SAME * high else f"{low:,.6g} to {high:,.6g}"
