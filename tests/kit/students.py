"""Small students of every kind that exports must know, with values that no default could stand in for."""

from __future__ import annotations

from typing import Any

import torch

from unicscale.interop.description import Description
from unicscale.interop.opened import Opened, Statistics
from unicscale.objective.standardize import Standardizer
from unicscale.recipe import sections
from unicscale.student.model import build_student

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer scale": {"layer_scale": 0.5},
    "registers": {"registers": 3},
    "registers and layer scale": {"registers": 2, "layer_scale": 0.5},
    "swiglu": {"arch": "vit_giant_patch14_dinov2", "options": {"mlp_ratio": 2.67 * 2}},
    "convolutions": {"stem": "convolutions"},
}
SHAPE = {"embed_dim": 48, "depth": 2, "num_heads": 3}
DIMS = {"one": 10, "two": 12}
SIZE, PATCH = 32, 8


def student(kind: str, *, projector: sections.Projector | None = None) -> Opened:
    """Random, trained-looking: norms, scales and biases are no ones and zeros."""
    said = dict(KINDS[kind])
    options = SHAPE | said.pop("options", {})
    section = sections.Student(**({"arch": "vit_tiny", "patch": PATCH, "drop_path": 0.1, "options": options} | said))
    projector = projector or sections.Ladder(hidden=16, last_hidden=24)
    built = build_student(section, projector, DIMS, SIZE).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + centre)
    statistics: Statistics = {}
    for teacher, dim in DIMS.items():
        pair = (Standardizer(dim), Standardizer(dim))
        for standardizer in pair:
            standardizer(torch.randn(30, dim, generator=generator) * 2 + 1, momentum=1.0)
        statistics[teacher] = pair
    return Opened(built, SIZE, statistics, Description(student=section, projector=projector))
