"""A correction judged from embeddings and labels: is it needed, is it possible, what did it do, what did it destroy.

    findings.py      one thing that was measured, how serious it is, and what to do about it
    neighbours.py    nearest neighbours, overall and within batches
    mixing.py        how far batches lie apart: same-batch neighbours in excess of chance, variance explained

    variables.py     a column of the cells as codes
    labels.py        embeddings, batches and types of the cells to be evaluated
    lisi.py          the local inverse Simpson index
    entropy.py       the batch entropy of neighbourhoods

    before/          before a correction: is it needed, is it possible
    scores/          scores of embeddings, with cell types and without
    after/           after a correction: too little, or too much
    verdict.py       one answer from all of these

Knows embeddings and labels, not Harmony: of harmonax it imports values only (errors, extras, design, columns).
"""
