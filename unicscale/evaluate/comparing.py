"""Which teachers are worth combining: what each one is, what it costs, and how alike each two see some images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.data.once import open_eval
from unicscale.errors import DataError
from unicscale.evaluate.features.extract import summary_of
from unicscale.evaluate.metrics.agreement import NEIGHBOURS, cka, effective_rank, mutual_neighbours
from unicscale.evaluate.metrics.checks import check_features
from unicscale.recipe.sections import TeacherSection
from unicscale.run.columns import columns
from unicscale.teacher.frozen import open_frozen

CELLS = 2  # of a side: where two grids meet, so that encoders of any stride have the same places
FEWEST = 4 * NEIGHBOURS


@dataclass(frozen=True, slots=True)
class Met:
    """One encoder, asked about all images."""

    name: str
    summary: int | None  # widths
    patches: int | None
    stride: int
    size: int
    million: float  # parameters
    images_per_second: float  # of its forward alone, here
    rank: float  # effective, of its summaries (of its patches' means, where it has no summary)
    patch_rank: float | None  # of the means over a quarter of the image


@dataclass(frozen=True, slots=True)
class Pair:
    """Two of them, between 0 and 1: how alike."""

    first: str
    second: str
    cka: float
    neighbours: float
    patch_cka: float | None  # of patches, averaged within each cell of a coarse grid


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it."""

    images: int
    met: list[Met]
    pairs: list[Pair]

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"chance_of_neighbours": NEIGHBOURS / (self.images - 1)}


def compare(
    sections: Mapping[str, TeacherSection],
    images: str,
    *,
    limit: int,
    batch: int,
    device: str,
    size: int | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Comparison:
    """One encoder in memory at a time; of each image its summary and a few means of its patches are kept."""
    met: list[Met] = []
    seen: dict[str, tuple[Tensor, Tensor | None]] = {}
    count = 0
    for name, section in sections.items():
        progress(name)
        teacher = open_frozen(name, section, device)
        pixels = open_eval(images, size=size or teacher.spec.size, device=device, batch=batch, limit=limit)
        count = len(pixels.part)
        if count < FEWEST:
            raise DataError(
                f"{images}: {count} images; at least {FEWEST} are needed to say how alike two encoders are."
            )
        spent = Spent(device)
        parts = [(summary_of(f).float().cpu(), _cells(f.patches)) for f in spent.over(teacher, pixels)]
        summaries = torch.cat([summary for summary, _ in parts])
        patches = torch.cat([p for _, p in parts if p is not None]) if parts[0][1] is not None else None
        check_features(name, summaries)
        seen[name] = summaries, patches
        of, million = teacher.spec, sum(p.numel() for p in teacher.module.parameters()) / 1e6
        rank = None if patches is None else effective_rank(patches[:, 0])
        met.append(
            Met(name, of.widths.summary, of.widths.patches, of.patch, pixels.size, round(million, 1),
                count / spent.seconds, effective_rank(summaries), rank)
        )  # fmt: skip
    return Comparison(count, met, [_pair(one, two, seen) for one, two in combinations(seen, 2)])


class Spent:
    """The time that a forward takes, without that of decoding."""

    def __init__(self, device: str) -> None:
        self.seconds, self.cuda = 0.0, torch.device(device).type == "cuda"

    @torch.inference_mode()
    def over(self, model: Any, pixels: Any) -> Iterator[Any]:
        """The model's tokens of every batch."""
        for images, _, _ in pixels:
            began = time.monotonic()
            found = model(images)
            if self.cuda:
                torch.cuda.synchronize()
            self.seconds += time.monotonic() - began
            yield found


def _cells(patches: Tensor | None) -> Tensor | None:  # (B, N, D) -> (B, CELLS², D)
    if patches is None:
        return None
    side = round(patches.shape[1] ** 0.5)
    maps = patches.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(maps, CELLS).flatten(2).mT.cpu()


def _pair(one: str, two: str, seen: Mapping[str, tuple[Tensor, Tensor | None]]) -> Pair:
    (first, first_patches), (second, second_patches) = seen[one], seen[two]
    both = first_patches is not None and second_patches is not None
    # cell by cell: tokens of one image are no independent samples
    cells = [cka(first_patches[:, c], second_patches[:, c]) for c in range(CELLS**2)] if both else []  # type: ignore[index]
    mean = sum(cells) / len(cells) if cells else None
    return Pair(one, two, cka(first, second), mutual_neighbours(first, second), mean)


def table(found: Comparison) -> str:
    """As text, and what it comes to."""
    head = "TEACHER", "SUMMARY", "PATCHES", "STRIDE", "PIXELS", "M PARAMETERS", "IMAGES/S", "RANK", "PATCH RANK"
    rows: list[tuple[str, ...]] = [head]
    for one in found.met:
        ranks = f"{one.rank:.0f}", "-" if one.patch_rank is None else f"{one.patch_rank:.0f}"
        widths = (str(width or "-") for width in (one.summary, one.patches))
        cost = f"{one.million:.1f}", f"{one.images_per_second:.3g}"
        rows.append((one.name, *widths, str(one.stride), str(one.size), *cost, *ranks))
    lines = [*columns(rows), ""]
    if found.pairs:
        pairs = [("PAIR", "CKA", f"SAME {NEIGHBOURS} NEAREST", "CKA OF PATCHES")]
        for two in found.pairs:
            patches = "-" if two.patch_cka is None else f"{two.patch_cka:.2f}"
            pairs.append((f"{two.first}, {two.second}", f"{two.cka:.2f}", f"{100 * two.neighbours:.0f} %", patches))
        least, most = (choose(found.pairs, key=lambda two: two.cka) for choose in (min, max))
        chance = 100 * NEIGHBOURS / (found.images - 1)
        lines += [
            *columns(pairs),
            "",
            f"{found.images:,} images; {chance:.1g} % of the nearest are the same by chance.",
        ]
        if len(found.pairs) > 1:
            lines.append(f"Least alike: {least.first} and {least.second}. Most alike: {most.first} and {most.second}.")
    return "\n".join(lines)
