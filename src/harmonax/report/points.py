"""The cells of the maps: which are shown, where they lie, what colours them, all within a given size."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError, MissingKeyError, nearest
from ..inputs.levels import native
from ..pl.palette import BLUE, DIMMED, FAINT, MISSING, VIRIDIS
from ..pp.correctors import CORRECTORS, Corrector
from ..system.validate import listed
from .colour_codes import Column, category, is_category, is_worth_showing, measured, pack
from .markers import top_markers
from .parts import Parts
from .text import as_names, clean

NEIGHBOURS_KEPT, MOVEMENT = "harmonax_neighbors_kept", "harmonax_movement"
# A coordinate is a step from 0 to this number; one value more means that the cell has no place.
_STEPS = 65534
_NOWHERE = 65535
# Rather than fewer cells than this, fewer columns.
MIN_CELLS = 20_000
# Genes that are shown by default, and at most where there is room; other embeddings than those before and after.
_DEFAULT_GENES, _MOST_GENES, _MOST_OTHERS = 12, 200, 6
# In a map of a gene, cells without it are as pale as a grid.
_COLOURS = {"numbers": list(VIRIDIS), "missing": MISSING, "dimmed": DIMMED, "unexpressed": FAINT, "selection": BLUE}


@dataclass
class Map:
    """Two dimensions in which the cells are drawn."""

    title: str
    key: str
    note: str = ""


@dataclass
class Points:
    """What the maps show.

    Attributes
    ----------
    maps
        Before and after, or the only one there is.
    others
        Further embeddings that the maps can be switched to, where there is room.
    columns
        What they can be coloured by, most wanted first.
    left_out
        Columns that did not fit.
    n, total
        Number of cells shown, and of all cells.
    names
        Names of the cells shown; none where they do not fit.
    """

    maps: list[Map]
    columns: list[Column]
    n: int
    total: int
    places: list[np.ndarray] = field(repr=False)
    names: list[str] = field(default_factory=list, repr=False)
    others: list[Map] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def fit(self, room: int) -> None:
        """Show as many cells, and then as many columns, as `room` bytes of the page hold."""
        if not self.maps:
            return
        room -= 2000
        wanted = [column for column in self.columns if not column.spare]
        fixed = sum(column.size(3) for column in wanted)
        # Fewer names are packed a little less tightly.
        a_name = 1.05 * len(_deflated(self.names)) / max(self.n, 1)
        a_cell = 4 / 3 * (4 * len(self.maps) + len(wanted)) + a_name
        least = min(self.n, MIN_CELLS)
        self.n = min(self.n, max(int((room - fixed) / a_cell), least))
        room -= self.n * 4 * len(self.maps) * 4 // 3
        # Where names are so long that little else would fit, they are not what a reader came for.
        self.names = self.names[: self.n] if a_name * self.n < room / 3 else []
        room -= int(a_name * len(self.names))
        kept: list[Column] = []
        for column in sorted(self.columns, key=lambda column: column.spare):
            if column.size(self.n) <= room:
                room -= column.size(self.n)
                kept.append(column)
            elif not column.spare:
                self.left_out.append(column.about["name"])
        self.columns = kept
        self.others = self.others[: max(room, 0) // (self.n * 16 // 3 + 400)]

    def packed(self) -> dict[str, Any]:
        """Return them for the page."""
        every = [
            {"title": m.title, "key": clean(m.key), "x": pack(xy[: self.n, 0]), "y": pack(xy[: self.n, 1])}
            for m, xy in zip([*self.maps, *self.others], self.places, strict=False)
        ]
        columns = [column.packed(self.n) for column in self.columns]
        maps, others = every[: len(self.maps)], every[len(self.maps) :]
        about = {"n": self.n, "total": self.total, "maps": maps, "others": others, "names": _deflated(self.names)}
        return about | {"columns": columns, "colours": _COLOURS}


def points_of(
    parts: Parts, color_by: Sequence[str] | None, genes: Sequence[str] | None, max_points: int, seed: int
) -> Points:
    """Choose the cells and what colours them.

    Raises
    ------
    MissingKeyError
        If a column or gene that was asked for is not there.
    """
    genes = _names(genes)
    names, chosen = _wanted_columns(parts, _names(color_by)), _wanted_genes(parts, genes)
    maps, others = choose_maps(parts), other_maps(parts)
    total = len(parts.obs)
    # In random order, so that no batch lies on top of the others and any first part is a sample, too.
    rows = np.random.default_rng(seed).permutation(total)[:max_points] if maps else np.empty(0, int)
    columns: list[Column] = []
    for name, group in names if maps else []:
        columns.append(_column(parts, name, group, rows))
    if chosen and maps:
        values = parts.expression(chosen, np.arange(total))
        made = [measured(g, values[:, i], rows, "Genes", gene=True) for i, g in enumerate(chosen)]
        for column in made[_DEFAULT_GENES:] if genes is None else ():
            column.spare = True
        columns += made
    places = [_steps(parts.obsm[m.key][rows]) for m in [*maps, *others]]
    barcodes = [str(name) for name in parts.obs.index[rows]]
    return Points(maps, columns, len(rows), total, places, barcodes, others)


def _names(asked: Sequence[str] | None) -> list[str] | None:
    return None if asked is None else [str(name) for name in listed(asked)]


def _column(parts: Parts, name: str, group: str, rows: np.ndarray) -> Column:
    values = native(parts.obs[name])
    if is_category(values, asked=group in ("Batch", "Clusters and labels")):
        return category(name, values, rows, group, parts.uns.get(f"{name}_colors"))
    if name != NEIGHBOURS_KEPT:
        return measured(name, values, rows, group)
    # Small losses must not look large; and it is the cells with the lowest values that one looks for.
    column = measured(name, values, rows, group, limits=(0.0, 1.0))
    column.about["low_on_top"] = True
    return column


def choose_maps(parts: Parts) -> list[Map]:
    """Return the maps before and after: UMAPs, or else the first two components of what was corrected."""
    own, corrector = correction(parts)
    basis, adjusted = str(own.get("basis", "X_pca")), str(own.get("adjusted_basis", corrector.adjusted_basis))
    pairs = (("Before correction", "X_umap_uncorrected", basis), ("After correction", "X_umap", adjusted))
    maps = []
    for title, umap, components in pairs:
        if umap in parts.obsm:
            maps.append(Map(title, umap))
        elif components in parts.obsm:
            note = f"There is no {umap} in the file: the first two components of {clean(components)} are shown."
            maps.append(Map(title, components, note))
    return maps


def other_maps(parts: Parts) -> list[Map]:
    """Return further embeddings, by name; there are none where nothing can be drawn at all."""
    drawn = [m.key for m in choose_maps(parts)]
    return [Map(clean(key), key) for key in sorted(parts.obsm) if key not in drawn][:_MOST_OTHERS] if drawn else []


def correction(parts: Parts) -> tuple[dict[str, Any], Corrector]:
    """Return the record of the data's correction, and which one it is: what the workflow ran, else what is there."""
    there = next((name for name, known in CORRECTORS.items() if parts.part(known.record)), "harmony")
    corrector = CORRECTORS.get(str(_options(parts).get("corrector", there)), CORRECTORS["harmony"])
    return parts.part(corrector.record), corrector


