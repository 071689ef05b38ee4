"""transformers' names of a ViT's parameters and timm's, both ways; the names are those of its files since 4.0."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

MODELS = ("vit", "dinov2", "dinov2_with_registers")
OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
ATTENTION = {"attn.proj": "attention.output.dense"}
VIT = ATTENTION | {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
DINOV2 = ATTENTION | {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
BLOCK = re.compile(r"blocks\.(\d+)\.(.+?)(\.weight|\.bias|)")
LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+?)(\.weight|\.bias|)")
THREE = ("query", "key", "value")


def from_timm(state: Mapping[str, Tensor], model: str) -> dict[str, Tensor]:
    """timm's tensors as transformers' `model` names them; query, key and value are three there."""
    inside = VIT if model == "vit" else DINOV2
    renamed = {}
    for name, tensor in state.items():
        block = BLOCK.fullmatch(name)
        if block and block[2] == "attn.qkv":
            for part, third in zip(THREE, tensor.chunk(3), strict=True):
                renamed[f"encoder.layer.{block[1]}.attention.attention.{part}{block[3]}"] = third
        elif block:
            renamed[f"encoder.layer.{block[1]}.{inside[block[2]]}{block[3]}"] = tensor
        else:
            stem, leaf = _leaf(name)
            renamed[OUTSIDE[stem] + leaf] = tensor
    return renamed


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back, whichever model it is; a pooler and a head are left behind."""
    renamed: dict[str, Tensor] = {}
    outside = {theirs: ours for ours, theirs in OUTSIDE.items()}
    inside = {theirs: ours for table in (VIT, DINOV2) for ours, theirs in table.items()}
    for full, tensor in state.items():
        name = re.sub(r"^(vit|dinov2|dinov2_with_registers)\.", "", full)
        layer = LAYER.fullmatch(name)
        if layer and layer[2].startswith("attention.attention."):
            if layer[2].endswith("query"):
                rest = [state[full.replace("query", other)] for other in THREE[1:]]
                renamed[f"blocks.{layer[1]}.attn.qkv{layer[3]}"] = torch.cat([tensor, *rest])
        elif layer:
            renamed[f"blocks.{layer[1]}.{inside[layer[2]]}{layer[3]}"] = tensor
        elif not name.startswith(("pooler.", "classifier.")):
            stem, leaf = _leaf(name)
            renamed[outside[stem] + leaf] = tensor
    return renamed


def _leaf(name: str) -> tuple[str, str]:
    stem, dot, leaf = name.rpartition(".")
    return (stem, dot + leaf) if leaf in ("weight", "bias") else (name, "")
