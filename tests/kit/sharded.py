"""A checkpoint as many ranks would have left it: every tensor in as many stretches as there are ranks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from unicscale.checkpoint.committing import commit, everybody, write_part
from unicscale.checkpoint.layout import divide, held
from unicscale.checkpoint.reading import opened
from unicscale.engine import Piece


def as_of(ranks: int, checkpoint: Path, folder: Path) -> Path:
    """The same numbers, cut anew, in `folder`/checkpoints; nothing is trained."""
    found = opened(checkpoint)
    fresh = folder / "checkpoints" / ".cut.partial"
    fresh.mkdir(parents=True)
    whole = {}
    for name, entry in found.manifest.tensors.items():
        whole[name] = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        found.fill({name: Piece(whole[name].view(-1), 0, entry.shape)})
    layouts, parts = [], []
    for rank in range(ranks):
        pieces = {}
        for name, tensor in whole.items():
            flat, count = tensor.view(-1), tensor.numel()
            start, stop = count * rank // ranks, count * (rank + 1) // ranks
            pieces[name] = Piece(flat[start:stop], start, tuple(tensor.shape))
        layouts.append(held(pieces))
        parts.append({name: piece.flat.clone() for name, piece in pieces.items() if piece.flat.numel()})
    entries = divide(layouts)
    for rank, tensors in enumerate(parts):
        write_part(fresh, rank, tensors)
    manifest = replace(found.manifest, world=ranks, tensors=entries, files={})
    texts = {name: (checkpoint / name).read_text() for name in ("recipe.yaml", "state.json")}
    final = commit(fresh, manifest, everybody(fresh, ranks, 60), texts)
    for name in ("recipe.yaml", "run.json"):
        if (checkpoint.parent.parent / name).exists():
            shutil.copy(checkpoint.parent.parent / name, folder / name)
    return final
