"""Files: reading what a run needs and writing what it makes, whole or not at all.

    formats.py    kinds of files, told by their names
    source.py     what a run reads: an embedding, batch columns, cell names
      annotated.py    from .h5ad and .zarr, never touching X
      bare.py         from .csv, .tsv (.gz), .parquet, .npy with a metadata table
      rows.py         left in the file, and read piece by piece
      several.py      of several files, as if they were one
    expression.py  the expression of a file, in pieces of cells
    parts.py      what tools look at: obs, embeddings, uns
    sink.py       what it writes: the same kinds of files
      convert.py      .h5ad to .zarr and back, block by block
    tree.py       nested dictionaries alone in a file: a fitted model
    record.py     run.json
    staging.py    beside its place first, then flushed, then renamed

Knows pandas, anndata, h5py and zarr; of harmonax only the values (errors, design). Runs nothing: `harmonax.files` does.
"""

from __future__ import annotations

from .expression import read_expression, stored_cells
from .formats import Format, format_of, gzipped
from .parts import read_parts
from .record import file_facts, recorded_output, versions, write_json
from .several import read_several
from .sink import Result, check_writable, size_of, write_result
from .source import Reading, Source, read_source, reading
from .staging import check_destination, check_space, whole_or_nothing
from .tree import read_tree, write_tree

__all__ = [
    "Format",
    "Reading",
    "Result",
    "Source",
    "check_destination",
    "check_space",
    "check_writable",
    "file_facts",
    "format_of",
    "gzipped",
    "read_expression",
    "read_parts",
    "read_several",
    "read_source",
    "read_tree",
    "reading",
    "recorded_output",
    "size_of",
    "stored_cells",
    "versions",
    "whole_or_nothing",
    "write_json",
    "write_result",
    "write_tree",
]
