"""The report: one HTML file that opens anywhere, without a network, and says whether to trust a correction.

    write.py        `write_report`: from an AnnData, or a file, to the page
    frame.py        `maps`: its maps alone, in a notebook
    parts.py        what the page needs of an AnnData or a file, without reading all of X
    points.py       cells of the maps, sampled and packed to fit the page
    colour_codes.py what the maps can be coloured by
    sections/       one file a section: from what is stored to the values of its template, and figures
    markers.py      the genes that scanpy ranked for each cluster
    figures.py      Plotly figures as plain dictionaries; those of cells and runs are in figures_cells.py
    text.py         names made one line of visible characters, and numbers as text
    render.py       templates filled in, everything escaped
    page.py         the parts put together, and the policy that keeps the page offline
    templates/      Jinja2: page.html, macros.html (tables, bars, cards), and sections/, one file a section
    page.css        its style, light and dark
    maps.js, map-tools.js, tables.js, charts.js    its scripts: drawing, controls, tables, Plotly's charts and print

Knows what the tools store in `uns`, not the tools: whatever part is missing, the page says which command makes it.
"""

from __future__ import annotations

from .frame import maps
from .write import write_report

__all__ = ["maps", "write_report"]
