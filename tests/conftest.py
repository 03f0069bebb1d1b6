"""Fixtures for every test: a small synthetic AnnData, and the real data where they are."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import sys
import tempfile
import time
from pathlib import Path

import anndata
import hypothesis
import numpy as np
import pandas as pd
import pytest

N_CELLS, N_FEATURES = 180, 6
# Compiled programs are let go after a test that leaves the process above so many bytes, and then after as many more.
_ROOM = 400 << 20
_let_go_above = 1 << 30
# Seconds for which programs that JAX compiled are kept.
_KEPT = 7 * 86400
# Where the examples of docstrings train, which takes seconds.
_TRAINING = ("operators/latent/*.py", "harmonax/training/*.py", "pp/latent.py", "tl/tune.py")

# What an example takes depends on what else the machine does.
hypothesis.settings.register_profile("harmonax", deadline=None)
hypothesis.settings.load_profile("harmonax")


def pytest_configure(config):
    _compile_quickly(config)
    # anndata up to 0.13 reads options that pandas 3 has deprecated.
    for option in ("future.infer_string", "mode.chained_assignment"):
        config.addinivalue_line("filterwarnings", f"ignore:The '{option}' option is deprecated")


def _compile_quickly(config):
    """Let JAX compile with little optimisation, and keep what it compiled in files, for a week.

    Nearly all the time of the tests with JAX is compilation, often of a program that another test had compiled. All
    processes share the files, also those that tests start; JAX compiles anew what another one has not written to its
    end. Where slow tests may run, all is compiled as for users: programs run for long, and pages state figures.
    """
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry")
    folder = config.cache.mkdir("programs") if hasattr(config, "cache") else None
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="harmonax-tests-", ignore_cleanup_errors=True)
        config.add_cleanup(temporary.cleanup)
        folder = Path(temporary.name)
    elif not hasattr(config, "workerinput"):
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - _KEPT:
                path.unlink(missing_ok=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    if "not slow" in config.option.markexpr:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        if _has_older_emitters():
            # A compilation takes half the time, and an eighth less again where a program is not divided into parts.
            quickly = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
            os.environ.setdefault("XLA_FLAGS", f"{quickly} --xla_cpu_enable_concurrency_optimized_scheduler=false")


def _has_older_emitters() -> bool:
    """Return whether this XLA still has its older emitters of code; an unknown flag ends the process."""
    try:
        return tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) <= (0, 10)
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leave the examples of docstrings that train to `make thorough`."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and any(map(item.path.match, _TRAINING)):
            item.add_marker(pytest.mark.thorough)


def pytest_collection_finish():
    """Let the garbage collector pass by what the imports have made: it took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(autouse=True)
def full_optimisation(request):
    """Let the compiler optimise, as it does for users, where JAX is a backend."""
    quick = "JAX_DISABLE_MOST_OPTIMIZATIONS" in os.environ
    if not (quick and "jax" in sys.modules and request.path.parent.name == "cells"):
        yield
        return
    config = sys.modules["jax"].config
    config.update("jax_disable_most_optimizations", False)
    yield
    config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def small_process():
    """Keep the process small: let compiled programs and figures go where they have become many."""
    yield
    global _let_go_above
    if _resident() > _let_go_above:
        _let_go()
        _let_go_above = _resident() + _ROOM


def _let_go():
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _resident() -> int:
    """Return the bytes that this process holds now; 0 where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def adata() -> anndata.AnnData:
    """Three batches, shifted, of two cell groups; a second variable `donor`; float32 embedding."""
    gen = np.random.default_rng(7)
    batch = np.repeat(["a", "b", "c"], [90, 60, 30])
    group = gen.choice(["T", "B"], N_CELLS)
    shift = {"a": 0.0, "b": 1.0, "c": -1.0}
    Z = gen.normal(size=(N_CELLS, N_FEATURES))
    Z[:, 0] += np.where(group == "T", 6.0, -6.0)
    Z[:, 1] += [shift[b] for b in batch]
    order = gen.permutation(N_CELLS)
    obs = pd.DataFrame(
        {"batch": pd.Categorical(batch), "donor": gen.choice(["d1", "d2"], N_CELLS), "group": group},
        index=[f"cell{i}" for i in range(N_CELLS)],
    ).iloc[order]
    return anndata.AnnData(obs=obs, obsm={"X_pca": Z[order].astype(np.float32)})


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data sets; ``HARMONAX_TEST_DATA`` says where, by default beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("HARMONAX_TEST_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set HARMONAX_TEST_DATA")
    return path
