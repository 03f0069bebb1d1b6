"""What users pass, turned into checked values.

embedding   arrays, tables, files and Dask arrays as an embedding
columns     batch columns as a `BatchDesign`
"""
