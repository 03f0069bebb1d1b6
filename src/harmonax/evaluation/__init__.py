"""What embeddings and labels say of a correction: is it needed, is it possible, what did it do, what did it destroy.

    findings.py      one thing that was measured, how serious it is, and what to do about it
    neighbours.py    nearest neighbours, overall and within batches
    mixing.py        how far batches lie apart: own-batch neighbours in excess of chance, variance explained

    check.py         before a correction: is it needed, is it possible
      variables.py, association.py, design_checks.py, embedding_checks.py
    evaluate.py      scores of embeddings, with cell types and without
      cells.py, scores.py, scib.py, labelfree.py, lisi.py, sample.py
    diagnose.py      after a correction: too little, or too much
      structure.py, states.py, markers.py, null.py, judge.py
    verdict.py       one answer from all of these

Knows embeddings and labels, not Harmony: of harmonax it imports values only (errors, extras, design, columns).
"""
