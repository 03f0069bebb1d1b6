"""The private native module: no call ends the process, cells are for one call at a time, one interpreter has it."""

from __future__ import annotations

import subprocess
import sys
import threading

import hostile
import numpy as np
import pytest

from harmonax.kernels import _native

posix = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="cells in a file need POSIX")


@posix
def test_no_hostile_call_ends_the_process():
    answers = hostile.watched(range(250), seed=20261128)
    assert not [answer for answer in answers if answer.startswith("BAD")]
    assert {"done", "ValueError", "TypeError"} <= set(answers)


def test_what_a_plan_was_made_of_can_change():
    layout = hostile.valid_plan()
    expected = hostile.make(_native.Cells32, "memory", -1)
    laid_out = _native.Plan(**layout)
    for value in layout.values():
        if isinstance(value, np.ndarray):
            value[...] = 10**6
    got = hostile.make(_native.Cells32, "memory", -1, laid_out)
    arguments = hostile.valid_calls(-1)["sweep"][1]
    np.testing.assert_array_equal(got.sweep(**arguments)[0], expected.sweep(**arguments)[0])


def test_sums_of_a_last_pass_are_those_of_its_clusters_only():
    calls = hostile.valid_calls(-1)
    few, many = calls["sweep"][1], hostile.of_clusters(calls["sweep"][1], 40)
    moments = hostile.of_clusters(calls["moments"][1], 40)
    expected = hostile.make(_native.Cells64, "memory", -1).moments(**moments)
    cells = hostile.make(_native.Cells64, "memory", -1)
    for block in range(hostile.BLOCKS):
        cells.sweep(**few | {"block": block})
    cells.sweep(**many)
    for got, wanted in zip(cells.moments(**moments), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_arrays_that_are_not_aligned():
    calls = hostile.valid_calls(-1)
    sweep, assign = calls["sweep"][1], calls["assign"][1]

    def beside(array):
        padded = b"\0" + array.tobytes() + b"\0" * 7
        return np.frombuffer(padded, "u1")[1 : 1 + array.nbytes].view(array.dtype).reshape(array.shape)

    got, expected = (
        hostile.make(_native.Cells32, "memory", -1).sweep(
            **{**sweep, "Y": change(sweep["Y"]), "logp": change(sweep["logp"])}
        )
        for change in (beside, np.copy)
    )
    np.testing.assert_array_equal(got[0], expected[0])
    with pytest.raises(ValueError, match="not aligned"):
        hostile.make(_native.Cells32, "memory", -1).assign(**assign | {"order": beside(assign["order"])})


def test_two_threads_in_the_same_cells_are_told_apart():
    cells = hostile.make(_native.Cells32, "memory", -1)
    arguments = hostile.of_clusters(hostile.valid_calls(-1)["moments"][1], 400)
    expected = cells.moments(**arguments)[1]
    refused, right, go = [], [], threading.Barrier(4)

    def ask():
        go.wait()
        for _ in range(30):
            try:
                right.append(np.array_equal(cells.moments(**arguments)[1], expected))
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) + len(refused) == 120
    assert all(right)
    assert refused
    assert set(refused) == {"these cells are in use by another thread; give each thread its own"}
    assert np.array_equal(cells.moments(**arguments)[1], expected)


SUBINTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
{first}
made = interpreters.create()
script = '''
import sys
sys.path[:] = {{path!r}}
try:
    import harmonax
except ImportError as error:
    print("refused:", error)
'''.format(path=sys.path)
found = getattr(interpreters, "exec", None) or interpreters.run_string
found(made, script)
"""


@pytest.mark.parametrize("first", ["", "import harmonax.kernels._native"])
def test_a_subinterpreter_is_told(first):
    command = [sys.executable, "-c", SUBINTERPRETER.format(first=first)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: harmonax cannot be used in a subinterpreter: ")
