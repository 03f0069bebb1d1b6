"""Calls of the private native module with wrong arguments of every kind, by a seed: none may end the process.

    python tests/kernels/hostile.py --calls 700 --seed 1

Each call is made in a child process, which is begun again where it ends; the exit code is 1 where one did.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from typing import Any

import numpy as np

from harmonax.algorithm.schedule import FixedPartition
from harmonax.cells.native import order, plan
from harmonax.design import BatchDesign
from harmonax.kernels import _native

N, D, K, BLOCKS = 900, 3, 4, 3
LIMIT = 60


def valid_plan() -> dict[str, Any]:
    design = BatchDesign.from_codes(np.random.default_rng(0).integers(0, 3, (N, 2)))
    schedule = FixedPartition(BLOCKS, np.random.SeedSequence(0))
    return {**plan(design, schedule), "order": order(design, schedule)}


def valid_calls(file: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return what is called, and with which right arguments; fresh ones every time."""
    gen = np.random.default_rng(1)
    layout = valid_plan()
    levels = layout["n_levels"]
    Y, sigma = gen.normal(size=(K, D)), np.full(K, 0.1)
    table, logp = np.zeros((levels, K)), np.zeros((BLOCKS, levels, K))
    W = gen.normal(size=(levels, K, D))
    how = {"instruction_set": _native.instruction_sets()[0], "n_threads": 2}
    common = {"Y": Y, "sigma": sigma, "logp": logp}
    return {
        "plan": ("Plan", layout),
        "memory": ("Cells", {"Z": gen.normal(size=(N, D)).astype(np.float32), "plan": None, **how}),
        "file": ("Cells", {"file": file, "d": D, "plan": None, **how}),
        "keep_weights": ("keep_weights", {"bytes": 1 << 20}),
        "release": ("release", {}),
        "sweep": (
            "sweep",
            {"block": 0, "Y": Y, "sigma": sigma, "logp": table, "moment": True, "last": True},
        ),
        "kept": ("sweep", {"block": 1, "Y": Y, "sigma": sigma, "logp": None, "moment": False, "last": False}),
        "moments": ("moments", common),
        "correct": ("correct", {**common, "W": W, "moment": True}),
        "emit": ("emit", {**common, "W": W, "out": np.zeros((N, D)), "moment": True}),
        "emit_in_place": ("emit_in_place", {**common, "W": W, "moment": False}),
        "assign": ("assign", {**common, "order": layout["order"], "out": np.zeros((N, K), np.float32)}),
    }


