"""Before a correction: is it needed, and is it possible.

check              `check`: all of it, with a verdict
design_checks      sizes of batches; batches against conditions and types
embedding_checks   how far batches lie apart
quality_control    what was left out before: cells of a batch, types in it
association        how two variables of the cells are related
"""
