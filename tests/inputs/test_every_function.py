"""Every public function and method, found by itself: a wrong kind of argument gets one clear error before any work."""

from __future__ import annotations

import functools
import importlib
import inspect
import io
import os
from dataclasses import fields as fields_of
from dataclasses import replace

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import harmonax
from harmonax.errors import HarmonaxError

jax = pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("scanpy", reason="scanpy is not installed")
from flax import nnx  # noqa: E402

from harmonax import files, losses, operators, training, workflow  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
MODULES = ("", "datasets", "demo", "files", "losses", "mapping", "operators", "pl", "pp", "report", "tl", "training")
MODULES += ("workflow", "compat.harmonypy", "compat.sklearn")
# What functions return; nobody makes one.
RESULTS = ("HarmonyResult", "Status", "HarmonypyResult", "MappedQuery", "Done", "Forecast", "Demo", "FitResult")
RESULTS += ("FitStatus", "LearnedStrength", "TrainedEncoder")
N = 48
BATCH = np.repeat(["a", "b"], N // 2)
CODES = (BATCH == "b").astype(np.int32)
TYPES = np.tile(["x", "y", "y"], N // 3)
Z = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32) + (TYPES == "x")[:, None] * 4
COUNTS = np.random.default_rng(1).poisson(3, (N, 6)).astype(np.float32)
LOGGED = np.log1p(COUNTS)
QUICK = {"n_clusters": 2, "n_features": 4, "n_batches": 2, "n_iterations": 1, "n_passes": 1}


def closed():
    file = io.StringIO()
    file.close()
    return file


HOSTILE = {
    "None": None,
    "array": np.array([1.0, 2.0]),
    "array of text": np.array(["a", "b"]),
    "2-d array": np.ones((2, 2)),
    "text for a number": "1e3",
    "text": "no such",
    "empty text": "",
    "empty list": [],
    "list of None": [None],
    "nested list": [[1]],
    "object": object(),
    "NaN": float("nan"),
    "infinity": float("-inf"),
    "-1": -1,
    "0": 0,
    "fraction": 2.5,
    "huge": 10**30,
    "True": True,
    "bytes": b"x",
    "dictionary": {"a": 1},
    "set": {1, 2},
    "tuple": (1, "a"),
    "frame": pd.DataFrame({"q": [1]}),
    "series": pd.Series(["a", "b"]),
    "closed file": closed(),
    "complex": 1j,
    "class": int,
}


def cells(expression=COUNTS):
    obs = pd.DataFrame({"batch": BATCH, "type": TYPES, "half": np.tile(["u", "v"], N // 2)})
    obs.index = [f"c{i}" for i in range(N)]
    adata = anndata.AnnData(expression.copy(), obs=obs, obsm={"X_pca": Z.copy()})
    adata.obsm["X_umap"] = adata.obsm["X_umap_uncorrected"] = Z[:, :2].copy()
    return adata


@functools.cache
def _done():
    adata = cells()
    how = {"rng": 0, "verbose": False, "max_iter_harmony": 2, "n_clusters": 3}
    harmonax.pp.harmony_integrate(adata, "batch", save_model=True, save_labels="type", **how)
    harmonax.tl.check(adata, "batch")
    harmonax.tl.evaluate(adata, "batch", label_key="type", embeddings="X_pca_harmony")
    harmonax.tl.diagnose(adata, null=False)
    return adata


def done():
    """Return cells that everything was done with."""
    return _done().copy()


def larger():
    """Return as many as a batch must have to be cut into two."""
    adata = anndata.concat([done()] * 3, index_unique="-")
    adata.uns["harmonax"] = _done().uns["harmonax"]
    return adata


def with_loadings():
    adata = done()
    adata.varm["PCs"] = np.linalg.qr(np.random.default_rng(0).normal(size=(adata.n_vars, Z.shape[1])))[0]
    return adata


def model():
    return harmonax.mapping.build.read_model(_done())


def embedded():
    return {"embeddings": Z.copy(), "batch_labels": CODES.copy()}


def expressed():
    return {"expression": LOGGED.copy(), "batch_labels": CODES.copy()}


@functools.cache
def operator(name):
    small = {"n_genes": 6, "hidden_dim": 4, "latent_dim": 2, "n_batches": 2}
    made = {
        "DifferentiableHarmony": lambda: operators.BatchCorrectionConfig(**QUICK, learnable_centroids=True),
        "SoftKMeansClustering": lambda: operators.SoftClusteringConfig(n_clusters=2, n_features=4),
        "DifferentiableMMDBatchCorrection": lambda: operators.MMDBatchCorrectionConfig(**small),
        "DifferentiableWGANBatchCorrection": lambda: operators.WGANBatchCorrectionConfig(**small),
    }
    return getattr(operators, name)(made[name](), rngs=nnx.Rngs(0))


@functools.cache
def learnt():
    return harmonax.Harmony(n_clusters=2, max_iter_harmony=2).fit(Z, batch=BATCH)


@functools.cache
def run():
    return harmonax.harmonize(Z, BATCH, rng=0, progress=False, max_iter_harmony=2, n_clusters=2)


def fields(made):
    """Return the constructor's valid arguments of a dataclass of settings."""
    return {name: getattr(made, name) for name in inspect.signature(type(made)).parameters}


QUIET = {"rng": 0, "progress": False}
# A valid call of each: by name, the arguments; of a method, the object as well.
CALLS = {
    "Harmony": lambda: {"n_clusters": 2},
    "Harmony.fit": lambda: (harmonax.Harmony(n_clusters=2, max_iter_harmony=1), {"X": Z, "batch": BATCH}),
    "Harmony.fit_transform": lambda: (harmonax.Harmony(n_clusters=2, max_iter_harmony=1), {"X": Z, "batch": BATCH}),
    "Harmony.transform": lambda: (learnt(), {"X": Z, "batch": BATCH}),
    "HarmonyModel": lambda: fields(model()),
    "HarmonyModel.from_result": lambda: {"result": run()},
    "HarmonyModel.load": lambda: {"path": "no.h5"},
    "HarmonyModel.map": lambda: (model(), {"Z": Z, "batches": BATCH}),
    "HarmonyModel.nearest_cluster": lambda: (model(), {"Z": Z}),
    "HarmonyModel.save": lambda: (model(), {"path": "m.h5", "overwrite": True}),
    "HarmonyModel.with_parts": lambda: (model(), {}),
    "HarmonyModel.with_reference": lambda: (model(), {"embedding": Z, "labels": {"type": TYPES}, "batch": BATCH}),
    "HarmonyModel.with_target_sum": lambda: (model(), {"target_sum": 1e4}),
    "HarmonyParams": lambda: fields(harmonax.HarmonyParams()),
    "HarmonyParams.n_blocks": lambda: (harmonax.HarmonyParams(), {"n_cells": N}),
    "HarmonyParams.replace": lambda: (harmonax.HarmonyParams(), {}),
    "HarmonyParams.resolve": lambda: (harmonax.HarmonyParams(), {"design": run().design}),
    "harmonize": lambda: {"Z": Z, "batches": BATCH, "params": harmonax.HarmonyParams(max_iter_harmony=1), **QUIET},
    "harmony1": dict,
    "harmony2": dict,
    "run_harmony": lambda: {
        "data_mat": Z, "meta_data": cells().obs, "vars_use": "batch", "max_iter_harmony": 1, "verbose": False
    },
    "pp.harmony_integrate": lambda: {"adata": cells(), "key": "batch", "max_iter_harmony": 1, **QUIET},
    "pp.correct_counts": lambda: {"adata": done(), "progress": False},
    "pp.mmd_integrate": lambda: {"adata": cells(LOGGED), "key": "batch", "steps": 1, "hidden_dim": 4, **QUIET},
    "pp.wgan_integrate": lambda: {"adata": cells(LOGGED), "key": "batch", "steps": 1, "hidden_dim": 4, **QUIET},
    "tl.check": lambda: {"adata": cells(), "batch_key": "batch"},
    "tl.diagnose": lambda: {"adata": done(), "null": False},
    "tl.evaluate": lambda: {"adata": done(), "batch_key": "batch"},
    "tl.gene_effects": lambda: {"adata": with_loadings()},
    "tl.map_query": lambda: {"query": cells(), "reference": model(), "basis": "X_pca"},
    "tl.random_split": lambda: {"adata": larger(), "n_splits": 1},
    "tl.sweep": lambda: {"adata": cells(), "key": "batch", "theta": 1.0, "sigma": 0.1, "max_iter_harmony": 1},
    "tl.tune": lambda: {
        "adata": cells(), "batch_key": "batch", "weights": 1.0, "steps": 1, "n_clusters": 2, "max_iter_harmony": 1
    },
    "tl.verdict": lambda: {"adata": done()},
    "pl.assignments": lambda: {"source": done(), "batch_key": "batch", "show": False},
    "pl.check": lambda: {"source": done(), "show": False},
    "pl.convergence": lambda: {"source": done(), "show": False},
    "pl.embedding": lambda: {"adata": done(), "color": "batch", "show": False},
    "pl.metrics": lambda: {"source": done(), "show": False},
    "pl.overcorrection": lambda: {"adata": done(), "show": False},
    "pl.pareto": lambda: {
        "table": pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 1.0], "n": ["p", "q"]}),
        "x": "a", "y": "b", "label": "n", "chosen": "p", "show": False,
    },
    "report.maps": lambda: {"adata": done()},
    "report.write_report": lambda: {"adata": done(), "path": "r.html"},
    "demo.run_demo": lambda: {"out_dir": "demo", "n_cells": 5, "quiet": True},
    "datasets.prepare": lambda: {"adata": cells(), "n_genes": 4, "n_components": 2},
    "datasets.simulate": lambda: {"n_cells": 60},
    "files.FileJob": lambda: fields(files.FileJob("in.h5ad", "out.h5ad", ["batch"])),
    "files.MapJob": lambda: fields(files.MapJob("in.h5ad", "m.h5", "out.h5ad")),
    "files.CountsJob": lambda: fields(files.CountsJob("in.h5ad", "out.h5ad")),
    "files.correct_counts_file": lambda: {
        "job": files.CountsJob("in.h5ad", "out.h5ad", overwrite=True), "progress": False
    },
    "files.integrate_file": lambda: {
        "job": files.FileJob("in.h5ad", "out.h5ad", ["batch"], overwrite=True),
        "params": harmonax.HarmonyParams(max_iter_harmony=1),
    },
    "files.map_file": lambda: {
        "job": files.MapJob("in.h5ad", "model.h5", "out.h5ad", ["batch"], basis="X_pca", overwrite=True),
        "wanted": harmonax.mapping.query.QueryOptions(),
    },
    "mapping.map_query": lambda: {"model": model(), "Z": Z, "batches": BATCH},
    "workflow.WorkflowOptions": lambda: fields(workflow.WorkflowOptions()),
    "workflow.WorkflowOptions.replace": lambda: (workflow.WorkflowOptions(), {}),
    "workflow.forecast": lambda: {"paths": "no.h5ad"},
    "workflow.run": lambda: {
        "adata": cells(), "batch_key": "batch",
        "options": workflow.WorkflowOptions(
            min_genes=1, min_cells=1, n_comps=2, n_top_genes=4,
            skip=("umap", "umap_uncorrected", "markers", "evaluate", "diagnose", "check"),
        ),
    },
    "workflow.run_files": lambda: {"paths": "no.h5ad", "out": "out", "batch_key": "batch"},
    "operators.BatchCorrectionConfig": lambda: fields(operators.BatchCorrectionConfig(**QUICK)),
    "operators.BatchCorrectionConfig.index_per_level": lambda: (
        operators.BatchCorrectionConfig(**QUICK), {"name": "theta"}
    ),
    "operators.SoftClusteringConfig": lambda: fields(operators.SoftClusteringConfig()),
    "operators.MMDBatchCorrectionConfig": lambda: fields(operators.MMDBatchCorrectionConfig()),
    "operators.WGANBatchCorrectionConfig": lambda: fields(operators.WGANBatchCorrectionConfig()),
    **{
        f"operators.{name}": lambda name=name: {"config": operator(name).config, "rngs": nnx.Rngs(0)}
        for name in operators.__all__ if not name.endswith("Config")
    },
    "operators.DifferentiableHarmony.apply": lambda: (operator("DifferentiableHarmony"), {"data": embedded()}),
    "operators.DifferentiableHarmony.linear_residual": lambda: (
        operator("DifferentiableHarmony"), {"data": embedded(), "rng": 0}
    ),
    "operators.DifferentiableHarmony.seed_from": lambda: (operator("DifferentiableHarmony"), {"data": embedded()}),
    "operators.SoftKMeansClustering.apply": lambda: (
        operator("SoftKMeansClustering"), {"data": {"embeddings": Z}, "state": None, "metadata": None}
    ),
    "operators.SoftKMeansClustering.fit": lambda: (
        operator("SoftKMeansClustering"), {"data": {"embeddings": Z}, "max_iter": 1, "n_init": 1}
    ),
    "operators.SoftKMeansClustering.loss": lambda: (operator("SoftKMeansClustering"), {"data": {"embeddings": Z}}),
    **{
        f"operators.{name}.{method}": lambda name=name, more=more: (operator(name), {**more()})
        for name in ("DifferentiableMMDBatchCorrection", "DifferentiableWGANBatchCorrection")
        for method, more in {
            "apply": lambda: {"data": expressed(), "state": None, "metadata": None},
            "calibrate": lambda: {"data": expressed()},
            "fit": lambda: {"data": expressed(), "steps": 1, "batch_size": None},
            "loss": lambda: {"data": expressed()},
            "optimizer": lambda: {"steps": 3},
            "training_losses": lambda: {"data": expressed()},
            "encode": lambda: {"data": expressed()},
            "load": lambda: {"path": "no.h5"},
            "save": lambda: {"path": "m.h5"},
        }.items()
    },
    **{f"losses.{name}": dict for name in losses.__all__},
    "losses.BatchMixingLoss.__call__": lambda: (
        losses.BatchMixingLoss(5, 2), {"embeddings": Z, "batch_labels": CODES, "mask": np.ones(N, bool)}
    ),
    "losses.ClusteringCompactnessLoss.__call__": lambda: (
        losses.ClusteringCompactnessLoss(), {"embeddings": Z, "assignments": np.eye(2)[CODES], "mask": np.ones(N, bool)}
    ),
    "losses.LISILoss.__call__": lambda: (
        losses.LISILoss(perplexity=5), {"embeddings": Z, "labels": CODES, "mask": np.ones(N, bool)}
    ),
    "losses.LISILoss.index": lambda: (losses.LISILoss(perplexity=5), {"embeddings": Z, "labels": CODES}),
    "losses.NeighborhoodPreservationLoss.__call__": lambda: (
        losses.NeighborhoodPreservationLoss(5),
        {"embeddings": Z, "reference": Z, "batch_labels": CODES, "mask": np.ones(N, bool)},
    ),
    "losses.ShannonDiversityLoss.__call__": lambda: (
        losses.ShannonDiversityLoss(), {"assignments": np.eye(2)[CODES], "mask": np.ones(N, bool)}
    ),
    "losses.SimpsonDiversityLoss.__call__": lambda: (
        losses.SimpsonDiversityLoss(), {"assignments": np.eye(2)[CODES], "mask": np.ones(N, bool)}
    ),
    "losses.SinkhornLoss.__call__": lambda: (
        losses.SinkhornLoss(), {"embeddings": Z, "batch_labels": CODES, "mask": np.ones(N, bool)}
    ),
    "losses.MutualNeighborLoss.__call__": lambda: (
        losses.MutualNeighborLoss(),
        {"embeddings": Z, "batch_labels": CODES, "mask": np.ones(N, bool), "reference": Z, "groups": CODES},
    ),
    "losses.VelocityConsistencyLoss.__call__": lambda: (
        losses.VelocityConsistencyLoss(),
        {"expression": Z, "velocity": Z, "future_expression": Z, "mask": np.ones(N, bool)},
    ),
    "training.EarlyStopping": dict,
    "training.EarlyStopping.watch": lambda: (training.EarlyStopping(), {"epoch": 5}),
    "training.EncoderConfig": dict,
    "training.StrengthConfig": dict,
    "training.StrengthConfig.operator": lambda: (
        training.StrengthConfig(), {"n_features": 4, "n_batches": 2, "seed": 0}
    ),
    "training.batches_of": lambda: {"data": {"embeddings": Z}, "batch_size": 4, "rng": 0},
    "training.correction_losses": lambda: {"n_batches": 2},
    "training.fit": lambda: {
        "operator": operator("SoftKMeansClustering"), "data": {"embeddings": Z}, "steps": 1, "progress": False,
        "losses": {"all": lambda result: result["cluster_assignments"].mean()},
    },
    "training.learn_strength": lambda: {
        "embedding": Z, "batch_labels": CODES,
        "config": training.StrengthConfig(n_clusters=2, n_iterations=1, n_neighbors=5, steps=1),
    },
    "training.train_encoder": lambda: {
        "counts": COUNTS, "batch": BATCH, "steps": 1, "progress": False,
        "config": training.EncoderConfig(n_genes=6, hidden_dim=4, latent_dim=3, n_clusters=2, n_iterations=1),
    },
}  # fmt: skip


def public():
    """Return every public function, class and method that takes arguments, by name."""
    found, seen = {}, set()
    for module in MODULES:
        space = importlib.import_module(f"harmonax.{module}".rstrip("."))
        for name in getattr(space, "__all__", ()):
            thing = getattr(space, name)
            called = getattr(thing, "__name__", name)
            if not callable(thing) or inspect.ismodule(thing) or called in RESULTS or id(thing) in seen:
                continue
            seen.add(id(thing))
            full = f"{module}.{name}".lstrip(".")
            found[full] = thing
            if inspect.isclass(thing):
                found |= {f"{full}.{method}": function for method, function in methods(thing)}
    return found


def methods(thing):
    for name in dir(thing):
        if name.startswith("_") and name != "__call__":
            continue
        function = inspect.getattr_static(thing, name)
        function = getattr(function, "__func__", function)
        ours = inspect.isfunction(function) and function.__module__.startswith("harmonax")
        if ours and len(inspect.signature(function).parameters) > 1:
            yield name, getattr(thing, name)


def parameters(thing):
    """Return the names of what can be passed by name."""
    thing = thing.__init__ if inspect.isclass(thing) and issubclass(thing, nnx.Module) else thing
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [n for n, p in inspect.signature(thing).parameters.items() if p.kind not in kinds and n != "self"]


PUBLIC = public()
# Those that compile, or work for long, once an argument is taken: where slow tests run.
HEAVY = [
    name
    for name in CALLS
    if name.startswith(("operators.Differentiable", "training.", "workflow.run", "report.", "tl.", "pp.", "demo."))
    and not name.endswith(("Config", "Config.operator", "EarlyStopping", "EarlyStopping.watch", "optimizer"))
]


def test_every_public_function_has_a_valid_call():
    assert set(PUBLIC) == set(CALLS)


def valid(name):
    """Return a function and its valid arguments, made anew."""
    made = CALLS[name]()
    if isinstance(made, tuple):
        return getattr(made[0], name.rpartition(".")[2]), dict(made[1])
    return PUBLIC[name], dict(made)


def places(name):
    """Return where a wrong value can stand: an argument, an entry of a dictionary of arrays, a field of a job."""
    given = valid(name)[1]
    found = [(argument, None) for argument in parameters(PUBLIC[name])]
    if isinstance(given.get("data"), dict):
        found += [("data", entry) for entry in [*given["data"], "mask"]]
    if "job" in given:
        found += [("job", field.name) for field in fields_of(given["job"])]
    return found


def cases(name):
    return [(argument, entry, label) for argument, entry in places(name) for label in HOSTILE]


# The last valid arguments: what was refused before anything was written can be asked again.
_unused = {}


def complaint(name, argument, entry, label):
    """Return what is wrong with how a wrong value is answered, or None."""
    function, made = _unused.pop(name, None) or valid(name)
    _unused.clear()
    value, given = HOSTILE[label], dict(made)
    try:
        if entry is None:
            given[argument] = value
        elif argument == "data":
            given["data"] = given["data"] | {entry: value}
        else:
            given["job"] = replace(given["job"], **{entry: value})
    except HarmonaxError:
        _unused[name] = function, made
        return None
    before = written(given)
    try:
        function(**given)
    except HarmonaxError as error:
        if written(given) != before:
            return f"{argument} {entry or ''} {label}: something was written before {error}"
        _unused[name] = function, made
        return None if len(str(error)) > 15 else f"{argument} {label}: {error!r} says too little"
    except Exception as error:
        return None if excused(name, argument, label, error) else f"{argument} {entry or ''} {label}: {error!r}"
    finally:
        plt.close("all")
    return None


def written(given):
    adata = next((value for value in given.values() if isinstance(value, anndata.AnnData)), None)
    parts = (
        [] if adata is None else [set(part) for part in (adata.obs, adata.obsm, adata.uns, adata.varm, adata.layers)]
    )
    # Outputs of calls that were right stay.
    return parts, {name for name in os.listdir() if not name.startswith(("out", "m.h5", "r.html"))}


def excused(name, argument, label, error):
    """Say whether an error is not ours: scikit-learn's own word on arrays, or that of a function that was passed."""
    if name.startswith("Harmony.") and argument == "X":
        return type(error) is ValueError
    return label == "class" and argument in ("progress", "report", "correct", "losses", "callbacks")


@pytest.fixture
def folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name.startswith("files."):
        cells().write_h5ad("in.h5ad")
        model().save("model.h5")


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in CALLS if name not in HEAVY])
def test_every_wrong_argument_gets_one_clear_error(name, folder):
    assert not list(filter(None, (complaint(name, *case) for case in cases(name))))


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_every_wrong_argument_of_what_works_for_long(name, folder):
    assert not list(filter(None, (complaint(name, *case) for case in cases(name))))
