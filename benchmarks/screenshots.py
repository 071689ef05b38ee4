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
    for name in ("patches", "radar"):
        small(report / f"{name}.png", OUT / f"{name}.png")
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


def small(source: Path, target: Path) -> None:
    """With as many colours as it needs."""
    Image.open(source).convert("RGB").quantize(192).save(target, optimize=True)


if __name__ == "__main__":
    main()
