"""The students beyond plain ViTs that transformers has a model for: DINOv3's ViTs, and ConvNeXt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import GlobalResponseNormMlp, Mlp, RotaryEmbeddingDinoV3, SwiGLU
from timm.layers.activations import GELU
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from unicscale.errors import CheckpointError
from unicscale.interop.opened import Opened
from unicscale.student.trunk.maps import MapTrunk
from unicscale.student.trunk.rope import RopeViT

HAS = "it has ViTs with learned positions (vit, dinov2), DINOv3's ViTs (dinov3_vit) and ConvNeXts, of either version"


@dataclass(frozen=True, slots=True)
class Form:
    """One student as one of its models."""

    architecture: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    tokens: str  # lines that make `summary, patches` of `said`, what its model answers


def other_form(opened: Opened) -> Form | None:
    """The student's form; None for a plain ViT, CheckpointError for what transformers has no model of."""
    trunk = opened.student.trunk
    if isinstance(trunk, RopeViT):
        return _dinov3(trunk, opened.size)
    if isinstance(trunk, MapTrunk):
        return _convnext(trunk)
    return None


def _refused(what: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"--to hf: '{what}' {why}; {HAS}.\n  These hold every student: --to onnx, --to torch, --to safetensors."
    )


# --- DINOv3 ---------------------------------------------------------------------------------------

OUTSIDE = {
    "cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias", "norm.weight": "norm.weight", "norm.bias": "norm.bias",
}  # fmt: skip
INSIDE = {
    "norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.o_proj", "gamma_1": "layer_scale1.lambda1",
    "gamma_2": "layer_scale2.lambda1", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj",
    "mlp.fc1_x": "mlp.up_proj", "mlp.fc1_g": "mlp.gate_proj",
}  # fmt: skip
BLOCK = re.compile(r"blocks\.(\d+)\.(.+?)(\.weight|\.bias|)")


def _dinov3(trunk: RopeViT, size: int) -> Form:
    first: Any = trunk.blocks[0]
    attention, mlp, rope = first.attn, first.mlp, trunk.rope
    gated = isinstance(mlp, SwiGLU)
    odd = {
        "turns its tokens by another rule": type(rope) is not RotaryEmbeddingDinoV3
        or not (attention.rotate_half and rope.rotate_half)
        or (rope.normalize_coords, rope.grid_offset, rope.grid_indexing) != ("separate", 0.0, "ij")
        or rope.temperature is None
        or trunk.turns_by_block,
        "has positions beside its rotation": trunk.pos_embed is not None,
        "has no registers": trunk.reg_token is None,
        "norms queries and keys": not isinstance(attention.q_norm, nn.Identity),
        "norms inside its attention": not isinstance(attention.norm, nn.Identity),
        "gates its attention": attention.gate is not None,
        "has a norm before its blocks": not isinstance(trunk.norm_pre, nn.Identity),
        "has another perceptron": not gated and (type(mlp) is not Mlp or not _gelu(mlp)),
        "has a norm in its perceptron": not isinstance(mlp.norm, nn.Identity),
        "has another final norm": not isinstance(trunk.norm, nn.LayerNorm),
    }
    for why, true in odd.items():
        if true:
            raise _refused(trunk.wish.arch, why)
    state = trunk.state_dict()
    config = {
        "model_type": "dinov3_vit", "hidden_size": trunk.width, "num_hidden_layers": trunk.depth,
        "num_attention_heads": attention.num_heads, "intermediate_size": mlp.fc2.weight.shape[1], "image_size": size,
        "patch_size": trunk.patch, "num_channels": 3, "num_register_tokens": trunk.prefix - 1,
        "layer_norm_eps": trunk.norm.eps, "rope_theta": rope.temperature, "hidden_act": "silu" if gated else "gelu",
        "use_gated_mlp": gated, "query_bias": True, "key_bias": True, "value_bias": True, "proj_bias": True,
        "mlp_bias": True, "attention_dropout": 0.0, "drop_path_rate": 0.0, "layerscale_value": 1.0,
        "pos_embed_rescale": None,
    }  # fmt: skip
    tensors = dinov3_names(state, trunk.depth, trunk.width)
    lines = f"tokens = said.last_hidden_state\nsummary, patches = tokens[:, 0], tokens[:, {trunk.prefix}:]\n"
    return Form("DINOv3ViTModel", config, tensors, lines)


