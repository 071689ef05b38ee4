"""What a file says of its student, held against its tensors: a number of four letters must not cost gigabytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from unicscale.errors import CheckpointError

REPEATED = ("depth", "blocks", "layers")  # how often a part is repeated: each repetition has tensors of its own


def refuse_claims(said: BaseModel, weights: Mapping[str, Tensor], path: object) -> None:
    """CheckpointError for sizes that these tensors cannot have, before anything of that size is built."""
    elements = sum(tensor.numel() for tensor in weights.values())
    for key, number in numbers(said.model_dump()):
        limit = len(weights) if any(word in key for word in REPEATED) else elements
        if abs(number) > limit:
            what = f"{len(weights):,} tensors of {elements:,} numbers altogether"
            raise CheckpointError(f"{path}: it says {key}: {number:,}, and holds {what}. It is not a file of ours.")


def numbers(tree: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number of a description, with the name of where it stands."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from numbers(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from numbers(value, key)
    elif isinstance(tree, int | float) and not isinstance(tree, bool) and abs(tree) > 1:
        yield key, int(min(max(tree, -1e30), 1e30))
