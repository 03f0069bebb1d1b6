"""The machine: processors, memory, the log, progress lines, random seeds, optional packages. Knows nothing of cells.

cpus        how many threads to use
memory      how much is used and free; sizes as text (what a run will need, and the refusal: engine/budget.py)
log         the logger, and scanpy's settings where scanpy is loaded
progress    lines on a terminal
validate    single values that users pass: whole numbers, numbers, words, names
rng         one seed from whatever was passed as `rng`
extras      an optional package, or the command that installs it
version     that of harmonax
"""
