"""One run: an embedding and batch labels in, a `HarmonyResult` out.

run          `harmonize`, which every interface calls
placement    where the cells of a run should live, estimated before anything is allocated
checkpoint   the rounds of a run in a directory, from which a killed run resumes
"""
