"""One table of colours: `pl` and the report take theirs from it, and it keeps colours apart."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from harmonax.pl import palette as table

# Light that eyes without the red, or the green, receptor see: Viénot, Brettel and Mollon (1999), of linear RGB.
_SIMULATED = {
    "all": np.eye(3),
    "no red": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "no green": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
}


def test_no_other_file_of_figures_or_of_the_report_has_colours_of_its_own():
    found = {}
    for package in ("harmonax.pl", "harmonax.report", "harmonax.report.sections"):
        for path in files(package).iterdir():
            if path.name.endswith((".py", ".js")) and re.search(r"#[0-9A-Fa-f]{6}\b", path.read_text(encoding="utf-8")):
                found[path.name] = package
    assert found == {"palette.py": "harmonax.pl"}


@pytest.mark.parametrize("eyes", _SIMULATED)
def test_okabe_and_itos_colours_stay_apart(eyes):
    seen = np.array([to_rgb(colour) for colour in table.OKABE_ITO]) ** 2.2 @ _SIMULATED[eyes].T
    seen = np.clip(seen, 0, 1) ** (1 / 2.2)
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.1


def test_the_stops_of_numbers_are_those_of_the_colour_map():
    """Matplotlib has the colour map by name; the page's script knows its stops, which may be a few steps off."""
    shown = np.array([to_rgb(colour) for colour in table.VIRIDIS])
    truth = colormaps[table.NUMBERS](np.linspace(0, 1, len(shown)))[:, :3]
    assert np.abs(shown - truth).max() < 0.15


def test_levels_on_the_maps_have_twenty_different_colours():
    assert len({*table.OKABE_ITO, *table.FURTHER}) == 20
