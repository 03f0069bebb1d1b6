"""What users pass, turned into checked values.

embedding    an embedding, read once: arrays, tables, files and Dask arrays as an `Embedding`
rows         rows of an embedding that is not in memory
values       which numbers of an embedding cannot be corrected, and their hash
columns      batch columns as a `BatchDesign`
levels       what the levels of a column are called
expression   expression made dense; where the raw counts are, and whether they are counts
features     kinds of features: genes, antibodies, peaks
lazy         expression that is not in memory
sparse       sparse matrices whose arrays fit together
"""
