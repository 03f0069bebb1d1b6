"""What it takes to reproduce the correction: parameters, versions, and the code."""

from __future__ import annotations

import inspect
import json
import shlex
from dataclasses import fields
from typing import Any

from ...params import HarmonyParams
from ...pp.correctors import Corrector
from ..figures import Figures
from ..parts import Parts
from ..points import correction
from ..text import as_names, clean
from .section import Section

_RECORDS = ("harmonax", "harmonax_mmd", "harmonax_wgan")
_TOOLS = (*_RECORDS, "harmonax_check", "harmonax_evaluation", "harmonax_diagnosis", "harmonax_workflow")
MAX_CODE = 20_000


def reproduce(parts: Parts, figures: Figures) -> Section:
    """Give the code that makes the same correction, with the parameters and versions that it was made with."""
    (own, corrector), workflow = correction(parts), parts.part("harmonax_workflow")
    code: list[tuple[str, str]] = []
    rows: list[tuple[str, str]] = []
    if own and corrector.name != "harmony":
        code.append(("Python", trained_code(own, corrector)))
        rows += [(name, _value(value)) for name, value in dict(own.get("parameters", {})).items()]
        rows.append(("seed", str(own.get("seed", ""))))
    elif own:
        code += [("Python", python_code(own)), ("Command line", command_line(own))]
        rows += [(name, _value(value)) for name, value in _given(own).items()]
        rows += [("seed", str(own.get("seed", ""))), *((k, _value(v)) for k, v in dict(own.get("backend", {})).items())]
    if workflow.get("command"):
        code.append(("The whole workflow", str(workflow["command"])))
    values = {
        "recorded": bool(own),
        "code": [(title, text if len(text) <= MAX_CODE else text[:MAX_CODE] + " …") for title, text in code],
        "tables": [
            ("Parameters of the correction", rows),
            ("Options of the workflow", _options(workflow.get("options"))),
            ("Versions", _versions(parts)),
        ],
    }
    return Section("reproduce", "How to reproduce it", values)


def python_code(own: dict[str, Any]) -> str:
    """Return the call that makes a correction again.

    Examples
    --------
    >>> print(python_code({"batch_keys": ["batch"], "params": {"theta": 2.0, "batch_prune_threshold": 0.0}, "seed": 1}))
    import anndata
    import harmonax
    <BLANKLINE>
    adata = anndata.read_h5ad("IN.h5ad")
    harmonax.pp.harmony_integrate(
        adata,
        'batch',
        theta=2.0,
        batch_prune_threshold=0.0,
        rng=1,
    )
    """
    keys, how = _columns(own)
    lines = [f"    {name}={_literal(value)}," for name, value in (_given(own) | how).items()]
    if levels := _reference(own):
        table = {column: [level for of, level in levels if of == column] for column, _ in levels}
        lines.append(f"    reference={table!r},")
    if protected := _protected(own):
        lines.append(f"    protect={protected!r},")
    if covariates := as_names(own.get("covariates")):
        lines.append(f"    covariates={covariates!r},")
    key = repr(keys[0]) if len(keys) == 1 else repr(keys)
    head = 'import anndata\nimport harmonax\n\nadata = anndata.read_h5ad("IN.h5ad")\nharmonax.pp.harmony_integrate(\n'
    return head + "\n".join([f"    adata,\n    {key},", *lines, f"    rng={_literal(own.get('seed'))},", ")"])


def trained_code(own: dict[str, Any], corrector: Corrector) -> str:
    """Return the call that trains a correction of expression again."""
    keys = as_names(own.get("keys", own.get("batch_keys")))
    known = inspect.signature(corrector.integrate).parameters
    given = {name: value for name, value in dict(own.get("parameters", {})).items() if name in known}
    given |= {"adjusted_basis": own.get("adjusted_basis", corrector.adjusted_basis)}
    lines = [f"    {name}={_literal(value)}," for name, value in given.items()]
    head = 'import anndata\nimport harmonax\n\nadata = anndata.read_h5ad("IN.h5ad")\nharmonax.pp.'
    call = f"{corrector.integrate.__name__}(\n    adata,\n    {repr(keys[0]) if len(keys) == 1 else repr(keys)},"
    return head + "\n".join([call, *lines, f"    rng={_literal(own.get('seed'))},", ")"])


def command_line(own: dict[str, Any]) -> str:
    r"""Return the command that makes a correction again.

    Examples
    --------
    >>> print(command_line({"batch_keys": ["my batch"], "params": {"theta": 2.0}, "seed": 1}))
    harmonax integrate IN.h5ad -o OUT.h5ad \
      --batch-key 'my batch' \
      --theta 2.0 \
      --batch-prune-threshold none \
      --seed 1
    """
    keys, how = _columns(own)
    words = [f"--batch-key {shlex.quote(key)}" for key in keys]
    for name, value in _given(own).items():
        value = "none" if value is None else _plain(value)
        text = ",".join(str(v) for v in value) if isinstance(value, list) else str(value)
        words.append(f"--{name.replace('_', '-')} {shlex.quote(text)}")
    for name, value in how.items():
        option = f"--{name.replace('_', '-')}"
        words.append(option if value is True else f"{option} {shlex.quote(str(value))}")
    words += [f"--reference {shlex.quote(f'{column}={level}')}" for column, level in _reference(own)]
    words += [f"--protect {shlex.quote(key)}" for key in _protected(own)]
    words += [f"--covariate {shlex.quote(name)}" for name in as_names(own.get("covariates"))]
    words.append(f"--seed {shlex.quote(str(own.get('seed')))}")
    return " \\\n  ".join(["harmonax integrate IN.h5ad -o OUT.h5ad", *words])


def _reference(own: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the column and name of each level of the reference, if there is one."""
    table = dict(own.get("reference", {}))
    return list(zip(as_names(table.get("batch_key")), as_names(table.get("level")), strict=True))


def _protected(own: dict[str, Any]) -> list[str]:
    """Return the protected columns."""
    return as_names(dict(own.get("columns", {})).get("protect"))


def _columns(own: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the batch columns, and how they were read where that is not as usual."""
    read = dict(own.get("columns", {}))
    usual = {"combine_keys": False, "missing": "error", "allow_many_levels": False}
    how = {name: _plain(read[name]) for name, value in usual.items() if name in read and read[name] != value}
    return as_names(read.get("keys", own.get("batch_keys"))), how


def _given(own: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the run, in the order of `HarmonyParams`; files keep keys sorted, and no None."""
    params = {str(k): v for k, v in dict(own.get("params", {})).items()}
    names = [field.name for field in fields(HarmonyParams)]
    ordered = {name: params[name] for name in names if name in params}
    # None means something only here: pruning is off.
    ordered = {name: ordered.get(name) for name in names if name in ordered or name == "batch_prune_threshold"}
    return {key: own[key] for key in ("basis", "adjusted_basis") if own.get(key)} | ordered


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value


def _literal(value: Any) -> str:
    # A seed beyond what files hold as a number is kept as text.
    return value if isinstance(value, str) and value.isdigit() else repr(_plain(value))


def _value(value: Any) -> str:
    value = _plain(value)
    return ", ".join(str(v) for v in value) if isinstance(value, list) else str(value)


def _options(text: Any) -> list[tuple[str, str]]:
    try:
        options = json.loads(str(text))
    except ValueError:
        return []
    return [(clean(k), _value(v)) for k, v in options.items()] if isinstance(options, dict) else []


def _versions(parts: Parts) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for key in _TOOLS:
        held = parts.part(key).get("versions")
        found |= {str(k): str(v) for k, v in dict(held or {}).items()}
    return sorted(found.items())
