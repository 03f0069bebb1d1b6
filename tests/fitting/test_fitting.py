# ruff: noqa: E402 - what needs the extra is imported after it was looked for
"""fit: it minimises, resumes to the same bits, stops where it should, and says what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from harmonax.errors import FileFormatError, HarmonaxWarning, InputError, MissingKeyError, OutputError

for name in ("jax", "flax", "optax"):
    pytest.importorskip(name, reason="needs harmonax[jax]")

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from harmonax.training import WEIGHTS, EarlyStopping, FitStatus, batches_of, correction_losses, fit


class Shift(nnx.Module):
    """Moves each batch by a learned vector; has something random, and something that counts, too."""

    def __init__(self, n_batches: int = 2, n_features: int = 3, *, rngs: nnx.Rngs | None = None) -> None:
        self.by = nnx.Param(jnp.zeros((n_batches, n_features)))
        self.other = nnx.Param(jnp.ones(2))
        self.calls = nnx.Variable(jnp.zeros((), int))
        self.noise = nnx.Dropout(0.1, rngs=rngs or nnx.Rngs(5))

    def apply(self, data, state, metadata):
        self.calls[...] += 1
        corrected = data["embeddings"] + self.noise(self.by[...])[data["batch_labels"]]
        return dict(data) | {"corrected_embeddings": corrected}, state, metadata


class Plain(nnx.Module):
    """One parameter, and a loss of its own."""

    def __init__(self) -> None:
        self.x = nnx.Param(jnp.asarray(4.0))

    def training_losses(self, data, rngs):
        return {"square": self.x[...] ** 2, "slope": self.x[...]}


class Duel(nnx.Module):
    """Two groups that learn in turn: the follower tracks the leader, which goes to 3."""

    def __init__(self) -> None:
        self.leader, self.follower = nnx.Param(jnp.asarray(0.0)), nnx.Param(jnp.asarray(-5.0))

    def training_groups(self):
        return {"follow": (nnx.PathContains("follower"), 4), "lead": (nnx.PathContains("leader"), 1)}

    def training_losses(self, data, rngs, group):
        if group == "follow":
            return {"distance": (self.follower[...] - self.leader[...]) ** 2}
        return {"goal": (self.leader[...] - 3) ** 2 + 0 * self.follower[...]}


def cells(n: int = 50, seed: int = 0) -> dict[str, np.ndarray]:
    gen = np.random.default_rng(seed)
    batch = gen.integers(0, 2, n)
    x = gen.normal(size=(n, 3)) + 4 * batch[:, None]
    return {"embeddings": x.astype(np.float32), "batch_labels": batch}


def means(result) -> jax.Array:
    """How far apart the means of two batches are; written for masks."""
    x, batch = result["corrected_embeddings"], result["batch_labels"]
    counted = jnp.ones(len(x)) if "mask" not in result else result["mask"].astype(float)
    first, second = (((batch == b) * counted) @ x / jnp.maximum(((batch == b) * counted).sum(), 1) for b in (0, 1))
    return ((first - second) ** 2).sum()


def size(result) -> jax.Array:
    return 1e-3 * (result["corrected_embeddings"] ** 2).mean()


def learned(operator) -> list[np.ndarray]:
    leaves = jax.tree.leaves(nnx.state(operator))
    plain = [jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf for leaf in leaves]
    return [np.asarray(leaf) for leaf in plain]


def same(one, other) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(learned(one), learned(other), strict=True))


class TestFit:
    def test_it_minimises_and_keeps_every_loss(self):
        operator = Shift()
        losses = {"means": means, "size": lambda model, data: (model.by[...] ** 2).sum()}
        result = fit(operator, cells(), losses, {"size": 0.01}, optax.adam(0.1), steps=100)
        assert result.operator is operator
        assert result.status is FitStatus.COMPLETED
        assert result.n_steps == 100
        assert {name: len(values) for name, values in result.history.items()} == dict.fromkeys(
            ["means", "size", "total"], 100
        )
        np.testing.assert_allclose(
            result.history["total"], result.history["means"] + 0.01 * result.history["size"], rtol=1e-5
        )
        assert result.history["means"][-1] < 0.1 * result.history["means"][0]
        assert int(operator.calls[...]) == 100

    def test_steps_are_those_of_the_optimizer(self):
        operator = Plain()
        result = fit(operator, {"x": np.zeros(3)}, weights={"slope": 0.5}, optimizer=optax.sgd(0.1), steps=3)
        x, seen = 4.0, []
        for _ in range(3):
            seen.append(x**2 + 0.5 * x)
            x -= 0.1 * (2 * x + 0.5)
        np.testing.assert_allclose(result.history["total"], seen, rtol=1e-6)
        assert float(operator.x[...]) == pytest.approx(x, rel=1e-6)

    def test_each_epoch_sees_every_cell_once_and_the_last_minibatch_is_filled_up(self):
        data = cells(50) | {"number": np.arange(50.0), "constant": np.arange(7.0)}

        def seen(result):
            assert result["constant"].shape == (7,)
            assert result["embeddings"].shape == (16, 3)
            return (result["mask"] * result["number"]).sum() + 0 * means(result)

        def squares(result):
            return (result["mask"] * result["number"] ** 2).sum()

        result = fit(Shift(), data, {"seen": seen, "squares": squares}, steps=8, batch_size=16)
        assert result.history["seen"].reshape(2, 4).sum(axis=1) == pytest.approx(np.arange(50).sum())
        assert result.history["squares"].reshape(2, 4).sum(axis=1) == pytest.approx(
            (np.arange(50) ** 2).sum(), rel=1e-5
        )
        assert len(set(result.history["seen"])) == 8

    def test_a_mask_of_the_data_holds_in_minibatches(self):
        data = cells(20) | {"mask": np.arange(20) < 9, "one": np.ones(20)}
        losses = {"count": lambda result: (result["mask"] * result["one"]).sum() + 0 * means(result)}
        result = fit(Shift(), data, losses, steps=3, batch_size=8)
        assert result.history["count"].sum() == 9

    def test_only_what_is_trainable_moves(self):
        operator = Shift()
        fit(operator, cells(), {"means": means}, steps=3, trainable=nnx.PathContains("by"))
        assert np.asarray(operator.by[...]).any()
        assert (np.asarray(operator.other[...]) == 1).all()

    def test_groups_learn_in_turn(self):
        duel = Duel()
        rules = {"follow": optax.sgd(0.25), "lead": optax.sgd(0.1)}
        result = fit(duel, {"x": np.zeros(1)}, optimizer=rules, steps=60)
        assert float(duel.leader[...]) == pytest.approx(3, abs=1e-3)
        assert float(duel.follower[...]) == pytest.approx(3, abs=1e-2)
        assert set(result.history) == {"distance", "goal", "total of follow", "total"}
        # Four updates of the follower came before the leader's first: (-5 - 0)^2 halved in length three times.
        assert result.history["distance"][0] == pytest.approx((5 / 2**3) ** 2)

    def test_the_seed_decides(self):
        runs = [Shift(), Shift(), Shift()]
        for operator, rng in zip(runs, (1, 1, 2), strict=True):
            fit(operator, cells(), {"means": means}, steps=5, batch_size=16, rng=rng)
        assert same(runs[0], runs[1])
        assert not same(runs[0], runs[2])

    def test_presets_and_the_losses_they_weigh(self):
        assert WEIGHTS["strong_batch"] == {"mixing": 1.0, "clustering": 0.1, "preservation": 1.0}
        assert WEIGHTS["clear_types"] == {"mixing": 0.3, "clustering": 1.0, "preservation": 1.0}
        assert WEIGHTS["balanced"] == {"mixing": 0.5, "clustering": 0.5, "preservation": 1.0}

        class Clustered(Shift):
            def apply(self, data, state, metadata):
                result, *rest = super().apply(data, state, metadata)
                side = nnx.sigmoid(result["corrected_embeddings"][:, :1])
                return result | {"cluster_assignments": jnp.concatenate([side, 1 - side], axis=1)}, *rest

        losses = correction_losses(2, n_neighbors=5)
        result = fit(Clustered(), cells(), losses, "strong_batch", optax.adam(0.1), steps=40, batch_size=32)
        h = result.history
        np.testing.assert_allclose(h["total"], h["mixing"] + 0.1 * h["clustering"] + h["preservation"], rtol=1e-4)
        assert h["mixing"][-5:].mean() < h["mixing"][:5].mean() - 0.3


def test_no_preset_is_won_by_a_collapse():
    gen, n = np.random.default_rng(0), 200
    batch, kind = np.arange(n) % 2, np.arange(n) // 2 % 3
    types = np.eye(8)[kind]
    right = gen.normal(size=(n, 8)) + 5 * types
    before = right + 4 * batch[:, None] * np.eye(8)[7]
    losses = correction_losses(2)
    total = jax.jit(lambda x: {name: loss(of(x)) for name, loss in losses.items()})
    shares = jax.nn.one_hot(jnp.asarray(kind), 3)

    def of(x):
        given = {"cluster_assignments": shares, "batch_labels": jnp.asarray(batch), "embeddings": jnp.asarray(before)}
        return given | {"corrected_embeddings": x}

    def totals(x):
        found = total(jnp.asarray(x, jnp.float32))
        return {name: float(sum(w * found[key] for key, w in weights.items())) for name, weights in WEIGHTS.items()}

    far = np.where(np.arange(n)[:, None] == n - 1, 1e7, 1.0)
    cheats = {
        "uncorrected": before,
        "zeros": 0 * right,
        "noise smaller than anything": 1e-30 * gen.normal(size=right.shape),
        "noise": gen.normal(size=right.shape),
        "a point per type": 5 * types,
        "nearly a point per type": 5 * types + 1e-3 * gen.normal(size=right.shape),
        "points and one cell far out": np.where(far > 1, far, 1e-3 * types),
        "uncorrected and one cell far out": np.where(far > 1, far, before),
        "every cell a copy of one of ten": right[np.arange(n) % 10],
        "a line": right * np.eye(8)[0],
    }
    best, scaled = totals(right), totals(1e4 * right + 3)
    for preset, value in best.items():
        assert scaled[preset] == pytest.approx(value, abs=0.01)
        for name, cheat in cheats.items():
            assert totals(cheat)[preset] > value, name
    assert all(np.isnan(value) for value in totals(np.where(far > 1, np.nan, right)).values())


class TestStopping:
    def test_early(self):
        early = EarlyStopping(patience=3, min_delta=0.5, monitor="square")
        result = fit(
            Plain(), {"x": np.zeros(3)}, weights={"slope": 0.0}, optimizer=optax.sgd(0.25), early_stopping=early
        )
        # 16, 4, 1, 0.25, 0.06, 0.02, ...: the fourth improves by 0.75, then three do not.
        assert result.status is FitStatus.EARLY_STOPPED
        assert result.n_steps == 7
        assert "patience" in result.message

    def test_early_on_means_of_epochs(self):
        stops = EarlyStopping(patience=1).watch(2)
        assert [stops(value) for value in (5.0, 1.0, 0.0, 5.0, 3.0, 3.0)] == [False] * 5 + [True]

    def test_callbacks_are_called_and_may_stop(self):
        seen = []

        def callback(step, losses):
            seen.append((step, losses["square"]))
            return step == 2

        result = fit(Plain(), {"x": np.zeros(3)}, steps=10, callbacks=[callback])
        assert result.status is FitStatus.CALLBACK
        assert [step for step, _ in seen] == [0, 1, 2]
        assert seen[0][1] == 16

    def test_what_is_not_finite_is_named_and_the_last_good_state_restored(self):
        class Cliff(Plain):
            def training_losses(self, data, rngs):
                return {"fine": 0 * self.x[...], "log": jnp.log(self.x[...])}

        # 4, 2.75, 0.93, -4.4: the logarithm of the fourth is not a number, so that the third was the last good one.
        operator = Cliff()
        with pytest.warns(HarmonaxWarning, match=r"step 3 \(log, total\).*lower the learning rate"):
            result = fit(operator, {"x": np.zeros(3)}, optimizer=optax.sgd(5.0))
        assert result.status is FitStatus.NOT_FINITE
        assert np.isnan(result.history["log"][3])
        assert result.n_steps == 2
        third = 4 - 5 / 4 - 5 / (4 - 5 / 4)
        assert float(operator.x[...]) == pytest.approx(third, rel=1e-5)

    def test_a_gradient_that_is_not_finite_is_found_before_it_is_used(self):
        class Root(Plain):
            def training_losses(self, data, rngs):
                return {"root": jnp.sqrt(self.x[...] - 4)}

        operator = Root()
        with pytest.warns(HarmonaxWarning, match=r"step 0 \(gradient\)"):
            result = fit(operator, {"x": np.zeros(3)})
        assert result.n_steps == 0
        assert float(operator.x[...]) == 4

    def test_an_interrupt_leaves_what_was_learned_and_no_debris(self, tmp_path, capsys):
        operator = Plain()

        def interrupt(step, losses):
            if step == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(
                operator, {"x": np.zeros(3)}, checkpoint=tmp_path / "run.h5", checkpoint_every=2, progress=True,
                callbacks=[interrupt],
            )  # fmt: skip
        assert float(operator.x[...]) < 4
        assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]
        assert capsys.readouterr().err.endswith("\r\x1b[K")

    def test_progress_goes_to_a_function_and_nowhere_unless_somebody_looks(self, capsys):
        seen = []
        fit(Plain(), {"x": np.zeros(3)}, steps=2, progress=lambda *what: seen.append(what))
        fit(Plain(), {"x": np.zeros(3)}, steps=2)
        assert [what[:2] for what in seen] == [(1, 2), (2, 2)]
        assert capsys.readouterr() == ("", "")


def run(operator, path=None, steps=12, **other):
    given = dict(losses={"means": means}, optimizer=optax.adam(0.1), batch_size=16, rng=3, checkpoint_every=5)
    return fit(operator, cells(), steps=steps, checkpoint=path, **(given | other))


class TestCheckpoint:
    def test_a_resumed_run_has_the_same_bits(self, tmp_path):
        path, whole, halves = tmp_path / "run.h5", Shift(), Shift()
        expected = run(whole)
        run(halves, path, steps=7)
        halves = Shift(rngs=nnx.Rngs(99))
        resumed = run(halves, path)
        assert same(whole, halves)
        assert resumed.n_steps == 12
        for name, values in expected.history.items():
            assert values.tobytes() == resumed.history[name].tobytes()
        # Once done, there is nothing left to do.
        again = Shift()
        assert run(again, path).n_steps == 12
        assert same(whole, again)

    def test_early_stopping_remembers_what_it_saw_before(self, tmp_path):
        early = EarlyStopping(patience=3, min_delta=0.5, monitor="square")
        given = dict(weights={"slope": 0.0}, optimizer=optax.sgd(0.25), early_stopping=early)
        path = tmp_path / "run.h5"
        fit(Plain(), {"x": np.zeros(3)}, steps=5, checkpoint=path, **given)
        assert fit(Plain(), {"x": np.zeros(3)}, steps=50, checkpoint=path, **given).n_steps == 7
        again = fit(Plain(), {"x": np.zeros(3)}, steps=50, checkpoint=path, **given)
        assert (again.n_steps, again.status) == (7, FitStatus.EARLY_STOPPED)

    @pytest.mark.thorough
    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
    def test_a_killed_run_resumes_to_the_same_bits(self, tmp_path):
        script = textwrap.dedent("""
            import sys, time
            from test_fitting import Shift, run
            slowly = [lambda step, losses: time.sleep(0.01)]
            run(Shift(), sys.argv[1], steps=10_000, checkpoint_every=2, callbacks=slowly)
        """)
        path = tmp_path / "run.h5"
        modules = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"PYTHONPATH": modules}
        child = subprocess.Popen([sys.executable, "-c", script, str(path)], env=env)
        try:
            end = time.monotonic() + 600
            while not path.exists() and child.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.3)
        finally:
            child.kill()
            child.wait()
        assert child.returncode == -signal.SIGKILL
        with h5py.File(path) as file:
            done = json.loads(file["about"].asstr()[()])["step"]
        assert 0 < done < 10_000
        resumed, whole = Shift(), Shift()
        assert run(resumed, path, steps=done + 5).n_steps == done + 5
        run(whole, steps=done + 5)
        assert same(resumed, whole)

    @pytest.mark.thorough
    def test_what_is_damaged_or_something_else_is_refused(self, tmp_path):
        path = tmp_path / "run.h5"
        run(Shift(), path, steps=2)
        good = path.read_bytes()
        middle = len(good) // 2
        for bad in (b"", b"not a checkpoint", good[:middle], good[:-30]):
            path.write_bytes(bad)
            with pytest.raises(FileFormatError, match="not a checkpoint of a fit, or damaged"):
                run(Shift(), path)
            assert path.read_bytes() == bad
        for at in range(60, len(good), max(1, len(good) // 40)):
            path.write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])
            try:
                run(Shift(), path, steps=2)
            except FileFormatError:
                continue
            # A bit that says nothing, such as a time: the arrays are then what they were.
            reference, now = Shift(), Shift()
            path.write_bytes(good)
            run(reference, path, steps=2)
            path.write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])
            run(now, path, steps=2)
            assert same(reference, now)
        # As earlier versions wrote it.
        with open(path, "wb") as file:
            np.savez(file, header=np.asarray("{}"), arrays=np.zeros(3, np.uint8))
        with pytest.raises(FileFormatError, match=r"run\.h5 is not a checkpoint"):
            run(Shift(), path)

    def test_another_version_is_refused(self, tmp_path):
        path = tmp_path / "run.h5"
        run(Shift(), path, steps=2)
        with h5py.File(path, "r+") as file:
            file["version"][()] = 2
        with pytest.raises(FileFormatError, match=r"run\.h5 was written in version 2 of the format"):
            run(Shift(), path)

    def test_another_run_is_refused(self, tmp_path):
        path = tmp_path / "run.h5"
        run(Shift(), path, steps=2)
        for other, message in [
            ({"rng": 4}, "its seed differ: 3 there, 4 here"),
            ({"batch_size": 8}, "batch_size differ: 16 there, 8 here"),
            ({"weights": {"means": 2.0}}, "its losses differ"),
            ({"optimizer": optax.sgd(0.1)}, "operator and optimizer differ"),
        ]:
            with pytest.raises(InputError, match=message):
                run(Shift(), path, **other)
        with pytest.raises(InputError, match="operator and optimizer differ"):
            run(Shift(n_batches=3), path)
        with pytest.raises(InputError, match="its data differ"):
            fit(Shift(), cells(seed=1), {"means": means}, None, optax.adam(0.1), batch_size=16, rng=3, checkpoint=path)

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path):
        with pytest.raises(OutputError, match="there is no directory"):
            run(Shift(), tmp_path / "no" / "run.h5", steps=2)


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            ({"losses": None}, InputError, "no loss to minimise"),
            ({"losses": {"a": 3}}, InputError, r"losses\['a'\] is int"),
            ({"losses": {"a": lambda: 0}}, InputError, "takes 0 arguments"),
            ({"losses": {"a": lambda result: result["embeddings"]}}, InputError, "'a' returned shape"),
            ({"weights": {"b": 1.0}}, MissingKeyError, "weight for 'b'"),
            ({"weights": {"means": np.nan}}, InputError, "weight of 'means' is nan"),
            ({"weights": "balancd"}, MissingKeyError, "did you mean 'balanced'"),
            ({"weights": "balanced"}, MissingKeyError, "loss 'mixing' that was not passed"),
            ({"steps": 0}, InputError, "steps=0"),
            ({"checkpoint_every": 1.5}, InputError, "checkpoint_every=1.5"),
            ({"batch_size": 0}, InputError, "batch_size=0"),
            ({"rng": -1}, InputError, "rng=-1"),
            ({"data": {}}, MissingKeyError, "no array of cells"),
            ({"data": cells() | {"embeddings": np.full((50, 3), np.nan)}}, InputError, "NaN or infinity in 50 rows"),
            ({"data": cells() | {"batch_labels": np.repeat("a", 50)}}, InputError, r"'batch_labels'\] has dtype <U1"),
            ({"trainable": nnx.BatchStat}, InputError, "no parameters to train"),
            ({"early_stopping": EarlyStopping(monitor="x")}, MissingKeyError, "no loss 'x' to watch"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, given, error, message):
        with pytest.raises(error, match=message):
            fit(Shift(), **({"data": cells(), "losses": {"means": means}, "steps": 1} | given))

    def test_a_loss_that_does_not_know_its_arrays_is_explained(self):
        from harmonax.losses import BatchMixingLoss

        with pytest.raises(InputError, match="does not know where its arrays are"):
            fit(Shift(), cells(), {"mixing": BatchMixingLoss()})

    def test_a_group_without_optimizer_is_named(self):
        with pytest.raises(MissingKeyError, match="no entry for the group 'lead'"):
            fit(Duel(), {"x": np.zeros(1)}, optimizer={"follow": optax.sgd(0.1)})

    @pytest.mark.parametrize("given", [{"patience": 0}, {"patience": 1.5}, {"min_delta": -1.0}])
    def test_early_stopping_is_checked(self, given):
        with pytest.raises(InputError, match=next(iter(given))):
            EarlyStopping(**given)


class TestRealProjects:
    def test_held_out_cells_are_looked_at_and_can_stop_a_fit(self):
        data = cells(60)
        result = fit(Shift(), data, {"means": means}, None, optax.adam(0.1), 12, held_out=0.25, held_out_every=5)
        seen = result.history["held_out means"]
        assert np.flatnonzero(np.isfinite(seen)).tolist() == [4, 9, 11]
        assert seen[11] < seen[4]
        assert result.history["held_out total"][4] == seen[4]
        other = {"embeddings": data["embeddings"][:9], "batch_labels": data["batch_labels"][:9]}
        early = EarlyStopping(patience=2, min_delta=1e9, monitor="held_out total")
        result = fit(Shift(), data, {"means": means}, held_out=other, held_out_every=4, early_stopping=early, steps=99)
        assert (result.status, result.n_steps) == (FitStatus.EARLY_STOPPED, 12)

    def test_a_weight_may_be_a_schedule(self):
        warm = {"slope": optax.linear_schedule(0.0, 1.0, 4)}
        result = fit(Plain(), {"x": np.zeros(3)}, weights=warm, optimizer=optax.sgd(0.1), steps=6)
        h, ramp = result.history, np.minimum(np.arange(6) / 4, 1)
        np.testing.assert_allclose(h["total"], h["square"] + ramp * h["slope"], rtol=1e-6)

    @pytest.mark.parametrize("kind", ["iterator", "function", "disk"])
    def test_minibatches_from_elsewhere_are_those_of_memory(self, kind, tmp_path):
        data = cells(50)
        with h5py.File(tmp_path / "cells.h5", "w") as file:
            for name, values in data.items():
                file[name] = values
            read = batches_of(dict(file) if kind == "disk" else data, 16, rng=3)
            source = (read(step) for step in range(8)) if kind == "iterator" else read
            whole = run(Shift(), steps=8)
            found = fit(Shift(), source, {"means": means}, optimizer=optax.adam(0.1), steps=8, rng=3)
        np.testing.assert_allclose(found.history["means"], whole.history["means"], rtol=1e-4)

    def test_a_stream_that_ends_or_changes_its_shape_is_refused(self):
        read = batches_of(cells(50), 16)
        given = dict(losses={"means": means}, steps=5)
        with pytest.raises(InputError, match="ended after 2 minibatches"):
            fit(Shift(), iter([read(0), read(1)]), **given)
        with pytest.raises(InputError, match="the minibatch of step 1 has shapes"):
            fit(Shift(), [read(0), cells(7)], **given)
        with pytest.raises(InputError, match="pass the data of the cells held out"):
            fit(Shift(), read, held_out=0.1, **given)

    def test_several_steps_at_once_are_those_steps(self, tmp_path):
        one, four, resumed = Shift(), Shift(), Shift()
        want = run(one, steps=10)
        found = run(four, steps=10, steps_at_once=4)
        np.testing.assert_allclose(found.history["means"], want.history["means"], rtol=1e-5)
        run(resumed, tmp_path / "a.h5", steps=4, steps_at_once=4)
        assert run(resumed, tmp_path / "a.h5", steps=10, steps_at_once=4).n_steps == 10
        assert same(four, resumed)

    def test_what_is_not_finite_ends_several_steps_too(self):
        class Cliff(Plain):
            def training_losses(self, data, rngs):
                return {"log": jnp.log(self.x[...])}

        ends = []
        for at_once in (1, 5):
            operator = Cliff()
            with pytest.warns(HarmonaxWarning, match=r"step 3 \(log, total\)"):
                result = fit(operator, {"x": np.zeros(3)}, optimizer=optax.sgd(5.0), steps_at_once=at_once, steps=9)
            ends.append((result.n_steps, len(result.history["log"]), round(float(operator.x[...]), 4)))
        assert ends[0] == ends[1]

    def test_balanced_losses_move_parameters_alike_whatever_their_units(self):
        class Two(Plain):
            def training_losses(self, data, rngs):
                return {"up": -1000 * self.x[...], "down": 0.5 * self.x[...]}

        plain, balanced = Two(), Two()
        fit(plain, {"x": np.zeros(3)}, optimizer=optax.sgd(0.1), steps=3)
        fit(balanced, {"x": np.zeros(3)}, optimizer=optax.sgd(0.1), steps=3, balance=True, weights={"down": 2.0})
        assert float(plain.x[...]) > 200
        # Gradients of one unit each, of which one counts double: 4 - 3 * 0.1.
        assert float(balanced.x[...]) == pytest.approx(3.7, abs=1e-5)

    def test_orbax_keeps_and_resumes(self, tmp_path):
        ocp = pytest.importorskip("orbax.checkpoint")
        whole, halves = Shift(), Shift()
        run(whole)
        with ocp.CheckpointManager(tmp_path / "orbax") as manager:
            run(halves, manager, steps=7)
            halves = Shift(rngs=nnx.Rngs(99))
            assert run(halves, manager).n_steps == 12
            assert same(whole, halves)
            with pytest.raises(InputError, match="its seed differ: 3 there, 4 here"):
                run(Shift(), manager, rng=4)

    def test_a_loss_that_ignores_the_mask_is_noticed(self):
        def careless(result):
            return (result["corrected_embeddings"] ** 2).mean()

        given = dict(losses={"means": means, "careless": careless}, steps=1)
        with pytest.warns(HarmonaxWarning, match="loss 'careless' changes with what padding holds"):
            fit(Shift(), cells(50), batch_size=16, **given)
        fit(Shift(), cells(50), batch_size=25, **given)

    def test_a_negative_weight_is_noticed(self):
        with pytest.warns(HarmonaxWarning, match="weight of 'means' is -1: that loss is maximised"):
            fit(Shift(), cells(), {"means": means}, {"means": -1.0}, steps=1)

    @pytest.mark.parametrize("batch_size", [None, 50])
    @pytest.mark.parametrize("apart", [0.0, 20.0])
    def test_a_loss_that_takes_batches_apart_is_noticed(self, apart, batch_size):
        pytest.importorskip("sklearn", reason="needs harmonax[workflow]")
        data, given = cells(100), dict(optimizer=optax.adam(0.2), steps=30, batch_size=batch_size)
        # The batches overlap, or have nothing to lose.
        data["embeddings"][data["batch_labels"] == 1] += np.float32(apart - 3)
        with pytest.warns(HarmonaxWarning) as told:
            fit(Shift(), data, {"size": size, "mixing": lambda result: -means(result)}, **given)
        assert len(told) == 1
        assert "the loss 'mixing' is lower where batches lie apart, and the fit followed it" in str(told[0].message)
        assert "do not negate" in str(told[0].message)
        fit(Shift(), data, {"mixing": means, "size": size}, **given)

    def test_it_is_noticed_under_the_other_names_of_cells_and_batches(self):
        class Renamed(Shift):
            def apply(self, data, state, metadata):
                given = {"embeddings": data["features"], "batch_labels": data["batch_ids"]}
                return dict(data) | super().apply(given, state, metadata)[0], state, metadata

        pytest.importorskip("sklearn", reason="needs harmonax[workflow]")
        data = {"features": cells(100)["embeddings"], "batch_ids": cells(100)["batch_labels"]}
        negated = lambda result: -means(result | {"batch_labels": result["batch_ids"]})  # noqa: E731
        with pytest.warns(HarmonaxWarning, match="the loss 'mixing' is lower where batches lie apart"):
            fit(Renamed(), data, {"mixing": negated}, optimizer=optax.adam(0.2), steps=3)

    def test_losses_that_take_nothing_apart_are_not_told(self):
        def needs_more(result):
            assert "number" in result
            return -means(result)

        # What is frozen loses no mixing, and of what cannot be asked nothing is known.
        frozen = dict(optimizer=optax.sgd(0.0), steps=2)
        near = cells(100)
        near["embeddings"][near["batch_labels"] == 1] -= np.float32(3)
        fit(Shift(), near, {"mixing": lambda result: -means(result)}, **frozen)

        class More(Shift):
            def apply(self, data, state, metadata):
                result, state, metadata = super().apply(data, state, metadata)
                return result | {"number": 1}, state, metadata

        fit(More(), cells(100), {"mixing": needs_more}, **frozen)
        with pytest.warns(HarmonaxWarning) as told:
            fit(Shift(), near, {"mixing": means}, {"mixing": -1.0}, optimizer=optax.adam(0.2), steps=30)
        assert ["weight of 'mixing' is -1" in str(one.message) for one in told] == [True]

    @pytest.mark.thorough
    def test_an_operator_of_another_seed_is_another_run(self, tmp_path):
        from harmonax.operators import BatchCorrectionConfig, DifferentiableHarmony

        config = BatchCorrectionConfig(n_clusters=2, n_features=3, n_batches=2, n_iterations=1, n_passes=1)
        losses = {"size": lambda result: (result["corrected_embeddings"] ** 2).mean()}
        given = dict(losses=losses, steps=1, checkpoint=tmp_path / "a.h5")
        fit(DifferentiableHarmony(config, rngs=nnx.Rngs(0)), cells(), **given)
        with pytest.raises(InputError, match="seeds of the operator differ"):
            fit(DifferentiableHarmony(config, rngs=nnx.Rngs(1)), cells(), **given)
