"""Whether an encoder can teach, on random weights: encoders.py asks this in a process of its own.

An encoder is a teacher if its tokens have the shapes that its spec promises, are finite, are those of the library's own
forward on the same pixels, and come row by row, at its native size and at a larger one where it takes any.
"""

from __future__ import annotations

import inspect
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from unicscale.contracts import Features
from unicscale.errors import UserError
from unicscale.recipe.sections import TeacherSection
from unicscale.teacher.described import describe
from unicscale.teacher.frozen import Frozen, open_teacher

CLOSE = 1e-4  # of the largest value
TOLD = 1e-3  # of a sum of about 4: how much better the corners must be paired otherwise
SIDE, SMALLER = 384, 224  # pixels: what is at home at more, and takes any size, is asked at fewer


def judged(library: str, options: dict[str, Any], largest: float) -> dict[str, Any]:
    """What one encoder is as a teacher; of more than `largest` parameters, as far as meta tells."""
    try:
        return verdict(library, options, largest)
    except UserError as problem:
        return {"verdict": "no", "reason": str(problem).splitlines()[0]}


def verdict(library: str, options: dict[str, Any], largest: float) -> dict[str, Any]:
    """Shapes, sizes, and whether the tokens are the library's."""
    section = TeacherSection.model_validate({**options, "weights": "random"})
    described = describe(library, section)
    spec = described.spec
    sizes = f"{spec.size}" if spec.fixed_size else f"any × {spec.multiple or spec.patch}"
    said = {
        "verdict": "yes", "summary": spec.widths.summary, "patches": spec.widths.patches, "stride": spec.patch,
        "native": spec.size, "sizes": sizes,
    }  # fmt: skip
    with torch.device("meta"):
        count = sum(p.numel() for p in described.plugin.build(described.options).parameters())
    said["million"] = round(count / 1e6, 1)
    if count > largest:
        return {**said, "compared": "shapes only"}
    teacher = open_teacher(library, "random", options)
    step = spec.multiple or spec.patch
    small = spec.size if spec.fixed_size or spec.size <= SIDE else -(-SMALLER // step) * step
    sides = [small] if spec.fixed_size else [small, small + step]
    faults = [f"{side} px: {fault}" for side in sides for fault in faults_at(teacher, library, side)]
    return {**said, "compared": "yes"} if not faults else {**said, "verdict": "silent error", "reason": faults[0]}


@torch.no_grad()
def faults_at(teacher: Frozen, library: str, side: int) -> list[str]:
    """What is wrong with its tokens at one size; nothing, it is hoped."""
    spec, faults = teacher.spec, []
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side)) - 0.5
    cells = side // spec.patch
    changed = [pixels]
    for row_, column in CORNERS:
        other = pixels.clone()
        top, left = row_ * (side - spec.patch), column * (side - spec.patch)
        other[:, :, top : top + spec.patch, left : left + spec.patch] *= -3
        changed.append(other)
    found = teacher(torch.cat(changed))
    for kind, tokens, width in zip(Features._fields, found, spec.widths, strict=True):
        if (tokens is None) != (width is None):
            return [f"{kind} are {'missing' if tokens is None else 'there, and not in the spec'}"]
        if tokens is None:
            continue
        expected = (5, width) if kind == "summary" else (5, cells**2, width)
        if tuple(tokens.shape) != expected:
            return [f"{kind} have shape {tuple(tokens.shape)}, not {expected}"]
        if not torch.isfinite(tokens).all():
            return [f"{kind} are not finite"]
    raw = own_answers(teacher, library, pixels)
    theirs = [layout for tensor in raw for layout in layouts(tensor)]
    maps = [layout for tensor in raw if tensor.ndim == 4 for layout in layouts(tensor)]
    if found.summary is not None and not any(same(found.summary[:1], t) for t in theirs):
        faults.append("the summary is none of the library's own vectors")
    if found.patches is not None:
        if not any(same(found.patches[:1], t) for t in theirs):
            faults.append("the patches are none of the library's own maps")
        elif not any(same(found.patches[:1], t) for t in maps):  # of a map the order is known, of tokens it is not
            faults += out_of_order(found.patches, cells)
    return faults


CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def out_of_order(patches: Tensor, cells: int) -> list[str]:
    """Whether the corner tokens that move with the four corners of the image are paired better in another way."""
    numbers = [row_ * (cells - 1) * cells + column * (cells - 1) for row_, column in CORNERS]
    if cells == 1:
        return []
    moved = (patches[1:] - patches[:1]).norm(dim=-1)[:, numbers]  # (4 changes, 4 corners)
    moved = moved / moved.mean(0) / (moved / moved.mean(0)).mean(1, keepdim=True)
    paired = {order_: float(moved[range(4), order_].sum()) for order_ in permutations(range(4))}
    best = max(paired, key=lambda order_: paired[order_])
    # at random weights a change may move all tokens alike, to rounding, and then its order says nothing
    if paired[best] - paired[0, 1, 2, 3] < TOLD:
        return []
    return [f"the corners of the image move its corner tokens in the order {best}"]


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Equal to within rounding."""
    return ours.shape == theirs.shape and float((ours - theirs).abs().max()) <= CLOSE * float(theirs.abs().max())


# --- the library's own answers --------------------------------------------------------------------


def own_answers(teacher: Frozen, library: str, pixels: Tensor) -> list[Tensor]:
    """Every vector and map that the library's own code gives."""
    module: Any = teacher.module
    raw: list[Tensor] = []
    if library == "timm":
        features = type(module).forward_features(module, pixels)
        pooled = type(module).forward_head(module, features)
        raw += [*flat(features), *flat(pooled), *flat(timm_maps(teacher, pixels))]
    elif library == "hf":
        from unicscale_teachers.hf_tokens import _inputs

        own = type(module).forward.__get__(module)
        raw += flat(dict(own(**_inputs(module.config, inspect.signature(own).parameters, pixels))))
    else:
        whole = module.visual
        raw += flat(whole(pixels))
        normed = getattr(whole, "attn_pool", None) is None  # else the norm is of the pooled token, and as wide as that
        raw += flat(whole.forward_intermediates(pixels, normalize_intermediates=normed))
        if hasattr(whole, "trunk"):
            raw += flat(whole.trunk.forward_features(pixels))
    return raw


def timm_maps(teacher: Frozen, pixels: Tensor) -> Any:
    """The last map of timm's feature extractor, a third interface, where the model has one."""
    import timm

    options: Any = teacher.options
    try:
        extractor = timm.create_model(options.model, features_only=True, out_indices=(-1,), **options.settings).eval()
        missing = extractor.load_state_dict(teacher.module.state_dict(), strict=False).missing_keys
    except Exception:  # not every family has it; then there is the interface that the plug-in uses too
        missing = [""]
    if not missing:
        return extractor(pixels)
    return type(teacher.module).forward_intermediates(teacher.module, pixels, intermediates_only=True)


def flat(said: Any) -> list[Tensor]:
    """All tensors inside."""
    if isinstance(said, Tensor):
        return [said]
    inside = said.values() if isinstance(said, dict) else said if isinstance(said, list | tuple) else ()
    return [tensor for part in inside for tensor in flat(part)]


def layouts(tensor: Tensor) -> list[Tensor]:
    """As vector, tokens with up to ten leading ones cut off, or a map with its channels first or last."""
    if tensor.ndim == 2:
        return [tensor]
    if tensor.ndim == 3:
        return [tensor[:, 0], *(tensor[:, cut:] for cut in range(11))]
    if tensor.ndim == 4:
        return [tensor.flatten(2).transpose(1, 2), tensor.flatten(1, 2), tensor.flatten(1), tensor.mean((2, 3))]
    return []
