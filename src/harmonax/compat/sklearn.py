"""The scikit-learn interface: `Harmony`, a transformer whose cells come with batch labels."""

from __future__ import annotations

import warnings
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, ClassVar, get_args

import numpy as np
import pandas as pd

from ..design import BatchDesign
from ..engine.run import harmonize
from ..errors import InputError, MissingExtraError, warn
from ..inputs.arrays import as_rows
from ..inputs.columns import as_table, check_order, design_from_table, table_like
from ..mapping import HarmonyModel
from ..mapping.symphony import KnownBatches
from ..params import HarmonyParams
from ..result import Status
from ..system.cpus import available_cpus
from ..system.extras import need
from ..system.rng import seed_from
from ..system.validate import one_of

if not hasattr(need("sklearn.utils.validation", "sklearn"), "validate_data"):
    raise MissingExtraError("harmonax.Harmony needs scikit-learn 1.6 or later: pip install 'harmonax[sklearn]'")

from joblib import effective_n_jobs
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

_DTYPES = [np.float64, np.float32]
_NO_BATCH = (
    "no batch labels: nothing is corrected; pass batch=, to a Pipeline with "
    "sklearn.set_config(enable_metadata_routing=True), or as harmony__batch= to its fit"
)
_NAMES = [own.name for own in fields(HarmonyParams)]


