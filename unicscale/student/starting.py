"""What a student takes of weights that others trained: what fits, by name and shape; the rest is said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unicscale.errors import RecipeError
from unicscale.student.trunk import Trunk
from unicscale.student.trunk.batch_norm import RUNNING

ENOUGH = 0.5  # of the trunk's numbers: below, it is another architecture
SHOWN = 6  # names of each list
NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Start:
    """The values, under the student's names, and what they are and are not."""

    values: dict[str, Tensor]
    absent: list[str]  # of the trunk, which start anew
    unused: list[str]  # of the source
    taken: int  # numbers
    total: int
    other_pixels: str = ""  # how they saw pixels, where the student does otherwise

    @property
    def share(self) -> float:
        """Of the trunk's numbers."""
        return self.taken / max(self.total, 1)

    def said(self, source: str) -> str:
        """For the log: what was taken, what starts anew, what was left."""
        every = len(self.values) + len(self.absent)
        lines = [
            f"student.init {source}: {len(self.values)} of {every} tensors of the trunk taken, "
            f"{self.taken / 1e6:,.1f} of {self.total / 1e6:,.1f} million numbers",
            f"  taken: {few(name.removeprefix('trunk.') for name in self.values)}",
        ]
        lines += [f"  start anew: {few(self.absent)}"] if self.absent else []
        lines += [f"  not used of it: {few(self.unused)}"] if self.unused else []
        lines += [f"  {self.other_pixels}"] if self.other_pixels else []
        return "\n".join(lines)

    def refuse_little(self, source: str) -> None:
        """Less than half is another architecture, or another naming."""
        if self.share < ENOUGH:
            raise RecipeError(
                f"student.init: {source} fits {self.share:.0%} of the student's parameters.\n"
                f"  start anew: {few(self.absent)}\n  not used of it: {few(self.unused)}\n"
                "  Choose the architecture that it was trained with, or say student.init_partial: true."
            )


def fit(trunk: Trunk, state: Mapping[str, Tensor]) -> Start:
    """Of a state under timm's names; position tables are brought to the trunk's grid when they are read."""
    wanted = dict(trunk.named_parameters())
    wanted |= {n: b for n, b in trunk.named_buffers() if n.rpartition(".")[2] in RUNNING}
    values, absent, taken = {}, [], 0
    for name, target in wanted.items():
        tensor = state.get(name)
        if tensor is not None and _fits(trunk, name, tensor, target):
            values[f"trunk.{name}"] = tensor
            taken += target.numel()
        else:
            absent.append(name)
    unused = [name for name in state if f"trunk.{name}" not in values]
    return Start(values, absent, unused, taken, sum(t.numel() for t in wanted.values()))


def _fits(trunk: Trunk, name: str, tensor: Tensor, target: Tensor) -> bool:
    if tensor.shape == target.shape:
        return True
    if name not in trunk.tables:
        return False
    return trunk.fit(torch.empty(tensor.shape, device="meta"), target.shape) is not None


def few(names: Iterable[str]) -> str:
    """`blocks.0-11.attn.qkv.weight`: numbers in a row are one name."""
    runs: dict[str, list[int]] = {}
    for name in names:
        number = NUMBER.search(name)
        pattern = name if number is None else f"{name[: number.start()]}.*.{name[number.end() :]}"
        runs.setdefault(pattern, []).append(-1 if number is None else int(number[1]))
    shown = []
    for pattern, numbers in runs.items():
        low, high = min(numbers), max(numbers)
        shown.append(pattern.replace("*", f"{low}-{high}" if low < high else f"{low}", 1))
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
