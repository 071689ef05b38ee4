"""Writes docs/pictures/ from a run of the demo: its pictures, and its report and the site as a browser shows them.

python benchmarks/screenshots.py --run runs/demo --site site
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.kit import browser  # noqa: E402
from unicscale.evaluate.pictures.sheet import Row, Sheet  # noqa: E402
from unicscale.report.pictures import drawn  # noqa: E402

OUT = ROOT / "docs" / "pictures"
MOST = 300_000  # bytes of a picture that lies in the repository


def main() -> None:
    """Everything that the pages show; the home page shows the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "demo")
    parser.add_argument("--site", type=Path, default=ROOT / "site")
    asked = parser.parse_args()
    if why := browser.missing():
        sys.exit(why)
    report = asked.run / "report"
    OUT.mkdir(parents=True, exist_ok=True)
    small(lying(asked.run / "pictures" / "patches.json"), OUT / "patches.png")
    small(Image.open(report / "radar.png"), OUT / "radar.png")
    with browser.browser() as driver:
        for page, name, height in ((report / "index.html", "report", 1500), (asked.site / "index.html", "site", 1000)):
            for width in browser.WIDTHS:
                dark = width < 700  # one of each on either
                file = OUT / f"{name}-{width}-{'dark' if dark else 'light'}.png"
                browser.photograph(driver, page, file, width, dark=dark, height=height)
    for file in sorted(OUT.glob("*.png")):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1000} kB")
        if file.stat().st_size > MOST:
            sys.exit(f"{file} is too large for the repository")


def small(picture: Image.Image, target: Path) -> None:
    """With as many colours as it needs."""
    picture.convert("RGB").quantize(256).save(target, optimize=True)


def lying(file: Path) -> Image.Image:
    """A row for each model, wider than tall: for the first screen of a page."""
    sheet = Sheet.model_validate_json(file.read_bytes())
    rows = [Row(name=name, cells=[row.cells[n] for row in sheet.rows]) for n, name in enumerate(sheet.columns)]
    return drawn(sheet.model_copy(update={"columns": [row.name for row in sheet.rows], "rows": rows}))


if __name__ == "__main__":
    main()
