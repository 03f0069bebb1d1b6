"""The colours of every figure, in `pl` and in the report: told apart with every kind of colour vision, where few."""

from __future__ import annotations

import colorsys

INK, MUTED, FAINT = "#222222", "#666666", "#DDDDDD"
# Of cells: with a missing value, of a level too rare for a colour of its own, and beside those that are highlighted.
MISSING, RARE, DIMMED = "#BBBBBB", "#A4ABB5", "#E4E7EB"
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
# Okabe and Ito's colours; yellow and black come last, since one is hard to see on white and the other is a text's.
OKABE_ITO = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, "#F0E442", "#000000")
# Twelve more, chosen to stay apart from Okabe and Ito's, and from each other, under red- and green-blindness too.
FURTHER = (
    *("#551500", "#000080", "#0000FF", "#952A55", "#8080FF", "#402AAA"),
    *("#15D480", "#2A5500", "#BF2A95", "#EA00D4", "#FF406A", "#955540"),
)
# One colour, one meaning, in every figure and on every page.
BEFORE, AFTER = ORANGE, BLUE
TERMS = {"distance": ORANGE, "entropy": GREEN, "diversity": VERMILION}
FRONT, CHOSEN = BLUE, VERMILION
# Of numbers: told apart without colour vision, and unlike cividis never grey, which means missing.
NUMBERS = "viridis"
VIRIDIS = (
    *("#440154", "#482878", "#3E4989", "#31688E", "#26828E", "#1F9E89", "#35B779", "#6ECE58", "#B5DE2B", "#ECDF20"),
)
# Less than expected is orange, more is blue, as expected is white.
DIVERGING = ("#8C3A00", "#E08A3C", "#FFFFFF", "#5AA2D6", "#08306B")
_GOLDEN = 0.618034


def palette(n: int) -> list[str]:
    """Return n colours: Okabe and Ito's, twelve more that stay apart from them, then hues whose lightness alternates.

    The first colours are the same for every n: a further group changes no other's colour.

    Examples
    --------
    >>> palette(2)
    ['#0072B2', '#E69F00']
    >>> len(set(palette(60)))
    60
    """
    made = [*OKABE_ITO, *FURTHER][:n]
    for i in range(len(made), n):
        # Neighbours in the legend differ in hue, and in lightness, which every reader sees.
        rgb = colorsys.hls_to_rgb((0.58 + i * _GOLDEN) % 1.0, (0.38, 0.62, 0.25, 0.75)[i % 4], 0.75)
        made.append("#" + "".join(f"{round(255 * v):02X}" for v in rgb))
    return made
