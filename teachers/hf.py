"""Any vision transformer of Hugging Face's transformers, described by its config.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, Features, TeacherSpec
from unicscale.errors import TeacherError
from unicscale.teacher import Teacher, TeacherOptions, entry

# what a file may hold around the encoder: a classifier, a text tower
AROUND = re.compile(r"classifier\.|text_model\.|text_projection|visual_projection|logit_(scale|bias)|lm_head|pooler\.")
WRAPPERS = re.compile(r"^(vit|dinov2|dinov2_with_registers|dinov3_vit|siglip|model)\.")


class Options(TeacherOptions):
    config: str | dict[str, Any]
    """The folder of a config.json (preprocessor_config.json beside it is read too), or what stands in it."""
    licence: str = "as its model card states it"
    """Goes into model cards."""


class HuggingFace(Teacher):
    """A vision transformer of transformers: `last_hidden_state`; without a CLS the pooled output sums up."""

    api_version = 1
    Options = Options
    licence = "as its model card states it"
    small = {
        "config": {
            "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8,
        }
    }  # fmt: skip

    def config(self, options: Options) -> dict[str, Any]:
        """The vision part of the configuration."""
        if isinstance(options.config, dict):
            whole = options.config
        else:
            file = Path(options.config).expanduser()
            file = file / "config.json" if file.is_dir() else file
            if not file.is_file():
                raise TeacherError(f"'config: {options.config}': {file} does not exist.")
            whole = json.loads(file.read_text())
        return whole.get("vision_config", whole)

    def spec(self, options: Options) -> TeacherSpec:
        config, mean, std = self.config(options), IMAGENET_MEAN, IMAGENET_STD
        beside = Path(str(options.config)).expanduser() / "preprocessor_config.json"
        if isinstance(options.config, str) and beside.is_file():
            pixels = json.loads(beside.read_text())
            mean, std = tuple(pixels.get("image_mean", mean)), tuple(pixels.get("image_std", std))
        return TeacherSpec(
            config["hidden_size"], config["patch_size"], config["image_size"], mean, std, options.licence
        )

    def build(self, options: Options) -> Any:
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError as problem:
            raise TeacherError(
                "the `hf` teacher needs transformers: `uv pip install 'unicscale[export]'`."
            ) from problem
        config = dict(self.config(options))
        return AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        return {WRAPPERS.sub("", n): t for n, t in entry(state).items() if not AROUND.match(WRAPPERS.sub("", n))}

    def forward(self, module: Any, images: Any) -> Features:
        own_size = images.shape[-1] == module.config.image_size
        # DINOv2 and DINOv3 interpolate by themselves and take no such argument
        asked = {} if own_size or module.config.model_type.startswith("dino") else {"interpolate_pos_encoding": True}
        said = module(pixel_values=images, **asked)
        count = (images.shape[-2] // module.config.patch_size) * (images.shape[-1] // module.config.patch_size)
        tokens = said.last_hidden_state  # (B, prefix + N, D)
        prefix = tokens.shape[1] - count
        return Features(tokens[:, 0] if prefix else said.pooler_output, tokens[:, prefix:])
