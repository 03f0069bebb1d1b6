"""After a correction: too little, or too much.

diagnose    `diagnose`: all of it, with a verdict
case        `Case`: what is diagnosed
rules       from what was measured to findings
type_rules  those of cell types, states and markers
advice      what to try next, from a sweep where one was run
merges      without cell types: merges that their batch does not explain
structure   neighbours kept, and how far cells moved
inside      types that were laid on others as one
types       every type in every batch: mixed, merged, apart
measured    what a verdict rests on, and its limits
states      states that only one batch has
markers     are markers still where they were
random_split  what changes where one batch is split at random
null        what a correction does where there is nothing to correct
"""