def _options(parts: Parts) -> dict[str, Any]:
    try:
        options = json.loads(str(parts.part("harmonax_workflow").get("options", "{}")))
    except ValueError:
        return {}
    return options if isinstance(options, dict) else {}


def batch_keys(parts: Parts) -> list[str]:
    """Return the batch columns that any of the tools was given and that obs has."""
    found: list[str] = []
    for key in (correction(parts)[1].record, "harmonax_diagnosis", "harmonax_evaluation", "harmonax_check"):
        found += [name for name in as_names(parts.part(key).get("batch_keys")) if name not in found]
    return [name for name in found if name in parts.obs]


def label_keys(parts: Parts) -> list[str]:
    """Return the columns with cell types that a tool or the workflow was given and that obs has."""
    names = [str(parts.part(key).get("label_key", "")) for key in ("harmonax_evaluation", "harmonax_diagnosis")]
    return [name for name in dict.fromkeys([*names, str(_options(parts).get("label_key"))]) if name in parts.obs]


def clusters(parts: Parts) -> str | None:
    """Return the column with the clusters of the corrected data."""
    names = [str(name) for name in parts.obs.columns if str(name).startswith("leiden")]
    return "leiden" if "leiden" in names else min(names, default=None)


def _wanted_columns(parts: Parts, color_by: Sequence[str] | None) -> list[tuple[str, str]]:
    """Return the columns, most wanted first, each with the group that it stands in."""
    known = [str(name) for name in parts.obs.columns]
    labels = label_keys(parts)
    groups = {name: "Batch" for name in batch_keys(parts)}
    groups |= {name: "From the diagnosis" for name in (NEIGHBOURS_KEPT, MOVEMENT) if name in known}
    leiden = sorted((n for n in known if n.startswith("leiden")), key=lambda n: (n != clusters(parts), n))
    groups |= {name: "Clusters and labels" for name in (*labels, *leiden) if name in known}
    if color_by is not None:
        for name in color_by:
            if name not in known:
                raise MissingKeyError(f"obs has no column '{name}' to colour by; {nearest(name, known)}")
        asked = [*dict.fromkeys(color_by), *(n for n, group in groups.items() if group == "From the diagnosis")]
        return [(name, groups.get(name) or _group(parts, name)) for name in dict.fromkeys(asked)]
    # Two columns of one name cannot be told apart; a key of either gives a table.
    single = [name for name in known if known.count(name) == 1]
    others = [n for n in single if n not in groups and is_worth_showing(parts.obs[n])]
    others.sort(key=lambda n: not is_category(parts.obs[n]))
    return [(n, g) for n, g in groups.items() if n in single] + [(n, _group(parts, n)) for n in others]


def _group(parts: Parts, name: str) -> str:
    return "Other columns" if is_category(parts.obs[name]) else "Numbers"


def _wanted_genes(parts: Parts, genes: Sequence[str] | None) -> list[str]:
    if genes is None:
        return top_markers(parts, _MOST_GENES) if parts.has_expression else []
    if genes and not parts.has_expression:
        raise InputError("there is no X to take the genes' values from; leave genes out")
    for gene in genes:
        if gene not in parts.genes:
            raise MissingKeyError(f"var has no gene '{gene}' to colour by; {nearest(gene, parts.genes)}")
    return list(dict.fromkeys(genes))


def _deflated(names: list[str]) -> str:
    """Return names as base64 of zlib of JSON: as they are in the data, for what is made of a selection elsewhere."""
    return base64.b64encode(zlib.compress(json.dumps(names).encode(), 6)).decode() if names else ""


def _steps(xy: np.ndarray) -> np.ndarray:
    """Return coordinates as whole numbers, both axes in the same units so that shapes are kept."""
    held = np.isfinite(xy).all(axis=1)
    steps = np.full(xy.shape, _NOWHERE, np.uint16)
    if held.any():
        low = xy[held].min(axis=0)
        width = float((xy[held].max(axis=0) - low).max()) or 1.0
        margin = (1 - (xy[held].max(axis=0) - low) / width) / 2
        steps[held] = np.round(((xy[held] - low) / width + margin) * _STEPS).astype(np.uint16)
    return steps
