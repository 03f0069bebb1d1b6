"""Modules under the names that they had before: ``import harmonax.engine`` and the like keep working.

A moved module is found under its old name by a finder at the end of ``sys.meta_path``, which is asked only where
nothing else has the name; importing it so warns of the new name.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any

# Old name: new name, both below the package. No old name may be that of a function in its folder, which importing the
# module would replace.
MOVED = {
    "checkpoint": "engine.checkpoint",
    "columns": "inputs.columns",
    "demo.prepare": "datasets.preparation",
    "demo.simulate": "datasets.simulation",
    "embedding": "inputs.embedding",
    "evaluation.check": "evaluation.before.check",
    "evaluation.diagnose": "evaluation.after.diagnose",
    "evaluation.evaluate": "evaluation.scores.evaluate",
    "extras": "system.extras",
    "harmonypy": "compat.harmonypy",
    "mapping.fit": "mapping.build",
    "mapping.storage": "mapping.serialise",
    "memory": "system.memory",
    "neural": "pp.latent",
    "operators.clustering": "operators.soft_kmeans",
    "schedule": "algorithm.schedule",
    "sklearn": "compat.sklearn",
    "spellings": "compat.names",
    "threads": "system.cpus",
    "version": "system.version",
}
_PACKAGE = __name__.split(".")[0]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the module that is there under its new name."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if package != _PACKAGE or rest not in MOVED:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = f"{_PACKAGE}.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is now {new}; the old name works until 0.4", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        # The import system writes its own names into what it is given; exec_module restores them.
        self._own = {name: getattr(module, name, None) for name in ("__spec__", "__loader__", "__package__")}
        return module

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self._own)


def install() -> None:
    """Have old names found, once."""
    if not any(type(finder).__name__ == _Finder.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
