"""Change the code by hand in small ways, one at a time, and say which changes the tests do not notice.

    python tests/mutants.py             all of them
    python tests/mutants.py seeding     those whose file has this in its path

Each change is made in a temporary copy of the package, and the tests named with it run there. The exit code is 1 where
one survives, or where its text is not found exactly once: then the code has moved on, and the change is to be restated.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# An editable installation would find the unchanged package first.
BOOTSTRAP = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
sys.path.insert(0, sys.argv[1])
import harmonax, pytest
assert harmonax.__file__.startswith(sys.argv[1]), harmonax.__file__
sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""
PASSED, FAILED = 0, 1

METHOD = "tests/algorithm/test_algorithm.py"
RIDGE = "tests/algorithm/test_ridge.py"
SCHEDULE = "tests/algorithm/test_schedule.py"
MEMORY = "tests/cells/test_memory.py"
DIAGNOSE = "tests/evaluation/test_diagnose.py"
CHECK = "tests/evaluation/test_check.py"
MAPPING = "tests/mapping/test_mapping.py"
ROLES = "tests/algorithm/test_roles.py"
SWEEP = "tests/tl/test_sweep.py"
MERGES = "tests/evaluation/test_merges.py"
SPLIT = "tests/tl/test_random_split.py"
TOTALS = "tests/mapping/test_normalisation.py"


class Mutant(NamedTuple):
    file: str
    old: str
    new: str
    tests: str
    only: str = ""  # pytest -k


MUTANTS = [
    Mutant("params.py", "min(100, round(n_cells / 30))", "min(50, round(n_cells / 30))", METHOD, "by_default"),
    Mutant("params.py", "round(n_cells / 30)", "round(n_cells / 10)", METHOD, "by_default"),
    Mutant("params.py", "round(min(n_cells, 1.0 /", "int(min(n_cells, 1.0 /", SCHEDULE),
    Mutant("algorithm/seeding.py", "_STEPS = 3", "_STEPS = 0", METHOD, "seeding"),
    Mutant("algorithm/seeding.py", "_SIGMA = 0.02", "_SIGMA = 0.1", METHOD, "seeding"),
    Mutant(
        "algorithm/harmony.py",
        "np.where(correction.skipped[:, None], Y, unit(correction.W0))",
        "unit(correction.W0)",
        METHOD,
        "skipped",
    ),
    Mutant("algorithm/harmony.py", "O -= self.cells.mass(block)", "O -= 0.0", METHOD, "objective"),
    Mutant("algorithm/penalty.py", "* -theta[:, None]", "* theta[:, None]", METHOD, "penalty"),
    Mutant("algorithm/flavors.py", "/ (2 * E + 1)", "/ (2 * E + 2)", METHOD, "penalty or objective"),
    Mutant("algorithm/flavors.py", "objective_cells=2000.0", "objective_cells=1000.0", METHOD, "objective"),
    Mutant("algorithm/convergence.py", "WINDOW = 3", "WINDOW = 2", METHOD, "stop"),
    Mutant("algorithm/ridge.py", "f = keep / (O + lam)", "f = keep / (O + 2 * lam)", RIDGE),
    Mutant("algorithm/regressors.py", "levels.sum(axis=0) > 1", "levels.sum(axis=0) > 0", RIDGE),
    Mutant("algorithm/schedule.py", "self._orders.permutation(self.n_blocks)", "range(self.n_blocks)", SCHEDULE),
    Mutant("cells/dense.py", "-2.0 * (1.0 - Zn @ Y.T)", "-1.0 * (1.0 - Zn @ Y.T)", METHOD, "objective or seeding"),
    Mutant("cells/dense.py", "self.Zn = unit(self._corrected(W))", "self.Zn = self._corrected(W)", MEMORY, "dense"),
    Mutant("cells/native.py", "by_joint[by_block]", "by_block", MEMORY, "dense"),
    Mutant("cells/memory.py", "return unit(self._Z[rows]", "return (self._Z[rows]", METHOD, "scaling"),
    Mutant("evaluation/neighbours.py", "min(k, len(own) // 3)", "min(k, len(own) // 2)", DIAGNOSE, "neighbours"),
    Mutant("evaluation/neighbours.py", ".any(axis=2) & (before >= 0)", ".any(axis=2)", DIAGNOSE, "kept"),
    Mutant("evaluation/before/association.py", "phi2 - (r - 1) * (k - 1) / (n - 1)", "phi2", CHECK),
    Mutant(
        "evaluation/verdict.py",
        '"over_corrected": "do_not_trust"',
        '"over_corrected": "trust"',
        DIAGNOSE,
        "means_for_trust",
    ),
    Mutant("mapping/symphony.py", "max(n_iter, _SETTLED)", "n_iter", MAPPING, "known_batches"),
    Mutant("mapping/symphony.py", "W[~learned] = found.W", "W[~learned] = found.W / 2", MAPPING, "equation"),
    Mutant("mapping/novelty.py", "0.99, 1.15", "0.5, 0.5", MAPPING, "novel"),
    Mutant("design.py", "W[self.n_batch_levels :] = 0.0", "W[self.n_batch_levels :] *= 1.0", ROLES, "effect_stays"),
    Mutant("design.py", "hold[place[j]] = -W", "hold[place[j]] = W", ROLES, "between_the_rounds"),
    Mutant("algorithm/regressors.py", "np.where(skipped, 0.0, O_joint", "np.where(True, 0.0, O_joint", ROLES, "matrix"),
    Mutant("algorithm/penalty.py", "if design.protects:", "if False:", ROLES, "mixture"),
    Mutant("evaluation/scores/choice.py", "> 2 * gain.std()", "> 0 * gain.std()", SWEEP, "better_by_more"),
    Mutant("evaluation/scores/choice.py", "- expected, 0)", "- expected, -1)", SWEEP, "make_up_for_none"),
    Mutant("evaluation/scores/choice.py", "(mixing + structure) / 2", "mixing", SWEEP, "truths"),
    Mutant("evaluation/after/merges.py", "> APART) &", "> APART) |", MERGES, "explains_every"),
    Mutant("evaluation/after/random_split.py", "(n / 2 - still)", "(n - still)", SPLIT, "shuffled"),
    Mutant("evaluation/after/random_split.py", "false_discovery_control(ttest_ind", "(ttest_ind", SPLIT, "stated_rate"),
    Mutant("evaluation/after/structure.py", "-= np.median(move[own], axis=0)", "-= 0.0", DIAGNOSE, "movement"),
    Mutant("evaluation/after/advice.py", "> now[gain] + _MATTERS", "> now[gain]", SWEEP, "below_two"),
    Mutant("mapping/normalisation.py", "3, 0.95", "3, 0.0", TOTALS, "logarithm"),
    Mutant("mapping/normalisation.py", "np.expm1(X * math.log(base))", "np.expm1(X)", TOTALS, "logarithm"),
    Mutant("mapping/normalisation.py", "made / math.log(base)", "made", TOTALS, "logarithm"),
]


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.file for word in words)]
    answers = [(mutant, fate(mutant)) for mutant in chosen]
    bad = [(mutant, answer) for mutant, answer in answers if answer != "died"]
    print(f"{len(answers) - len(bad)} of {len(answers)} died")
    return int(bool(bad) or not answers)


def fate(mutant: Mutant) -> str:
    """Say what became of a mutant: it died, it survived, or it could not be tried."""
    found = (ROOT / "src" / "harmonax" / mutant.file).read_text().count(mutant.old)
    answer = _tried(mutant) if found == 1 else f"its text is there {found} times"
    print(f"{answer:10} {mutant.file}: {mutant.old} -> {mutant.new}", flush=True)
    return answer


def _tried(mutant: Mutant) -> str:
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder).resolve() / "src"
        shutil.copytree(ROOT / "src", src, ignore=shutil.ignore_patterns("__pycache__"))
        native = importlib.util.find_spec("harmonax.kernels._native").origin
        shutil.copy(native, src / "harmonax" / "kernels")
        file = src / "harmonax" / mutant.file
        file.write_text(file.read_text().replace(mutant.old, mutant.new))
        only = ["-k", mutant.only] if mutant.only else []
        command = [sys.executable, "-c", BOOTSTRAP, str(src), str(ROOT / mutant.tests), *only]
        env = os.environ | {"PYTHONPATH": str(src)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode not in (PASSED, FAILED):
        print(done.stdout[-2000:], done.stderr[-2000:])
        return f"pytest ended with {done.returncode}"
    return "survived" if done.returncode == PASSED else "died"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
