"""Teachers in fp8, where torchao and the hardware allow, and only while their tokens stay what they were in bf16."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unicscale.engine import is_sharded
from unicscale.errors import TeacherError
from unicscale.teacher.frozen import Frozen

LEAST_COSINE = 0.999
MULTIPLE = 16  # fp8 matrix products want sides of this multiple


@torch.no_grad()
def quantise(one: Frozen, device: torch.device) -> None:
    """Replace the products of the blocks' linear layers, and refuse if any probe image's mean cosine suffers."""
    quantize_, config = _torchao(one.name)
    _refuse_old_devices(one.name, device)
    if any(is_sharded(p) for p in one.parameters()):
        raise TeacherError(f"teacher '{one.name}': 'dtype: fp8' needs whole weights on each rank: set `shard: none`.")
    pixels = probe(one.spec.size).to(device)
    exact = one(pixels)
    quantize_(one.module, config, filter_fn=lambda module, name: _suits(module))
    both = zip(exact, one(pixels), strict=True)
    cosine = min(float(worst_cosine(a, b)) for a, b in both if a is not None and b is not None)
    if not cosine >= LEAST_COSINE:
        raise TeacherError(
            f"teacher '{one.name}': in fp8 its tokens keep a cosine of {cosine:.5f} to those in bf16; "
            f"{LEAST_COSINE} is the least.\n  Set `dtype: bf16` for this teacher."
        )


def probe(side: int) -> Tensor:
    """Four smooth images, the same in every run: (4, 3, side, side) uint8."""
    drawn = torch.rand(4, 3, 7, 7, generator=torch.Generator().manual_seed(8))
    return (F.interpolate(drawn, (side, side), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def worst_cosine(exact: Tensor, rough: Tensor) -> Tensor:
    """The mean cosine over tokens, of the image that suffers most."""
    cosine = F.cosine_similarity(exact.float(), rough.float(), dim=-1)
    return cosine.flatten(1).mean(1).min() if cosine.dim() > 1 else cosine.min()


def _suits(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and not module.in_features % MULTIPLE and not module.out_features % MULTIPLE


def _torchao(name: str) -> tuple[Any, Any]:
    try:
        from torchao.quantization import (  # type: ignore[import-not-found]
            Float8DynamicActivationFloat8WeightConfig,
            PerRow,
            quantize_,
        )
    except ImportError as problem:
        raise TeacherError(
            f"teacher '{name}': 'dtype: fp8' needs torchao: `pip install torchao`, or set `dtype: bf16`."
        ) from problem
    return quantize_, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())


def _refuse_old_devices(name: str, device: torch.device) -> None:
    capable = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    if not capable:
        held = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        raise TeacherError(
            f"teacher '{name}': 'dtype: fp8' needs a device with fp8 products (compute capability 8.9); "
            f"here is {held}.\n  Set `dtype: bf16`."
        )
