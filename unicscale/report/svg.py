"""A figure as SVG inside the page: its text is text, and its colours are the page's, light or dark."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from unicscale.report.curves import AXIS, COLOURS, GRID, INK, QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# what stands in page.css for each colour of a figure
NAMES = {AXIS: "axis", INK: "ink", GRID: "grid", QUIET: "quiet"} | {c: f"line-{n}" for n, c in enumerate(COLOURS)}


def written(figure: Figure) -> str:
    """As a file of its own."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def inside(whole: str, name: str) -> str:
    """As a part of the page: no head, no white ground, and ids that no other figure has."""
    drawn = whole[whole.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*" width="[^"]*"', _bare, drawn)
    used = set(re.findall(r"url\(#([^)]+)\)", drawn)) | set(re.findall(r'href="#([^"]+)"', drawn))
    drawn = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", drawn)
    drawn = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", drawn)
    drawn = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', drawn)
    drawn = re.sub(r' style="[^"]*"', lambda m: _in_the_pages_colours(m[0]), drawn)
    # hundredths of a point: half the size, and nobody sees it
    drawn = re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\d+\.\d{2})\d+", r"\1", m[0]), drawn)
    return re.sub(r"\n\s*", "\n", drawn)


def _in_the_pages_colours(style: str) -> str:
    style = style.replace("fill: #ffffff", "fill: none")
    return re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--{NAMES[m[0]]})" if m[0] in NAMES else m[0], style)


def _bare(found: re.Match[str]) -> str:
    """The size is the page's affair."""
    return found[1] or found[2]
