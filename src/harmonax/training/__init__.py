"""Learning through a batch correction: operators and losses in, a fitted operator out (JAX, Optax).

    strength.py      learn_strength: theta, sigma and the ridge penalty of Harmony, without labels
    scaling.py       log counts, scaled as those of other cells
    encoder.py       train_encoder: an encoder of log counts, learned through Harmony

The training loop itself is `harmonax.fitting`.

Needs ``pip install 'harmonax[jax]'``.
"""

from ..system.extras import need

for _module in ("jax", "flax", "optax"):
    need(_module, "jax")

from ..fitting.loop import fit  # noqa: E402
from ..fitting.outcome import EarlyStopping, FitResult, FitStatus  # noqa: E402
from ..fitting.presets import WEIGHTS, correction_losses  # noqa: E402
from ..fitting.streams import batches_of  # noqa: E402
from .encoder import EncoderConfig, TrainedEncoder, train_encoder  # noqa: E402
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
    "batches_of",
    "correction_losses",
    "fit",
    "learn_strength",
    "train_encoder",
]
