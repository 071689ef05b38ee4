"""A program in a file, for the teacher that is whatever its file does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn


def program() -> dict[str, Any]:
    """An exported patch embedding, the same in every process: the options with which the `file` teacher takes it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.GroupNorm(1, 8)).eval()
    file = Path(tempfile.mkdtemp()) / "program.pt2"
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=(batch,)), file)
    half = (0.5, 0.5, 0.5)
    return {"path": str(file), "trust": True, "size": 32, "mean": half, "std": half}
