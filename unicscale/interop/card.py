"""The model card of an export: what it is, how it is used, what it was learnt from, and what that forbids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from unicscale import __version__
from unicscale.interop.exports.target import Target, Wishes
from unicscale.interop.opened import Opened
from unicscale.interop.origin import Origin
from unicscale.interop.small import Tried
from unicscale.interop.verify import Difference
from unicscale.recipe import Recipe, dump
from unicscale.student.trunk.base import Trunk
from unicscale.student.trunk.maps import MapTrunk
from unicscale.student.trunk.rope import RopeViT

# the beginnings of licences' names -> (how the hub calls it, what it asks of whoever uses what was learnt under it)
LICENCES = (
    ("apache-2.0", "apache-2.0", "keep its notice"),
    ("mit", "mit", "keep its notice"),
    ("bsd", "bsd-3-clause", "keep its notice"),
    ("cc-by-nc-sa", "cc-by-nc-sa-4.0", "no commercial use; name the authors; pass it on under the same licence"),
    ("cc-by-nc", "cc-by-nc-4.0", "no commercial use; name the authors"),
    ("cc-by-sa", "cc-by-sa-4.0", "name the authors; pass it on under the same licence"),
    ("cc-by", "cc-by-4.0", "name the authors"),
)
FREE = ("apache-2.0", "mit", "bsd-3-clause")
PLACES = re.compile(r"(?<![\w.])(?:~|\.{0,2}/)?(?:[^\s,\[\]{}'\"/]+/)+")  # folders before a file's name
CITATION = """```bibtex
@inproceedings{sariyildiz2024unic,
  title     = {{UNIC}: Universal Classification Models via Multi-teacher Distillation},
  author    = {Sariyildiz, Mert Bulent and Weinzaepfel, Philippe and Lucas, Thomas and Larlus, Diane and Kalantidis, Yannis},
  booktitle = {ECCV},
  year      = {2024}
}
```"""  # noqa: E501


def asks(licence: str) -> tuple[str, str]:
    """How the hub calls a licence, and what it asks; of one that is not known, that it be read."""
    plain = licence.lower().replace(" ", "-")
    for beginning, hub, says in LICENCES:
        if plain.startswith(beginning):
            return hub, says
    return "other", "read it: this program does not know it"


def licence_of(origin: Origin) -> str:
    """Of the whole: the teachers' where they share a free one, else `other`, for the card says what each asks."""
    called = {asks(one.licence)[0] for one in origin.taught}
    if len(called) == 1:
        return next(iter(called))
    return "apache-2.0" if called and called <= set(FREE) else "other"


def card(
    origin: Origin,
    target: Target,
    opened: Opened,
    wishes: Wishes,
    differences: Sequence[Difference],
    name: str,
    tried: Tried | None = None,
) -> str:
    """README.md, as the hub shows it."""
    head = {
        "license": wishes.licence,
        "pipeline_tag": "image-feature-extraction",
        "tags": ["distillation", "unic", "unicscale"],
        **target.tags(),
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n# {name}",
        _what(origin, opened, wishes),
        "## Use\n\n```python\n" + target.use(opened, wishes).replace("DIR", name) + "```\n\n" + _images(target, opened),
        _sizes(target, opened, differences),
        _smaller(wishes, tried),
        _teachers(origin),
        _results(origin),
        _training(origin),
        f"## Citation\n\n{CITATION}{_citations(origin)}",
        f"Exported by unicscale {__version__}; `sha256sum -c SHA256SUMS` checks the files.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(origin: Origin, opened: Opened, wishes: Wishes) -> str:
    trunk = opened.student.trunk
    millions = sum(p.numel() for p in trunk.parameters()) / 1e6
    said = (
        f"A vision encoder of {millions:,.1f} M parameters: {_kind(trunk)}, for images of {opened.size} pixels"
        f"{', in fp16' if wishes.half else ''}. It gives one vector for an image, the summary, and one for each of its "
        f"patches. It was distilled from {_several([one.called for one in origin.taught])} with unicscale (UNIC, "
        "arXiv:2408.05088) to stand in for them below a small head of your own: classification, retrieval, "
        "segmentation, depth. How well it does is said under Results, and nowhere else."
    )
    if origin.unfinished:
        said += f"\n\n**Its training is not finished**: this is step {origin.step:,} of {origin.steps:,}."
    return said


def _kind(trunk: Trunk) -> str:
    """What stands in its weights."""
    if isinstance(trunk, MapTrunk):
        ends = f"{trunk.width} channels and one token for {trunk.patch} pixels a side"
        return f"timm's `{trunk.wish.arch}`, which ends in {ends}"
    rotary = " and rotary positions" if isinstance(trunk, RopeViT) else ""
    return f"a ViT with {trunk.depth} blocks of {trunk.width} channels, patches of {trunk.patch} pixels{rotary}"


def _several(names: Sequence[str]) -> str:
    if not names:
        return "teachers that its file does not name"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _images(target: Target, opened: Opened) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (opened.mean, opened.std))
    said = (
        f"`images` are floats (B, {len(opened.mean)}, {opened.size}, {opened.size}): pixels divided by 255, minus the "
        f"mean ({mean}), divided by the deviation ({std}). `summary` is (B, {opened.student.trunk.width}), `patches` "
        "one token per patch, row by row."
    )
    note = target.note(opened)
    return f"{said}\n\n{note}" if note else said


