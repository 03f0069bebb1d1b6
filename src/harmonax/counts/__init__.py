"""Counts without the batch effect, gene by gene on Harmony's soft clusters (docs/algorithm.md, "Corrected counts").

assignment   soft clusters of a correction, and the batches whose effects are removed
model        the rates of a gene: fitted from sums of counts, without the counts
quantile     the count at the same quantile of another rate
stream       counts in pieces of cells: summed, then corrected

Above `engine`, which makes the soft clusters once more; knows no files.
"""