def others(value: Any, gen: np.random.Generator) -> Any:
    """Return something wrong in place of a right argument."""
    odd = [None, -1, 0, 2**31 - 1, 2**62, 2**64, -(2**63), 1.5, float("nan"), "x", b"x", [], {}, object(), True]
    if not isinstance(value, np.ndarray) or gen.random() < 0.15:
        return odd[gen.integers(len(odd))]
    spaces: list[Any] = [
        lambda a: a[:0],
        lambda a: a[:-1],
        lambda a: np.concatenate([a, a]),
        lambda a: a[..., None],
        lambda a: a.ravel(),
        lambda a: a[::-1],
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 3, axis=-1),
        lambda a: np.repeat(a, 3, axis=0)[::3],
        lambda a: np.repeat(a, 3, axis=a.ndim - 1),
        lambda a: a[..., :1],
        lambda a: a[..., :0],
        lambda a: np.broadcast_to(a.flat[0], a.shape),
        lambda a: np.broadcast_to(a.flat[0], (*a.shape[:-1], 2**40)),
        lambda a: np.broadcast_to(a.flat[0], (2**40, *a.shape[1:])),
        lambda a: a.astype(gen.choice(["f2", "f4", "f8", "i1", "i4", "i8", "u8", "c16", "O", "U3", "?", ">f8", ">i8"])),
        lambda a: (
            np.frombuffer(b"\0" + a.tobytes(), a.dtype, offset=0, count=a.size - 1)
            if a.size > 1
            else np.zeros(1, a.dtype)
        ),
        lambda a: np.frombuffer(b"\0" + a.tobytes() + b"\0" * 7, "u1")[1 : 1 + a.nbytes].view(a.dtype).reshape(a.shape),
        lambda a: memoryview(np.ascontiguousarray(a)),
        lambda a: np.ma.masked_array(a),
    ]
    extreme = [-1, 0, 1, 2**15, 2**31 - 1, 2**62, -(2**63), np.nan, np.inf, -np.inf, 1e-320, 1e308, -1e308]

    def some(a: np.ndarray) -> np.ndarray:
        a = a.copy()
        with np.errstate(all="ignore"):
            for place in gen.integers(a.size, size=gen.integers(1, 4)) if a.size else ():
                a.flat[place] = np.array(extreme[gen.integers(len(extreme))]).astype(a.dtype)
        return a

    def all_(a: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.full_like(a, np.array(extreme[gen.integers(len(extreme))]).astype(a.dtype))

    def locked(a: np.ndarray) -> np.ndarray:
        a = a.copy()
        a.flags.writeable = False
        return a

    choice = gen.integers(4)
    if choice == 0:
        return some(value)
    if choice == 1:
        return [all_, locked][gen.integers(2)](value)
    return spaces[gen.integers(len(spaces))](value)


def make(kind: Any, name: str, file: int, laid_out: Any = None) -> Any:
    arguments = valid_calls(file)[name][1]
    given = {**valid_plan(), "order": None} if name == "file" else valid_plan()
    return kind(**(arguments | {"plan": laid_out or _native.Plan(**given)}))


def call(number: int, seed: int, file: int) -> str:
    """Make one call after a few others, most of them right; return how it went."""
    gen = np.random.default_rng([seed, number])
    kind = (_native.Cells32, _native.Cells64)[gen.integers(2)]
    calls = valid_calls(file)
    os.truncate(file, 0)
    os.pwrite(file, np.ones(2 * N * D, "f8").tobytes(), 0)
    where = ("memory", "file")[gen.integers(2)]
    names = [name for name in calls if calls[name][0] not in ("Plan", "Cells")]
    end = ""
    try:
        if gen.random() < 0.3:
            name = ("plan", where)[gen.integers(2)]
            arguments = wrong(calls[name][1], gen)
            if name == "plan":
                cells = make(kind, "memory", file, _native.Plan(**arguments))
            else:
                given = {name: value for name, value in arguments.items() if value is not None}
                cells = kind(**({"plan": _native.Plan(**valid_plan())} | given))
        else:
            cells = make(kind, where, file)
            if gen.random() < 0.05:
                cells = [kind.__new__(kind), cells][gen.integers(2)]
                cells.__init__(**calls[where][1])
            if gen.random() < 0.1:
                layout = valid_plan()
                laid_out = _native.Plan(**layout)
                for value in layout.values():
                    if isinstance(value, np.ndarray):
                        value[...] = 10**6
                cells = make(kind, "memory", file, laid_out)
    except (ValueError, TypeError, MemoryError, OSError, RuntimeError) as error:
        return type(error).__name__
    n_clusters = gen.integers(1, 60, size=8)
    for step in range(8):
        method, arguments = calls[names[gen.integers(len(names))]]
        if gen.random() < 0.3:
            arguments = wrong(arguments, gen)
        elif gen.random() < 0.5:
            arguments = of_clusters(arguments, int(n_clusters[step]))
        if "out" in arguments and method == "assign" and kind is _native.Cells64 and gen.random() < 0.8:
            arguments = {**arguments, "out": np.zeros((N, len(np.atleast_1d(arguments["sigma"]))))}
        if method == "emit_in_place" and gen.random() < 0.1:
            os.truncate(file, 100)
        try:
            getattr(cells, method)(**arguments)
            end = "done"
        except (ValueError, TypeError, MemoryError, OSError, RuntimeError) as error:
            end = type(error).__name__
    return end


def wrong(arguments: dict[str, Any], gen: np.random.Generator) -> dict[str, Any]:
    names = list(arguments)
    if not names:
        return {"x": 1}
    changed = dict(arguments)
    for place in gen.integers(len(names), size=int(gen.integers(1, 3))):
        # Some that NumPy describes cannot be had.
        with contextlib.suppress(MemoryError):
            changed[names[place]] = others(arguments[names[place]], gen)
    return changed


def of_clusters(arguments: dict[str, Any], k: int) -> dict[str, Any]:
    """Return right arguments for another number of clusters."""
    changed = dict(arguments)
    for name, axis in {"Y": 0, "sigma": 0, "logp": -1, "W": 1}.items():
        if arguments.get(name) is not None:
            first = np.moveaxis(arguments[name], axis, 0)
            wider = np.resize(first, (k, *first.shape[1:]))
            changed[name] = np.ascontiguousarray(np.moveaxis(wider, 0, axis))
    if "order" in arguments:
        changed["out"] = np.zeros((N, k), np.float32)
    return changed


def watched(numbers: range, seed: int) -> list[str]:
    """Call in child processes; return the answers."""
    answers: list[str] = []
    while len(answers) < len(numbers):
        first = numbers.start + len(answers)
        work = [sys.executable, __file__, "--seed", str(seed), "--worker", f"{first}:{numbers.stop}"]
        with subprocess.Popen(work, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            answers += [line.strip() for line in process.stdout]
        if process.returncode:
            answers.append(f"BAD {numbers.start + len(answers)}: the process ended with {process.returncode}")
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        import signal

        with tempfile.TemporaryFile() as file:
            for number in range(*map(int, given.worker.split(":"))):
                if hasattr(signal, "alarm"):
                    signal.alarm(LIMIT)
                print(call(number, given.seed, file.fileno()), flush=True)
        return 0
    answers = watched(range(given.calls), given.seed)
    bad = [answer for answer in answers if answer.startswith("BAD")]
    print("\n".join(bad) + "\n" * bool(bad) + str(dict(Counter(answer.split()[0] for answer in answers))))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
