"""Plain ViTs that others wrote: folders of timm and transformers, bare weights under timm's or DINOv2's names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, of_unit_pixels
from unicscale.errors import CheckpointError
from unicscale.interop import hf_names, native
from unicscale.interop.description import Description
from unicscale.interop.measured import DINOV2, trunk_of, without_first_position
from unicscale.interop.opened import Colour, Opened
from unicscale.ranks.terminal import tell
from unicscale.recipe.sections import Channels
from unicscale.student.model import Student
from unicscale.teacher.weights import read as read_safely

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PIXELS = "preprocessor_config.json"


def is_foreign(path: Path) -> bool:
    """A folder with somebody's config.json, or a safetensors file without our metadata that holds a ViT."""
    if path.is_dir():
        return (path / "config.json").is_file() and not (path / "manifest.json").is_file()
    if path.suffix != ".safetensors" or native.describes(path):
        return False
    return "pos_embed" in read_safely(path, CheckpointError)


def heads_said(facts: Path) -> int | None:
    """The number of attention heads in the facts beside an export: no tensor shows it."""
    said = _json(facts).get("heads")
    return said if isinstance(said, int) else None


def read(path: Path) -> Opened:
    """The encoder; its sizes are read off the tensors, its number of heads off the config where there is one."""
    if not path.is_dir():
        return _opened(path, timm_names(read_safely(path, CheckpointError)), None, IMAGENET_MEAN, IMAGENET_STD)
    config = _json(path / "config.json")
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{path}: there is a config.json, but neither {' nor '.join(WEIGHTS)}.")
    state = read_safely(file, CheckpointError)
    read_config = _timm if "architecture" in config else _transformers
    try:
        weights, heads, mean, std = read_config(path, config, state)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as problem:
        raise CheckpointError(f"{path / 'config.json'}: not a config of a plain ViT: {problem!r}") from problem
    return _opened(path, weights, heads, mean, std)


Said = tuple[dict[str, Tensor], int | None, Colour, Colour]


def _timm(path: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> Said:
    said = config.get("pretrained_cfg") or config
    heads = (config.get("model_args") or {}).get("num_heads")
    if heads is None:  # the architecture's own
        with torch.device("meta"):
            model: Any = timm.create_model(str(config["architecture"]), pretrained=False)
        heads = model.blocks[0].attn.num_heads
    mean, std = _colour(said.get("mean"), IMAGENET_MEAN), _colour(said.get("std"), IMAGENET_STD)
    return timm_names(state), int(heads), mean, std


def _transformers(path: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> Said:
    if config.get("model_type") not in hf_names.MODELS:
        raise CheckpointError(
            f"{path}: '{config.get('model_type')}' is no plain ViT that a student can be "
            f"({', '.join(hf_names.MODELS)}).\n  As a teacher it may serve: `plugin: hf, config: {path}`."
        )
    said = colours(path)
    if said is None and config["model_type"] == "vit":  # Google's saw means of 0.5, Meta's ImageNet's
        tell(f"{path}: without a {PIXELS} nothing says its normalisation; taken: ImageNet's mean and deviation")
    mean, std = said or (IMAGENET_MEAN, IMAGENET_STD)
    weights = hf_names.to_timm({name: t for name, t in state.items() if isinstance(t, Tensor)})
    return timm_names(weights), int(config["num_attention_heads"]), mean, std


def colours(path: Path) -> tuple[Colour, Colour] | None:
    """Mean and deviation of the pixels that a folder of transformers was trained on; None where it does not say."""
    if not (file := path / PIXELS).is_file():
        return None
    said = _json(file)
    try:
        factor = 255.0 * float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 255.0
        if not said.get("do_normalize", True):
            return of_unit_pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), factor)
        mean, std = _colour(said.get("image_mean"), IMAGENET_MEAN), _colour(said.get("image_std"), IMAGENET_STD)
        return of_unit_pixels(mean, std, factor)
    except (TypeError, ValueError, ZeroDivisionError) as problem:
        raise CheckpointError(f"{file}: what it says of pixels is no numbers ({problem}).") from problem


def timm_names(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """`trunk.*`; without mask token and classifier; what DINOv2 names or places otherwise is mended."""
    weights = {}
    for name, tensor in state.items():
        ours = name
        for theirs, mine in DINOV2:
            ours = ours.replace(theirs, mine)
        if isinstance(tensor, Tensor) and ours != "mask_token" and not ours.startswith(("head.", "fc_norm.")):
            weights[f"trunk.{ours}"] = tensor
    if "register_tokens" in state:
        without_first_position(weights)
    return weights


def _opened(path: Path, weights: dict[str, Tensor], heads: int | None, mean: Colour, std: Colour) -> Opened:
    try:
        if (seen := weights["trunk.patch_embed.proj.weight"].shape[1]) != len(mean):
            raise CheckpointError(f"{path}: it sees {seen} channels, and is normalised by the means of {len(mean)}.")
        trunk, section, size = trunk_of(weights, heads, Channels(mean=mean, std=std))
        student = Student(trunk).to_empty(device="cpu")
        student.load_state_dict({name: t.float() for name, t in weights.items()})
    except (KeyError, RuntimeError, ValueError) as problem:
        raise CheckpointError(f"{path}: these are not the weights of a plain ViT: {problem}") from problem
    return Opened(student, size, {}, Description(student=section, mean=mean, std=std), mean, std)


def _colour(said: Any, otherwise: Colour) -> Colour:
    if said is None:
        return otherwise
    return tuple(float(value) for value in said)


def _json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"{path}: cannot be read: {problem}") from None
    if not isinstance(said, dict):
        raise CheckpointError(f"{path}: holds no mapping.")
    return said
