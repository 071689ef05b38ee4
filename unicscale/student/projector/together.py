"""The ladder as one function of autograd: the sum that its rungs give one by one, in a fifth of the kernels.

All blocks' hidden layers of one teacher lie side by side in one buffer, which the first layers' products fill and
which is all that backward needs beside the tokens; every second layer is one product, whose sum is the ladder's own.
The token axis stays whole (CLS rows of a patch head get no gradient), so nothing is sliced, copied or padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import accumulate, groupby, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from unicscale.contracts import Features
from unicscale.student.projector.rung import exact

LAYERS = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")  # as the parameters of a perceptron are handed over


class Head(NamedTuple):
    """One teacher's perceptrons for one kind of token, a block each."""

    teacher: str
    kind: str  # cls, patch, or tokens for both


class Layers(NamedTuple):
    """The parameters of a head, per block; or their gradients."""

    first: Sequence[Tensor]  # (h, d)
    first_bias: Sequence[Tensor]
    second: Sequence[Tensor]  # (D, h)
    second_bias: Sequence[Tensor]


class Form(NamedTuple):
    """What is no tensor."""

    heads: list[Head]
    prefix: int
    runs: list[range]  # consecutive blocks of the same widths: their products go as one batch
    ends: list[int]  # of each block's columns in the buffer, from 0


def together(rungs: Sequence[Any], teachers: Sequence[str], prefix: int, tokens: list[Tensor]) -> dict[str, Features]:
    """One answer per teacher of the blocks' tokens (B, prefix + N, d); `rungs` are `Heads` without norms."""
    heads = [Head(name, kind) for name in teachers for kind, _ in rungs[0].heads[name].named_children()]
    layers = [
        [getattr(getattr(rung.heads[head.teacher][head.kind], layer), kind) for rung in rungs]
        for head in heads
        for layer, kind in (name.split(".") for name in LAYERS)
    ]
    shapes = [tuple(weight.shape) for weight in layers[0]]
    runs = [[block for block, _ in run] for _, run in groupby(enumerate(shapes), key=lambda each: each[1])]
    ends = [0, *accumulate(hidden for hidden, _ in shapes)]
    form = Form(heads, prefix, [range(run[0], run[-1] + 1) for run in runs], ends)
    said = iter(Together.apply(form, *tokens, *(one for kind in layers for one in kind)))
    answers = dict.fromkeys(teachers, Features(None, None))
    for head in heads:
        kept = {"cls": ["summary"], "patch": ["patches"], "tokens": ["summary", "patches"]}[head.kind]
        answers[head.teacher] = answers[head.teacher]._replace(**{kind: next(said) for kind in kept})
    return answers


