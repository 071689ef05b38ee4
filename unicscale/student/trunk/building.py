"""From `student:` to a trunk on meta: plain ViTs, ViTs that turn, and every other encoder of timm by its maps."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from unicscale.errors import RecipeError, nearest
from unicscale.recipe.sections import COLOURS, SHORT_NAMES, Channels, Student
from unicscale.student.stem import ConvolutionStem
from unicscale.student.trunk.base import Trunk
from unicscale.student.trunk.dropping import refuse_unkeyed
from unicscale.student.trunk.maps import build_maps
from unicscale.student.trunk.plain import PlainViT
from unicscale.student.trunk.positions import check_size
from unicscale.student.trunk.rope import RopeViT
from unicscale.student.trunk.timm_model import Wish

REFUSALS = (TypeError, AssertionError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError)


def build_trunk(section: Student, size: int, channels: Channels = COLOURS) -> Trunk:
    """The student's trunk for `size` pixels, on meta; `student.initial` says what fills it."""
    refuse_unkeyed(section.options)
    if (said := section.options.get("in_chans", channels.count)) != channels.count:
        raise RecipeError(
            f"student.options.in_chans: {said!r}, and images have {channels.count}: data.channels says which.\n"
            "  Leave in_chans out; write data.channels: {mean: [...], std: [...]}, one number each for every channel."
        )
    if channels.count != 3:
        section = section.model_copy(update={"options": section.options | {"in_chans": channels.count}})
    if section.patch:
        check_size(size, section.patch)
    trunk = _built(section, size)
    trunk.channels = channels
    return trunk


def _built(section: Student, size: int) -> Trunk:
    kind = VisionTransformer if section.arch in SHORT_NAMES else kind_of(section)
    if kind is VisionTransformer:
        return _plain(section, size)
    return _rope(section, size) if kind is Eva else build_maps(section, size)


def kind_of(section: Student) -> type | None:
    """Which of our trunks an architecture of timm is; None: it is read by its maps."""
    if not timm.is_model(section.arch):
        hint = nearest(section.arch, [*SHORT_NAMES, *timm.list_models()])
        raise RecipeError(
            f"student.arch: '{section.arch}' is neither {', '.join(SHORT_NAMES)} nor a model of timm.{hint}"
        )
    model = _asked(section, Wish(section.arch, {}).weightless)
    if is_plain(model):
        return VisionTransformer
    return Eva if isinstance(model, Eva) and model.cls_token is not None else None


def is_plain(model: nn.Module) -> bool:
    """One CLS, learned positions, one patch matrix: what UNIC's students are."""
    if not isinstance(model, VisionTransformer) or hasattr(model, "dist_token"):
        return False
    return model.cls_token is not None and model.pos_embed is not None and isinstance(model.patch_embed, PatchEmbed)


def _asked(section: Student, build: Any) -> Any:
    try:
        return build()
    except REFUSALS as problem:
        raise RecipeError(f"student: timm cannot build '{section.arch}' with {section.options}: {problem}") from problem


def _plain(section: Student, size: int) -> Trunk:
    arguments: dict[str, Any] = dict(img_size=size, num_classes=0, global_pool="token", drop_path_rate=0.0)
    if section.patch:
        arguments["patch_size"] = section.patch
    if section.registers:
        # as DINOv2's register models in timm: positions are for patches only
        arguments |= dict(reg_tokens=section.registers, no_embed_class=True)
    if section.layer_scale:
        arguments["init_values"] = section.layer_scale
    if section.stem == "convolutions":
        arguments["embed_layer"] = ConvolutionStem
    with torch.device("meta"):
        vit = _asked(section, partial(_create, section.arch, arguments | section.options))
    vit.patch_embed.flatten = True  # architectures that timm makes for changing sizes keep a map
    check_size(size, vit.patch_embed.patch_size[0])
    if not len(vit.blocks):
        raise RecipeError("student.options.depth: a student has at least one block.")
    if section.options:  # timm takes whatever it is given, and trips over some of it when it sees an image
        with torch.device("meta"), torch.no_grad():
            _asked(section, partial(vit, torch.empty(1, section.options.get("in_chans", 3), size, size)))
    return PlainViT(vit, section.drop_path)


def _create(arch: str, arguments: dict[str, Any]) -> nn.Module:
    if arch in SHORT_NAMES:
        width, depth, heads = SHORT_NAMES[arch]
        shape: dict[str, Any] = dict(embed_dim=width, depth=depth, num_heads=heads)
        return VisionTransformer(**shape | arguments)
    return timm.create_model(arch, pretrained=False, **arguments)


def _rope(section: Student, size: int) -> Trunk:
    if section.stem != "patch":
        raise RecipeError(f"student.stem 'convolutions' is for plain ViTs; '{section.arch}' has its own.")
    arguments: dict[str, Any] = dict(img_size=size, dynamic_img_size=True, global_pool="token")
    for key, theirs in (("patch", "patch_size"), ("registers", "num_reg_tokens"), ("layer_scale", "init_values")):
        if value := getattr(section, key):
            arguments[theirs] = value
    wish = Wish(section.arch, arguments | section.options)
    eva = _asked(section, wish.weightless)
    check_size(size, eva.patch_embed.patch_size[0])
    return RopeViT(eva, wish, section.drop_path)
