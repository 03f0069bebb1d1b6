"""Files: reading what a run needs and writing what it makes, whole or not at all.

    formats/      kinds of files, told by their names; adding one begins there
    source.py     what a run reads: an embedding, batch columns, cell names
    read.py       how it is read
      annotated.py    from an AnnData file, never touching X
      bare.py         from one embedding with a metadata table
      several.py      of several files, as if they were one
    expression.py  the expression of a file, in pieces of cells
    parts.py      what tools look at: obs, embeddings, uns
    sink.py       what it writes: the same kinds of files
      convert.py      one AnnData format to another, block by block
    bundle.py     arrays, JSON and their SHA-256, alone in a file: a fitted model, a checkpoint
    record.py     run.json
    staging.py    beside its place first, then flushed, then renamed
    unchanged.py  whether the inputs are still what was read

Knows pandas, anndata, h5py and zarr; of harmonax only the values (errors, design). Runs nothing: `harmonax.files` does.
"""

from __future__ import annotations

from .bundle import Bundle, read_bundle, save_bundle, seal, unseal, write_bundle
from .expression import read_expression, stored_cells
from .formats import (
    ANNOTATED,
    FORMATS,
    H5AD,
    ZARR,
    AnnotatedFormat,
    Format,
    Reading,
    check_links,
    format_of,
    gzipped,
    reading,
)
from .parts import read_parts
from .read import read_source
from .record import file_facts, recorded_output, versions, write_json
from .several import read_several
from .sink import Result, check_writable, copy_annotated, size_of, stored_bytes, write_result
from .source import Source
from .staging import check_destination, check_space, whole_or_nothing
from .unchanged import Unchanged

__all__ = [
    "ANNOTATED",
    "FORMATS",
    "H5AD",
    "ZARR",
    "AnnotatedFormat",
    "Bundle",
    "Format",
    "Reading",
    "Result",
    "Source",
    "Unchanged",
    "check_destination",
    "check_links",
    "check_space",
    "check_writable",
    "copy_annotated",
    "file_facts",
    "format_of",
    "gzipped",
    "read_bundle",
    "read_expression",
    "read_parts",
    "read_several",
    "read_source",
    "reading",
    "recorded_output",
    "save_bundle",
    "seal",
    "size_of",
    "stored_bytes",
    "stored_cells",
    "unseal",
    "versions",
    "whole_or_nothing",
    "write_bundle",
    "write_json",
    "write_result",
]
