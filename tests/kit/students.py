"""Small students of every kind that exports must know, with values that no default could stand in for."""

from __future__ import annotations

from typing import Any

import torch

from unicscale.interop.description import Description
from unicscale.interop.opened import Opened, Statistics
from unicscale.objective.standardize import Standardizer
from unicscale.recipe import sections
from unicscale.student.model import build_student, in_memory

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer scale": {"layer_scale": 0.5},
    "registers": {"registers": 3},
    "registers and layer scale": {"registers": 2, "layer_scale": 0.5},
    "swiglu": {"arch": "vit_giant_patch14_dinov2", "options": {"mlp_ratio": 2.67 * 2}},
    "convolutions": {"stem": "convolutions"},
}
SMALL_MAPS = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}
TURNING = {"embed_dim": 48, "depth": 2, "num_heads": 3}
OTHERS: dict[str, tuple[dict[str, Any], int]] = {  # what is no plain ViT, and the size it is built for
    "dinov3": ({"arch": "vit_small_patch16_dinov3", "options": TURNING}, 64),
    "dinov3 with biases": ({"arch": "vit_small_patch16_dinov3_qkvb", "options": TURNING}, 64),
    "dinov3 gated": ({"arch": "vit_small_plus_patch16_dinov3", "options": TURNING}, 64),
    "convnext": ({"arch": "convnext_tiny", "options": SMALL_MAPS}, 64),
    "convnext of convolutions": ({"arch": "convnext_atto", "options": SMALL_MAPS}, 64),
    "convnext v2": ({"arch": "convnextv2_atto", "options": SMALL_MAPS}, 64),
    "eva02": ({"arch": "eva02_tiny_patch14_224", "options": {"depth": 2}}, 56),
    "resnet": ({"arch": "test_resnet"}, 64),
    "swin": ({"arch": "swin_tiny_patch4_window7_224", "options": {"depths": [1, 1, 1, 1], "embed_dim": 24}}, 224),
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


@torch.no_grad()
def other(kind: str) -> Opened:
    """One that is no plain ViT: what no parameter holds is timm's own, the rest is random."""
    said, size = OTHERS[kind]
    section = sections.Student(**said)
    built = build_student(section, sections.Ladder(hidden=8, last_hidden=8), {"one": 6}, size)
    in_memory(built, "cpu")
    first, generator = built.initial_values(0), torch.Generator().manual_seed(0)
    for name, buffer in built.named_buffers():
        if name.startswith("trunk.") and not name.rpartition(".")[2].startswith("seen_"):  # of the last forward
            buffer.copy_(first(name, tuple(buffer.shape)))
    for name, parameter in built.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1 + centre)
    description = Description(student=section, size=size, projector=sections.Ladder(hidden=8, last_hidden=8))
    return Opened(built.eval(), size, {}, description)
