"""transformers: a folder for `AutoModel.from_pretrained`, without remote code, and its preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from unicscale.data.once import CROP_SHARE
from unicscale.interop import hf_names
from unicscale.interop.exports.hf_forms import other_form
from unicscale.interop.exports.plain import Plain, dinov2_layout, plain
from unicscale.interop.exports.target import Target, Wishes, resized_by_size, stored
from unicscale.interop.opened import Opened
from unicscale.student.trunk import Grid

CLASSES = {"vit": "ViTModel", "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}


class Transformers(Target):
    """ViT, DINOv2's with scales or registers, DINOv3's, ConvNeXt; fp16 weights make it compute in fp16."""

    name, library, needs, half_computes, of_three = "hf", "transformers", ("transformers",), True, True

    def write(self, opened: Opened, folder: Path, wishes: Wishes) -> None:
        """config.json, preprocessor_config.json and model.safetensors."""
        form = other_form(opened)
        if form is None:
            told = plain(opened, self.name)
            model = model_of(told)
            state = opened.student.trunk.state_dict() if model == "vit" else dinov2_layout(opened)
            tensors, of = hf_names.from_timm(state, model), config(told, model)
        else:
            tensors, of = form.tensors, form.config | {"architectures": [form.architecture]}
        of["torch_dtype"] = "float16" if wishes.half else "float32"
        save_file(stored(tensors, wishes.half), folder / "model.safetensors", {"format": "pt"})
        for name, said in (("config", of), ("preprocessor_config", preprocessor(opened))):
            (folder / f"{name}.json").write_text(json.dumps(said, indent=2) + "\n")

    def use(self, opened: Opened, wishes: Wishes) -> str:
        """`AutoModel`, from the folder."""
        if (form := other_form(opened)) is not None:
            return (
                "from transformers import AutoModel\n\n"
                'model = AutoModel.from_pretrained("DIR").eval()\n'
                f"said = model(pixel_values=images)\n{form.tokens}"
            )
        prefix, vit = opened.student.trunk.prefix, model_of(plain(opened, self.name)) == "vit"
        loading = ", add_pooling_layer=False" if vit else ""
        calling = ", interpolate_pos_encoding=True" if vit else ""  # the others do it unasked
        return (
            "from transformers import AutoModel\n\n"
            f'model = AutoModel.from_pretrained("DIR"{loading}).eval()\n'
            f"tokens = model(pixel_values=images{calling}).last_hidden_state\n"
            f"summary, patches = tokens[:, 0], tokens[:, {prefix}:]\n"
        )

    def positions(self, opened: Opened, table: Tensor, old: Grid, new: Grid) -> Tensor:
        """By size; with antialias in the model with registers."""
        return resized_by_size(table, old, new, antialias=opened.student.trunk.prefix > 1)

    def note(self, opened: Opened) -> str:
        """How pictures become `images`."""
        return (
            'Pictures become `images` by `AutoImageProcessor.from_pretrained("DIR")(pictures, return_tensors="pt")'
            '["pixel_values"]`.'
        )


def model_of(told: Plain) -> str:
    """The plainest of transformers' ViTs that says it."""
    if told.registers:
        return "dinov2_with_registers"
    return "dinov2" if told.layer_scale or told.swiglu else "vit"


def config(told: Plain, model: str) -> dict[str, Any]:
    """config.json; every number is said."""
    said: dict[str, Any] = {
        "architectures": [CLASSES[model]], "model_type": model, "hidden_size": told.width,
        "num_hidden_layers": told.depth, "num_attention_heads": told.heads, "image_size": told.size,
        "patch_size": told.patch, "num_channels": 3, "qkv_bias": told.qkv_bias, "layer_norm_eps": 1e-6,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    if model == "vit":
        return said | {"intermediate_size": told.hidden}
    more = {"use_swiglu_ffn": told.swiglu, "layerscale_value": 1.0, "drop_path_rate": 0.0}
    # of SwiGLU it takes two thirds of this, in whole eights: the published models' rule
    ratio = 4 if told.swiglu else told.hidden / told.width
    more |= {"mlp_ratio": int(ratio) if ratio == int(ratio) else ratio}
    return said | more | ({"num_register_tokens": told.registers} if told.registers else {})


def preprocessor(opened: Opened) -> dict[str, Any]:
    """preprocessor_config.json: the shorter side to size * 256 / 224, the centre cut out."""
    return {
        "image_processor_type": "BitImageProcessor", "do_convert_rgb": True, "do_resize": True, "resample": 3,
        "size": {"shortest_edge": round(opened.size / CROP_SHARE)}, "do_center_crop": True,
        "crop_size": {"height": opened.size, "width": opened.size}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(opened.mean), "image_std": list(opened.std),
    }  # fmt: skip
