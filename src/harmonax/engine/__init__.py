"""One run: an embedding and batch labels in, a `HarmonyResult` out.

run          `harmonize`, which every interface calls
placement    where the cells of a run live: what was asked for, and the cells
budget       how much memory a run takes, and which backend fits, estimated before anything is allocated
older        names of arguments that other programs have
checkpoint   the rounds of a run in a directory, from which a killed run resumes
"""