class Together(torch.autograd.Function):
    """Blocks' tokens and all layers -> per head its summary, its patches, or both; at least in fp32."""

    @staticmethod
    def forward(ctx: Any, form: Form, *given: Tensor) -> tuple[Tensor, ...]:
        blocks, heads = _parted(form, given)
        device = blocks[0].device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        ctx.form, ctx.dtype = form, torch.get_autocast_dtype(device) if autocast else blocks[0].dtype
        blocks = [block.to(ctx.dtype) for block in blocks]
        summaries = _summaries(form, blocks)
        hidden, answers = [], []
        with torch.autocast(device, enabled=False) if autocast else nullcontext():
            for head, layers in zip(form.heads, heads, strict=True):
                before = _first(form, head, layers, blocks, summaries, ctx.dtype)
                bias = torch.stack([*layers.second_bias]).sum(0).to(ctx.dtype)
                weight = torch.cat([*layers.second], dim=1).to(ctx.dtype)  # (D, S)
                answers += _split(head, torch.addmm(bias, F.gelu(before), weight.t()), blocks[0], form.prefix)
                hidden.append(before)
        ctx.save_for_backward(*hidden, *blocks, *given[len(blocks) :])
        return tuple(answers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        form, count = ctx.form, len(ctx.form.heads)
        hidden, given = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        blocks, heads = _parted(form, given)
        summaries = _summaries(form, blocks)
        into = Into(form, blocks) if any(ctx.needs_input_grad[1 : len(blocks) + 1]) else None
        said, found = iter(gradients), list[Tensor]()
        for head, before, layers in zip(form.heads, hidden, heads, strict=True):
            gradient = _joined(head, said, blocks[0], form.prefix)
            kinds = _backward(form, head, layers, before, gradient, blocks, summaries, into)
            found += [one for kind in kinds for one in kind]
        return None, *(into.gradients() if into else [None] * len(blocks)), *found


def _parted(form: Form, given: Sequence[Tensor]) -> tuple[list[Tensor], list[Layers]]:
    count = len(form.ends) - 1
    kinds = [given[start : start + count] for start in range(0, len(given), count)]
    return [*kinds[0]], [Layers(*kinds[start : start + 4]) for start in range(1, len(kinds), 4)]


def _summaries(form: Form, blocks: Sequence[Tensor]) -> list[Tensor]:
    """Per run, (n, B, d): one token per image makes tiny products."""
    if not any(head.kind == "cls" for head in form.heads):
        return []
    return [torch.stack([blocks[block][:, 0] for block in run]) for run in form.runs]


def _columns(form: Form, run: range) -> slice:
    return slice(form.ends[run[0]], form.ends[run[-1] + 1])


def _by_block(form: Form, run: range, buffer: Tensor) -> Tensor:
    """A run's columns of (rows, S) as a batch of its blocks: (n, rows, h), a view."""
    return buffer[:, _columns(form, run)].unflatten(1, (len(run), -1)).transpose(0, 1)


def _first(
    form: Form, head: Head, layers: Layers, blocks: list[Tensor], summaries: list[Tensor], dtype: torch.dtype
) -> Tensor:
    """Hidden layers before their GELU, side by side: (rows, S)."""
    rows = len(blocks[0]) if head.kind == "cls" else len(blocks[0]) * blocks[0].shape[1]
    before = blocks[0].new_empty(rows, form.ends[-1], dtype=dtype)
    # the bias first, so that products add to it in the precision of their sums
    before.copy_(torch.cat([*layers.first_bias]))
    for number, run in enumerate(form.runs):
        if head.kind == "cls":
            weight = torch.stack([layers.first[block] for block in run]).to(dtype)  # (n, h, d)
            _by_block(form, run, before).baddbmm_(summaries[number], weight.mT)
            continue
        for block in run:
            columns = before[:, form.ends[block] : form.ends[block + 1]]
            columns.addmm_(blocks[block].flatten(0, 1), layers.first[block].to(dtype).t())
    return before


def _split(head: Head, answer: Tensor, block: Tensor, prefix: int) -> list[Tensor]:
    """(rows, D) as what the head answers."""
    if head.kind == "cls":
        return [exact(answer)]
    answer = answer.unflatten(0, block.shape[:2])
    patches = exact(answer[:, prefix:])
    return [patches] if head.kind == "patch" else [exact(answer[:, 0]), patches]


def _joined(head: Head, gradients: Iterator[Tensor], block: Tensor, prefix: int) -> Tensor:
    """Gradients of a head's answers as (rows, D); what nobody answered for has none."""
    if head.kind == "cls":
        return next(gradients).to(block.dtype)
    summary = next(gradients) if head.kind == "tokens" else None
    patches = next(gradients)
    whole = patches.new_empty(*block.shape[:2], patches.shape[-1], dtype=block.dtype)
    whole[:, :prefix].zero_()
    whole[:, prefix:].copy_(patches)
    if summary is not None:
        whole[:, 0].copy_(summary)
    return whole.flatten(0, 1)


def _backward(
    form: Form, head: Head, layers: Layers, before: Tensor, gradient: Tensor, blocks: list[Tensor],
    summaries: list[Tensor], into: Into | None,
) -> Layers:  # fmt: skip
    """Gradients of one head's layers; those of its tokens go where they are added up."""
    count, dtype = len(blocks), gradient.dtype
    after = F.gelu(before)
    second: list[Tensor] = []
    for run in form.runs:  # each block's its own and contiguous: nobody copies it
        batch = torch.bmm(gradient.t().expand(len(run), -1, -1), _by_block(form, run, after))
        second += batch.to(layers.second[0].dtype).unbind()
    del after
    below = gradient.mm(torch.cat([*layers.second], dim=1).to(dtype))  # (rows, S)
    torch.ops.aten.gelu_backward.grad_input(below, before, grad_input=below)
    biases = below.sum(0).to(layers.first_bias[0].dtype)
    first_bias = biases.split([end - start for start, end in pairwise(form.ends)])
    # a row each: of a tensor that they shared, every parameter would make its own copy
    second_bias = gradient.sum(0).to(layers.second_bias[0].dtype).expand(count, -1).contiguous().unbind()
    first: list[Tensor] = []
    for number, run in enumerate(form.runs):
        part = _by_block(form, run, below)  # (n, rows, h)
        weight = layers.first[run[0]]
        held = weight.new_empty(len(run), *weight.shape, dtype=dtype)
        if head.kind == "cls":
            torch.bmm(part.mT, summaries[number], out=held)
        else:
            for one, block in enumerate(run):
                torch.mm(part[one].t(), blocks[block].flatten(0, 1), out=held[one])
        first += held.to(weight.dtype).unbind()
        if into is not None:
            into.add(number, head, part, torch.stack([layers.first[block] for block in run]).to(dtype))
    return Layers(first, first_bias, second, second_bias)


class Into:
    """The gradients of all blocks' tokens, a buffer per run, to which heads add."""

    def __init__(self, form: Form, blocks: list[Tensor]) -> None:
        self.form, self.blocks = form, blocks
        self.whole: list[Tensor | None] = [None] * len(form.runs)  # (n, B (prefix + N), d)
        self.summary: list[Tensor | None] = [None] * len(form.runs)  # (n, B, d)

    def add(self, number: int, head: Head, part: Tensor, weight: Tensor) -> None:
        """(n, rows, h) of one head by its first layers (n, h, d)."""
        held = self.summary if head.kind == "cls" else self.whole
        there = held[number]
        if there is None:
            held[number] = torch.bmm(part, weight)
        else:
            there.baddbmm_(part, weight)

    def gradients(self) -> list[Tensor]:
        """Block by block, (B, prefix + N, d)."""
        found: list[Tensor] = []
        for run, whole, summary in zip(self.form.runs, self.whole, self.summary, strict=True):
            shape = (len(run), *self.blocks[run[0]].shape)
            whole = self.blocks[run[0]].new_zeros(shape) if whole is None else whole.view(shape)
            if summary is not None:
                whole[:, :, 0].add_(summary)
            found += whole.unbind()
        return found
