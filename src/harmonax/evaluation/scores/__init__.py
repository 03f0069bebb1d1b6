"""Scores of embeddings, with cell types and without.

evaluate    `evaluate`: all scores of several embeddings, on samples, with intervals
table       `Scores`-tables and their totals
registry    `METRICS`: every metric once, and how to add one
scib        scores that scib-metrics computes
labelfree   scores that need no cell types
sample      disjoint samples, and the interval of their mean
"""
