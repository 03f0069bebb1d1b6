"""The training loop, which knows no operator: losses and a model in, a fitted model out (JAX, Optax).

loop          `fit`: checks what it is given, and returns what was learned
run           one update after the other, until it ends, stops early or stops being finite
held_out      losses of cells that are not learned from, and losses that padding changes
direction     losses with the wrong sign, which take batches apart
updates       one update, compiled: losses, gradients, and whether all of it is finite
terms         which losses there are, and their weights
presets       weights by situation, and the losses that they weigh
minibatches   which cells an update sees
streams       cells that come one minibatch after the other, from an iterator or from disk
saved         trained models in files
checkpoint    a run's state in one file, written whole or not at all
outcome       FitResult, FitStatus, EarlyStopping
"""

from ..system.extras import need

for _module in ("jax", "flax", "optax"):
    need(_module, "jax")
