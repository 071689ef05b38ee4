"""An export is believed once a fresh process, with the target's own library, has given the student's tokens."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unicscale.contracts import Features, Seen
from unicscale.errors import CheckpointError
from unicscale.interop.exports.portable import named
from unicscale.interop.exports.target import Target, Wishes
from unicscale.interop.opened import Opened
from unicscale.interop.small import Shown, Tried
from unicscale.student.trunk import Grid
from unicscale.student.trunk.plain import PlainViT

SECONDS = 1800
READER = """
import sys, torch
from safetensors.torch import load_file, save_file
images, lines, out = sys.argv[1:]
found = {}
for size, batch in load_file(images).items():
    names = {"images": batch}
    with torch.no_grad():
        exec(open(lines).read(), names)
    said = {"summary": names["summary"], "patches": names["patches"]}
    for name, answer in dict(names.get("answers", {})).items():
        both = zip(("summary", "patches"), answer) if type(answer).__name__ == "Features" else None
        said |= {name: answer} if both is None else {f"{name}.{kind}": t for kind, t in both if t is not None}
    found |= {f"{size}/{name}": torch.as_tensor(t).float().contiguous().clone() for name, t in said.items()}
save_file(found, out)
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an export's tokens were from the student's, at one size."""

    size: int
    from_student: float  # largest, relative to the largest token
    by_its_own_positions: float  # the same, had the student resized its positions as the target's library does
    agrees: bool  # whether it is the same model at this size, not only the same weights


def verify(
    target: Target, opened: Opened, wishes: Wishes, folder: Path, shown: Sequence[Tensor] = ()
) -> tuple[list[Difference], list[Features]]:
    """Tokens at the student's own size and at another; CheckpointError where they are not the student's.

    And what the export says of the batches that are `shown` to it, in the same process.
    """
    images = probes(opened, any_size=target.any_size(opened))
    reference = _rounded(opened) if wishes.half else opened
    ours = {size: tokens(reference, batch, wishes.projectors, target) for size, batch in images.items()}
    theirs_would = {
        size: tokens(reference, batch, wishes.projectors, target, its_positions=True) for size, batch in images.items()
    }
    asked = {str(size): batch for size, batch in images.items()} | {f"shown {n}": b for n, b in enumerate(shown)}
    found = _read(target, opened, wishes, folder, asked)
    limit = 3e-2 if wishes.half and target.half_computes else 1e-4
    if wishes.small is not None and wishes.small.said == "dynamic":
        limit = 1.0  # products of eight bits: how far they lead away is for `tried` to say
    differences = []
    for size in images:
        plain, own = _largest(ours[size], found, size), _largest(theirs_would[size], found, size)
        if not own <= limit:  # NaN is no agreement either
            raise CheckpointError(
                f"--to {target.name}: {target.library} reads this export, and gives other tokens at {size} pixels: "
                f"{own:.1e} apart, {limit:.0e} is allowed.\n"
                "  Nothing was kept. Please report it with the recipe: this is a mistake of unicscale."
            )
        differences.append(Difference(size, plain, own, plain <= limit))
    said = [Features(*(found[f"shown {n}/{kind}"] for kind in Features._fields)) for n in range(len(shown))]
    return differences, said


def probes(opened: Opened, *, any_size: bool = True) -> dict[int, Tensor]:
    """Noise, normalised: its own size, and one that is two patches larger, in batches of two and three."""
    generator = torch.Generator().manual_seed(0)
    size, other = opened.size, opened.size + 2 * opened.student.trunk.patch
    # whatever is no ViT is written for its own size where its form holds one, and asked at that
    asked = ((2, size), (3, other)) if any_size and isinstance(opened.student.trunk, PlainViT) else ((3, size),)
    return {s: torch.randn(n, len(opened.mean), s, s, generator=generator) for n, s in asked}


CHUNK = 64  # images of a trial at a time
FEWEST = 0.9  # of a cosine: what lies below is no smaller student, but another


@torch.no_grad()
def tried(student: Opened, after: Sequence[Features], wishes: Wishes, folder: Path, shown: Shown) -> Tried:
    """The student, and what its smaller form said of the same images to the target's library."""
    before = [student.student.eval()(batch).features for batch in shown.images.split(CHUNK)]
    pairs = [zip(one, two, strict=True) for one, two in zip(before, after, strict=True)]
    cosines = [[torch.cosine_similarity(a, b, dim=-1).flatten() for a, b in pair] for pair in pairs]  # type: ignore[arg-type]
    mean = Features(*(float(torch.cat([c[kind] for c in cosines]).mean()) for kind in (0, 1)))  # type: ignore[arg-type]
    if not min(mean) >= FEWEST:  # type: ignore[type-var]
        raise CheckpointError(
            f"--small {wishes.small and wishes.small.said}: its tokens are no longer the student's: cosine "
            f"{mean.summary:.3f} of summaries, {mean.patches:.3f} of patches, on {shown.what}.\n"
            "  Nothing was kept. Take a gentler form, or train on with it."
        )
    both = [torch.cat([f.summary for f in some]) for some in (before, after)]  # type: ignore[misc]
    knn = None if shown.judge is None else (shown.judge(both[0]), shown.judge(both[1]))
    floats = sum(4 * p.numel() for p in student.student.trunk.parameters())
    files = sum(file.stat().st_size for file in folder.iterdir())
    return Tried(shown.what, len(shown.images), mean, knn, (floats, files))


