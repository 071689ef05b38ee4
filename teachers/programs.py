"""Programs in files, behind a module that gives Features."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unicscale.contracts import Features


def load(file: Path) -> nn.Module:
    """By what the archive holds."""
    if any(name.endswith("archive_format") for name in zipfile.ZipFile(file).namelist()):
        with torch.device("cpu"):
            return torch.export.load(str(file)).module()
    return Script(file)


class Script(nn.Module):
    """TorchScript on whichever device it is asked: its parameters cannot be moved, cast or sharded from outside."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.placed: dict[str, Any] = {}
        self.on("meta")  # a damaged file is seen now

    def on(self, device: str) -> Any:
        """The program on a device, read once for each."""
        if device not in self.placed:
            self.placed[device] = torch.jit.load(str(self.file), map_location=device)
        return self.placed[device]

    def forward(self, images: Tensor) -> Any:
        return self.on(str(images.device))(images)


class Program(nn.Module):
    """One program, and how what it says is read."""

    def __init__(self, program: nn.Module, prefix: int) -> None:
        super().__init__()
        self.program, self.prefix = program, prefix
        for part in program.modules():
            part.training = False  # set, not told: an exported program refuses to be told

    def train(self, mode: bool = True) -> Program:
        """A program was frozen when it was written, and refuses to be told so."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Features:
        said: Any = self.program(images)
        if isinstance(said, dict):
            said = (said.get("summary"), said.get("patches"))
        if isinstance(said, tuple | list):
            summary, patches = said
            return Features(summary, patches if patches is None or patches.ndim != 4 else _rows(patches))
        if said.ndim == 4:
            return Features(None, _rows(said))
        if said.ndim == 3:
            return Features(said[:, 0] if self.prefix else None, said[:, self.prefix :])
        return Features(said, None)


def _rows(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)
