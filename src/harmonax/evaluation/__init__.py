"""What embeddings and labels say of a correction: is it needed, is it possible, what did it do, what did it destroy.

    findings.py      one thing that was measured, how serious it is, and what to do about it
    neighbours.py    nearest neighbours, overall and within batches

Knows embeddings and labels, not Harmony: of harmonax it imports values only (errors, extras, randomness, progress).
"""
