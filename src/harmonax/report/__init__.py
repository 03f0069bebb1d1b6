"""The report: one HTML file that opens anywhere, without a network, and says whether to trust a correction.

    write.py        `write_report`: from an AnnData, or a file, to the page
    source.py       what the page needs of an AnnData or a file, without reading all of X
    points.py       cells of the maps, sampled and packed to fit the page
    columns.py      what the maps can be coloured by
    sections/       one file a section: from what is stored to HTML and figures
    figures.py      Plotly figures as plain dictionaries
    text.py         escaping; numbers, tables and bars as HTML
    page.py         the parts put together, and the policy that keeps the page offline
    page.html, page.css, maps.js, charts.js    the page itself

Knows what the tools store in `uns`, not the tools: whatever part is missing, the page says which command makes it.
"""

from __future__ import annotations

from .write import write_report

__all__ = ["write_report"]
