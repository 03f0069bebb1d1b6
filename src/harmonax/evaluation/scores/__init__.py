"""Scores of embeddings, with cell types and without.

evaluate    `evaluate`: all scores of several embeddings, on samples, with intervals
table       `Scores`-tables and their totals
registry    `METRICS`: every metric once, and how to add one
scib        scib-metrics' scores, from silhouette, graph, kbet and kmeans
further     scores beside them, in no mean
population  all labelled cells, among which neighbours are sought
labelfree   scores that need no cell types
sample      disjoint samples, and the interval of their mean
"""