def _sizes(target: Target, opened: Opened, differences: Sequence[Difference]) -> str:
    rows = ["| pixels | largest difference from the student | the same model |", "|---|---|---|"]
    rows += [f"| {d.size} | {d.from_student:.0e} | {'yes' if d.agrees else 'no'} |" for d in differences]
    said = f"## Verified\n\nLoaded by {target.library} in a process of its own, by the lines above:\n\n" + "\n".join(
        rows
    )
    if any(not d.agrees for d in differences):
        said += (
            f"\n\nAway from {opened.size} pixels {target.library} resizes the positions by another rule than the "
            "student learnt with; the weights are the same. `unicscale export --size` makes one for another size, "
            "`--to onnx`, `torch` and `safetensors` agree at every size."
        )
    return said


def _smaller(wishes: Wishes, tried: Tried | None) -> str:
    if wishes.small is None or tried is None:
        return ""
    mib = [f"{size / 2**20:,.1f} MiB" for size in tried.bytes]
    rows = ["| | the student | this export |", "|---|---|---|", f"| size | {mib[0]} | {mib[1]} |"]
    for kind, cosine in tried.cosine._asdict().items():
        rows.append(f"| cosine with the student's {kind} | 1 | {cosine:.4f} |")
    if tried.knn is not None:
        rows.append(f"| k-NN, each image against the others | {tried.knn[0]:.1f} % | {tried.knn[1]:.1f} % |")
    said = f"## Smaller\n\n{wishes.small.sentence()}. On {tried.count:,} images ({tried.what}):\n\n"
    return said + "\n".join(rows)


def _teachers(origin: Origin) -> str:
    if not origin.taught:
        return "## Teachers\n\nThis was exported from a file that does not name its teachers. Their licences apply."
    rows = ["| teacher | licence | what it asks |", "|---|---|---|"]
    rows += [f"| {one.called} | {one.licence} | {asks(one.licence)[1]} |" for one in origin.taught]
    return "## Teachers\n\nWhat its teachers' licences ask, they ask of whoever uses this model.\n\n" + "\n".join(rows)


def _results(origin: Origin) -> str:
    if not origin.scores:
        return "## Results\n\nNone were recorded in its run; `unicscale evaluate` measures it."
    rows = ["| score | value | 95 % interval |", "|---|---|---|"]
    for name, held in sorted(origin.scores.items()):
        low, high = held.get("low"), held.get("high")
        numbers = isinstance(low, int | float) and isinstance(high, int | float)
        rows.append(f"| {name} | {held['value']:.4g} | {f'{low:.4g} to {high:.4g}' if numbers else ''} |")
    return "## Results\n\n" + "\n".join(rows)


def _training(origin: Origin) -> str:
    if origin.recipe is None:
        return ""
    batch, steps = origin.recipe.data.images_per_step, ""
    if origin.step is not None:
        steps = f"{origin.step:,} steps of {batch:,} images, {origin.step * batch:,} in all, repeats counted. "
    return f"## Training\n\n{steps}The recipe:\n\n```yaml\n{public(origin.recipe)}```"


def public(recipe: Recipe) -> str:
    """The recipe without what is a machine's: folders before names, where it ran, who was told."""
    tree: dict[str, Any] = yaml.safe_load(dump(recipe))
    for key in ("out", "launch", "track", "save", "dry_run"):
        tree.pop(key, None)
    return yaml.safe_dump(_named(tree), sort_keys=False, default_flow_style=None, width=100)


def _named(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _named(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_named(value) for value in node]
    remote = isinstance(node, str) and node.startswith(("http://", "https://", "hf:", "timm:"))
    return PLACES.sub("", node) if isinstance(node, str) and not remote else node


def _citations(origin: Origin) -> str:
    said = [f"{one.called}: {one.citation}" for one in origin.taught if one.citation]
    return "\n\nIts teachers: " + "; ".join(said) + "." if said else ""
