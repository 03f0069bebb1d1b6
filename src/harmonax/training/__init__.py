"""Learning through a batch correction: operators and losses in, a fitted operator out (JAX, Optax).

    loop.py          fit: one update after the other, until it ends, stops early or stops being finite
    updates.py       one update, compiled: losses, gradients, and whether all of it is finite
    terms.py         which losses there are, and their weights
    presets.py       weights by situation, and the losses that they weigh
    minibatches.py   which cells an update sees
    checkpoint.py    a run's state in one file, written whole or not at all
    outcome.py       FitResult, FitStatus, EarlyStopping
    strength.py      learn_strength: theta, sigma and the ridge penalty of Harmony, without labels
    encoder.py       train_encoder: an encoder of log counts, learned through Harmony

Needs ``pip install 'harmonax[jax]'``.
"""

from ..extras import need

for _module in ("jax", "flax", "optax"):
    need(_module, "jax")

from .encoder import EncoderConfig, TrainedEncoder, train_encoder  # noqa: E402
from .loop import fit  # noqa: E402
from .outcome import EarlyStopping, FitResult, FitStatus  # noqa: E402
from .presets import WEIGHTS, correction_losses  # noqa: E402
from .strength import LearnedStrength, StrengthConfig, learn_strength  # noqa: E402

__all__ = [
    "WEIGHTS",
    "EarlyStopping",
    "EncoderConfig",
    "FitResult",
    "FitStatus",
    "LearnedStrength",
    "StrengthConfig",
    "TrainedEncoder",
    "correction_losses",
    "fit",
    "learn_strength",
    "train_encoder",
]