@torch.no_grad()
def tokens(
    opened: Opened, images: Tensor, projectors: bool, target: Target, *, its_positions: bool = False
) -> dict[str, Tensor]:
    """What the student itself says; answers as the target gives them."""
    trunk = opened.student.trunk
    grid = (images.shape[-2] // trunk.patch, images.shape[-1] // trunk.patch)
    with _positions(target, opened, grid) if its_positions and grid != trunk.grid else _nothing():
        seen = opened.student.eval()(images)
    answers = seen.answers if projectors else {}
    if target.name in ("onnx", "torch"):  # whoever has no standardiser at hand gets the teachers' own tokens
        answers = {name: inverted(opened, name, answer) for name, answer in answers.items()}
    return named(Seen(seen.features, answers))


def inverted(opened: Opened, teacher: str, answer: Features) -> Features:
    """An answer as the teacher's own tokens, as far as its statistics are known."""
    pair = opened.statistics.get(teacher, (None, None))
    return Features(*(t if s is None or t is None else s.invert(t) for s, t in zip(pair, answer, strict=True)))


@contextmanager
def _positions(target: Target, opened: Opened, grid: Grid) -> Iterator[None]:
    """The trunk with a table that was resized by the target's rule."""
    trunk = opened.student.trunk
    if not isinstance(trunk, PlainViT) or trunk.pos_embed is None:
        yield
        return
    table, old = trunk.pos_embed, trunk.grid
    lead, rest = table.detach().split([table.shape[1] - old[0] * old[1], old[0] * old[1]], dim=1)
    resized = torch.cat([lead, target.positions(opened, rest, old, grid)], dim=1)
    trunk.pos_embed, trunk.grid = nn.Parameter(resized, requires_grad=False), grid
    try:
        yield
    finally:
        trunk.pos_embed, trunk.grid = table, old


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _rounded(opened: Opened) -> Opened:
    """The student whose weights went through fp16; a halved export is held against what it can hold."""
    import copy

    rounded = copy.deepcopy(opened)
    rounded.student.half().float()
    return rounded


def _read(
    target: Target, opened: Opened, wishes: Wishes, folder: Path, images: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory(prefix="unicscale-verify-") as place:
        asked, lines, out = (Path(place, name) for name in ("images.safetensors", "lines.py", "found.safetensors"))
        save_file({name: batch.contiguous() for name, batch in images.items()}, asked)
        lines.write_text(target.use(opened, wishes).replace("DIR", str(folder.resolve())))
        told = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # what it needs lies in the folder
        try:
            done = subprocess.run(
                [sys.executable, "-c", READER, str(asked), str(lines), str(out)],
                env=os.environ | told,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise CheckpointError(f"--to {target.name}: {target.library} has not read it in {SECONDS} s.") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["without a word"])[-1]
            raise CheckpointError(
                f"--to {target.name}: {target.library} does not read this export: {said[:300]}\n  Nothing was kept."
            )
        return load_file(out)


def _largest(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], size: int) -> float:
    worst = 0.0
    for name, wanted in expected.items():
        given = found.get(f"{size}/{name}")
        if given is None or given.shape != wanted.shape:
            return float("inf")
        worst = max(worst, float((given - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1)))
    return worst


def as_json(differences: list[Difference]) -> list[dict[str, Any]]:
    """For the facts beside an export."""
    return [asdict(one) for one in differences]
