"""Scores of embeddings, with cell types and without.

evaluate    `evaluate`: all scores of several embeddings, on samples, with intervals
table       `Scores`-tables and their totals
scib        scores that scib-metrics computes
labelfree   scores that need no cell types
sample      disjoint samples, and the interval of their mean
"""
