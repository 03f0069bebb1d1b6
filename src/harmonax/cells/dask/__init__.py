"""Cells on the workers of a Dask cluster, which send tables only.

cells       `DaskCells`: the answers of all partitions, added in a fixed order
workers     the partitions as actors, made again where a worker is lost
partition   what one worker holds and answers
faults      workers that die, and a scheduler that goes away, as one error
"""