class Harmony(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Remove batch effects from an embedding, as a scikit-learn transformer.

    ``fit_transform(X, batch=...)`` gives the run's own corrected embedding, the bits of `harmonax.harmonize`.
    ``transform(X, batch=...)`` maps cells, seen or new, into that corrected space, which does not move: batches that
    the fit has seen get the correction learned for them, others are fitted to the reference. The two differ a little
    on the same cells, since mapping ends with one assignment to the final clusters.

    Parameters
    ----------
    flavor, n_clusters, max_iter_harmony, max_iter_clustering, tol_harmony, tol_clustering, sigma, theta, tau, ridge, \
ridge_lambda, alpha, batch_prune_threshold, correction_method, block_proportion, precision
        The method's, as in `HarmonyParams`, which has the defaults and says what raising and lowering each does.
    random_state : int, RandomState, Generator or None, default=None
        The same int gives the same bits, whatever `n_jobs`. None: NumPy's global state, as in scikit-learn.
    n_jobs : int or None, default=-1
        Threads. -1: every CPU that this process may use, -2: all but one; None: 1, or as many as
        `joblib.parallel_config` says.
    verbose : bool, default=False
        Show a progress line on stderr.
    combine_keys, missing, allow_many_levels
        How batch labels are read: see `harmonax.pp.harmony_integrate`.
    reference : str, list or dict, default=None
        Level or levels whose cells stay where they are, as in `harmonize`; the others are brought to them.
    known_batches : {'learned', 'new'}, default='learned'
        For `transform`. ``"learned"``: a batch with the label of one that the fit has seen is that batch.
        ``"new"``: it only shares the name.
    map_ridge_lambda : float, default=1.0
        For `transform`: ridge penalty of batches that the fit has not seen. Higher values correct them less.
    map_n_iter : int, default=2
        For `transform`: rounds of assigning and correcting. 1 is the published method; more follow large shifts better.

    Attributes
    ----------
    model_ : HarmonyModel
        What was learned, without the cells: to save, map or project with. ``model_.record["seed"]`` repeats the run.
    n_iter_ : int
        Rounds that were run.
    objective_ : ndarray of shape (rounds + 1,)
        The objective before the first round and after each.
    status_, converged_ : Status, bool
        Why the run stopped, and whether before `max_iter_harmony`; if not, there is a `ConvergenceWarning`.
    batch_names_in_ : list of str
        Names of the batch variables; empty for a fit without `batch`.
    n_features_in_, feature_names_in_ : int, ndarray of shape (n_features,)
        Features of the embedding, and their names where X had names.

    See Also
    --------
    harmonize : The same for plain arrays, also larger than memory.
    HarmonyModel : Mapping with label transfer, novelty and projection from genes.

    Notes
    -----
    Labels are metadata: with ``sklearn.set_config(enable_metadata_routing=True)`` a `Pipeline` takes ``batch=`` and
    hands it to `fit` and `transform`, which ask for it from the start. Without routing, ``harmony__batch=`` reaches
    `fit` only.

    A new batch is corrected as a whole, so the result for its cells depends on which of them are passed together.

    Korsunsky et al. 2019, Nature Methods 16:1289; Patikas et al. 2026 (Harmony2). Mapping: Kang et al. 2021, Nature
    Communications 12:5890 (Symphony).

    Examples
    --------
    >>> import numpy as np
    >>> from harmonax import Harmony
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 100)
    >>> X = gen.normal(size=(200, 5)) + (batch == "b")[:, None]
    >>> harmony = Harmony(random_state=0)
    >>> harmony.fit_transform(X, batch=batch).shape
    (200, 5)
    >>> harmony.transform(gen.normal(size=(50, 5)) - 1, batch=np.repeat("c", 50)).shape
    (50, 5)
    >>> harmony.converged_
    True
    """

    # Asked for unless the user says otherwise: without its labels a fit corrects nothing.
    __metadata_request__fit: ClassVar = {"batch": True}
    __metadata_request__transform: ClassVar = {"batch": True}

    def __init__(
        self,
        *,
        flavor=HarmonyParams.flavor,
        n_clusters=HarmonyParams.n_clusters,
        max_iter_harmony=HarmonyParams.max_iter_harmony,
        max_iter_clustering=HarmonyParams.max_iter_clustering,
        tol_harmony=HarmonyParams.tol_harmony,
        tol_clustering=HarmonyParams.tol_clustering,
        sigma=HarmonyParams.sigma,
        theta=HarmonyParams.theta,
        tau=HarmonyParams.tau,
        ridge=HarmonyParams.ridge,
        ridge_lambda=HarmonyParams.ridge_lambda,
        alpha=HarmonyParams.alpha,
        batch_prune_threshold=HarmonyParams.batch_prune_threshold,
        correction_method=HarmonyParams.correction_method,
        block_proportion=HarmonyParams.block_proportion,
        precision=HarmonyParams.precision,
        random_state=None,
        n_jobs=-1,
        verbose=False,
        combine_keys=False,
        missing="error",
        allow_many_levels=False,
        reference=None,
        known_batches="learned",
        map_ridge_lambda=1.0,
        map_n_iter=2,
    ):
        asked = dict(locals())
        del asked["self"]
        vars(self).update(asked)

    def fit(self, X: Any, y: Any = None, *, batch: Any = None) -> Harmony:
        """Learn the correction.

        Parameters
        ----------
        X : array-like of shape (n_cells, n_features)
            Embedding, such as principal components. Never changed.
        y
            Ignored.
        batch
            Batch labels, as for `harmonize`: an array of shape (n_cells,) or (n_cells, n_variables), a table or a
            dictionary with one column per variable. None: all cells are of one batch and nothing is corrected, with
            a warning.

        Returns
        -------
        Harmony

        Raises
        ------
        ValueError
            If a parameter, the embedding or the labels cannot be used; mostly an `InputError`, which is one.
        TypeError
            If `n_jobs`, `map_n_iter` or `map_ridge_lambda` is not a number, or X is sparse.
        """
        self._fit(X, batch)
        return self

    def fit_transform(self, X: Any, y: Any = None, *, batch: Any = None) -> Any:
        """Learn the correction and return the corrected cells: those of the run, not mapped ones as by `transform`.

        Parameters
        ----------
        X, y, batch
            As for `fit`, which says what is raised as well.

        Returns
        -------
        ndarray of shape (n_cells, n_features)
            In the dtype of X, or what `set_output` asks for. Without `batch`, a copy of X.
        """
        return self._fit(X, batch)

    def transform(self, X: Any, *, batch: Any = None) -> Any:
        """Map cells into the corrected space, which does not move.

        Parameters
        ----------
        X : array-like of shape (n_cells, n_features)
            Cells in the uncorrected embedding that the fit has seen.
        batch
            Their batch labels. One variable is that of the fit whatever it is called; the columns of a table or a
            dictionary are found by name, those of an array by place. None: one batch that the fit has not seen; but
            for a fit without `batch` the one that all its cells were of, and X is returned as it is.

        Returns
        -------
        ndarray of shape (n_cells, n_features)
            In the dtype of X, or what `set_output` asks for.

        Raises
        ------
        ValueError
            If the embedding or the labels cannot be used, or the batch variables are not those of the fit.
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self, "model_")
        check_order(X, batch, ("X", "batch"))
        X = validate_data(self, as_rows(X), dtype=_DTYPES, reset=False)
        if batch is None and not self.batch_names_in_:
            return X.copy()
        # The one level of a fit without labels has no name that a label could share.
        known = self.known_batches if self.batch_names_in_ else "new"
        design = None
        if batch is not None:
            design = self._design(as_table(batch) if known == "new" else table_like(batch, self.batch_names_in_))
        return self.model_.map(
            X,
            design,
            known_batches=known,
            ridge_lambda=self.map_ridge_lambda,
            n_iter=self.map_n_iter,
            dtype=X.dtype,
            n_threads=_threads(self.n_jobs),
        )

    def _fit(self, X: Any, batch: Any) -> np.ndarray:
        params = HarmonyParams(**{name: getattr(self, name) for name in _NAMES})
        self._check_mapping()
        n_threads = _threads(self.n_jobs)
        # check_random_state would turn an int into another seed than that of `harmonize`.
        rng = check_random_state(None) if self.random_state is None else self.random_state
        seed = seed_from(rng, "random_state")
        check_order(X, batch, ("X", "batch"))
        X = validate_data(self, as_rows(X), dtype=_DTYPES, ensure_min_samples=2)
        table = as_table(batch if batch is not None else np.repeat("reference", len(X)))
        design = self._design(table)
        if batch is None:
            warn(_NO_BATCH)
        with warnings.catch_warnings():
            if batch is None:
                warnings.filterwarnings("ignore", f"batch: {Status.SINGLE_BATCH.advice}")
            how = {"n_threads": n_threads, "progress": bool(self.verbose), "reference": self.reference}
            result = harmonize(X, design, params, rng=seed, dtype=X.dtype, **how)
        self.model_ = HarmonyModel.from_result(result)
        self.batch_names_in_ = [str(name) for name in table.columns] if batch is not None else []
        self._n_features_out = self.n_features_in_
        self.n_iter_ = len(result.history.passes)
        self.objective_ = result.history.rounds
        self.status_ = result.status
        self.converged_ = result.status is not Status.MAX_ITERATIONS
        if not self.converged_:
            warnings.warn(result.summary(), ConvergenceWarning, stacklevel=3)
        return result.embedding

    def _design(self, table: pd.DataFrame) -> BatchDesign:
        how = {name: getattr(self, name) for name in ("combine_keys", "missing", "allow_many_levels")}
        return design_from_table(table, table.columns.tolist(), where="batch", **how)

    def _check_mapping(self) -> None:
        """Refuse before the fit what `transform` could not use after it."""
        one_of(self.known_batches, "known_batches", get_args(KnownBatches))
        check_scalar(self.map_n_iter, "map_n_iter", Integral, min_val=1)
        check_scalar(self.map_ridge_lambda, "map_ridge_lambda", Real, min_val=0, include_boundaries="neither")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _threads(n_jobs: Any) -> int:
    """Return the number of threads that scikit-learn's `n_jobs` means."""
    if n_jobs is None:
        return int(effective_n_jobs(None))
    check_scalar(n_jobs, "n_jobs", Integral)
    if n_jobs == 0:
        raise InputError("n_jobs=0 has no meaning; allowed are 1 or more, -1 for every CPU, and None")
    return int(n_jobs) if n_jobs > 0 else max(1, available_cpus() + 1 + int(n_jobs))