def dinov3_names(state: Mapping[str, Tensor], depth: int, width: int) -> dict[str, Tensor]:
    """timm's tensors under transformers' names; query, key and value are three there, each with a bias."""
    renamed = {"embeddings.mask_token": torch.zeros(1, 1, width)}
    for name, tensor in state.items():
        block = BLOCK.fullmatch(name)
        if block is None:
            renamed[OUTSIDE[name]] = tensor
        elif not block[2].startswith("attn.") or block[2] == "attn.proj":
            renamed[f"model.layer.{block[1]}.{INSIDE[block[2]]}{block[3]}"] = tensor
    for number in range(depth):
        inside, zeros = f"blocks.{number}.attn", torch.zeros(width)
        biases = [state.get(f"{inside}.{part}_bias", zeros.clone()) for part in "qkv"]
        if f"{inside}.qkv.bias" in state:
            biases = list(state[f"{inside}.qkv.bias"].chunk(3))
        there = f"model.layer.{number}"
        for part, weight, bias in zip("qkv", state[f"{inside}.qkv.weight"].chunk(3), biases, strict=True):
            renamed[f"{there}.attention.{part}_proj.weight"] = weight
            renamed[f"{there}.attention.{part}_proj.bias"] = bias
        for half in "12":
            renamed.setdefault(f"{there}.layer_scale{half}.lambda1", torch.ones(width))
    return renamed


def _gelu(mlp: Any) -> bool:
    return isinstance(mlp.act, GELU) or (isinstance(mlp.act, nn.GELU) and mlp.act.approximate == "none")


# --- ConvNeXt -------------------------------------------------------------------------------------

CONVNEXT = (
    (r"^stem\.0\.", "embeddings.patch_embeddings."), (r"^stem\.1\.", "embeddings.layernorm."),
    (r"^head\.norm\.", "layernorm."), (r"^stages\.(\d+)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", r"encoder.stages.\1.layers.\2."), (r"\.gamma$", ".layer_scale_parameter"),
    (r"\.conv_dw\.", ".dwconv."), (r"\.norm\.", ".layernorm."), (r"\.mlp\.fc([12])\.", r".pwconv\1."),
    (r"\.mlp\.grn\.", ".grn."),
)  # fmt: skip


def _convnext(trunk: MapTrunk) -> Form:
    model: Any = trunk.model
    arch = trunk.wish.arch
    if not isinstance(model, ConvNeXt):
        raise _refused(arch, "is no model of its")
    stages: list[Any] = [*model.stages]
    stem: Any = model.stem
    blocks = [block for stage in stages for block in stage.blocks]
    state = trunk.state_dict()
    first = blocks[0]
    responds = isinstance(first.mlp, GlobalResponseNormMlp)  # ConvNeXt V2
    kind: Any = GlobalResponseNormMlp if responds else Mlp
    odd = {
        "has another perceptron": any(type(b.mlp) is not kind or not _gelu(b.mlp) for b in blocks),
        "is wider or narrower inside": any(len(b.mlp.fc1.weight) != 4 * len(b.mlp.fc2.weight) for b in blocks),
        "has a norm in its perceptron": not responds and any(not isinstance(b.mlp.norm, nn.Identity) for b in blocks),
        "has other kernels": any((b.conv_dw.kernel_size, b.conv_dw.dilation) != ((7, 7), (1, 1)) for b in blocks),
        "has no biases": any(b.conv_dw.bias is None for b in blocks),
        "has a norm before its pooling": not isinstance(model.norm_pre, nn.Identity),
        "scales its blocks otherwise": any((b.gamma is None) != responds for b in blocks),
        "projects what passes its blocks by": any(not isinstance(b.shortcut, nn.Identity) for b in blocks),
        "has another stem": len(stem) != 2 or stem[0].kernel_size != stem[0].stride,
        f"is read on a grid of {trunk.patch} pixels, which is not its last map's": trunk.patch
        != model.feature_info[-1]["reduction"],
    }
    for why, true in odd.items():
        if true:
            raise _refused(arch, why)
    tensors = {}
    for name, tensor in state.items():
        for ours, theirs in CONVNEXT:
            name = re.sub(ours, theirs, name)
        if ".pwconv" in name:
            tensor = tensor.flatten(1) if name.endswith("weight") else tensor  # a convolution of one pixel is a matrix
        tensors[name] = tensor.view(1, 1, 1, -1) if ".grn." in name else tensor
    config = {
        "model_type": "convnextv2" if responds else "convnext", "depths": [len(stage.blocks) for stage in stages],
        "hidden_sizes": [stage.blocks[0].conv_dw.out_channels for stage in stages], "num_channels": 3,
        "num_stages": len(stages), "patch_size": stem[0].stride[0], "hidden_act": "gelu",
        "layer_norm_eps": 1e-6, "drop_path_rate": 0.0, "image_size": trunk.grid[0] * trunk.patch,
    }  # fmt: skip
    lines = "summary, patches = said.pooler_output, said.last_hidden_state.flatten(2).mT\n"
    return Form("ConvNextV2Model" if responds else "ConvNextModel", config, tensors, lines)
