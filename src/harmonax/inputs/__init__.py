"""What users pass, turned into checked values.

embedding    arrays, tables, files and Dask arrays as an embedding
columns      batch columns as a `BatchDesign`
expression   where the raw counts are, and whether they are counts
lazy         expression that is not in memory
"""
