"""What a module answers, asked of the module itself on meta: which tokens, how wide, and at which sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

from unicscale.contracts import Features, TeacherSpec
from unicscale.errors import TeacherError

# pixels: how far from its native size a module is tried where a cell of its grid there is no whole number of pixels;
# what most strides divide comes first
NEAR = 40


@dataclass(frozen=True, slots=True)
class Answer:
    """The shapes of one answer to one square image."""

    summary: int | None  # width
    patches: int | None  # width
    grid: int | None  # cells a side


@dataclass(frozen=True, slots=True)
class Measured:
    """What a module says at its native size, and which other sizes it takes."""

    answer: Answer
    size: int
    stride: int
    multiple: int  # sides must be multiples of this
    fixed: bool

    def spec(self, mean: Any, std: Any, licence: str, **more: Any) -> TeacherSpec:
        """These shapes, with what only the library or the author can say."""
        summary, patches = self.answer.summary, self.answer.patches
        kinds = {"summary": summary, "patches": patches}
        return TeacherSpec(
            summary or patches or 0, self.stride, self.size, mean, std, licence, fixed_size=self.fixed,
            tokens=tuple(kind for kind, width in kinds.items() if width),  # type: ignore[arg-type]
            patch_dim=patches if summary and patches != summary else None,
            multiple=None if self.multiple == self.stride else self.multiple, **more,
        )  # fmt: skip


def measure(module: Any, size: int, what: str) -> Measured:
    """Ask at the native size and at three larger ones; TeacherError where it has no tokens at the first."""
    from torch import nn

    if any(isinstance(part, nn.RNNBase) for part in module.modules()):
        # their loops are unrolled on meta: one answer takes minutes
        raise TeacherError(f"{what} has recurrent layers, which cannot be described without running them.")
    side, answer = _native(module, size, what)
    if answer.grid is None:
        return Measured(answer, side, side, side, fixed=True)
    stride = side // answer.grid
    steps = [stride * k for k in range(1, answer.grid + 1) if answer.grid % k == 0]
    for step in steps:
        if all(_same_stride(module, larger, answer, stride) for larger in {side + step, side + 2 * step, 2 * side}):
            return Measured(answer, side, stride, step, fixed=False)
    return Measured(answer, side, stride, side if side % stride else stride, fixed=True)


def ask(module: Any, side: int) -> Answer:
    """The shapes at one size; ValueError in words where they are no tokens."""
    import torch

    with torch.no_grad():
        said = Features(*module(torch.zeros(2, 3, side, side, device="meta")))
    widths: list[int | None] = []
    for kind, tokens, rank in (("summary", said.summary, 2), ("patches", said.patches, 3)):
        if tokens is not None and (tokens.ndim != rank or tokens.shape[0] != 2):
            raise ValueError(f"its {kind} have shape {tuple(tokens.shape)}")
        widths.append(None if tokens is None else tokens.shape[-1])
    if said.patches is None:
        if said.summary is None:
            raise ValueError("it gives neither a summary nor patches")
        return Answer(widths[0], None, None)
    count = said.patches.shape[1]
    grid = isqrt(count)
    if grid * grid != count:
        raise ValueError(f"its {count} patch tokens are no square grid")
    return Answer(widths[0], widths[1], grid)


def _native(module: Any, size: int, what: str) -> tuple[int, Answer]:
    """The native size; the nearest one where a grid there stands for a whole number of pixels."""
    try:
        first = ask(module, size)
    except Exception as problem:  # whatever a foreign module trips over
        raise TeacherError(f"{what} gives no tokens of {size}×{size} pixels: {first_line(problem)}") from problem
    if first.grid is None or size % first.grid == 0:
        return size, first
    near = sorted(range(max(1, size - NEAR), size + NEAR), key=lambda side: (side % 32 != 0, abs(side - size)))
    for side in near:
        answer = _quietly(module, side)
        if answer is not None and answer.grid and side % answer.grid == 0:
            return side, answer
    if size // (size // first.grid) == first.grid:  # the last pixels belong to no cell: 384 of SigLIP, in cells of 14
        return size, first
    raise TeacherError(f"{what} has {first.grid} cells a side at {size} pixels, and no size near it divides evenly.")


def _same_stride(module: Any, side: int, native: Answer, stride: int) -> bool:
    answer = _quietly(module, side)
    return answer == Answer(native.summary, native.patches, side // stride)


def _quietly(module: Callable[..., Any], side: int) -> Answer | None:
    """None where the module refuses this size, in whichever way it does."""
    try:
        return ask(module, side)
    except Exception:
        return None


def first_line(problem: BaseException) -> str:
    """What a library says, short enough to stand in ours."""
    said = (str(problem).strip().splitlines() or [""])[0][:200]
    return f"{type(problem).__name__}: {said}" if said else type(problem).__name__
