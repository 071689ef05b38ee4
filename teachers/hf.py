"""Any image encoder of Hugging Face's transformers, described by its config.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

from unicscale_teachers import hf_config
from unicscale_teachers.asked import Measured, first_line, measure

from unicscale.contracts import Features, TeacherSpec, Weights
from unicscale.errors import TeacherError
from unicscale.teacher import Teacher, TeacherOptions, entry

# what a file may hold around the encoder: a classifier, a text tower, a decoder
AROUND = re.compile(
    r"(\w*classifier|text_model|text_projection|visual_projection|logit_(scale|bias)|lm_head|pooler|decoder|head)\b"
)
VIDEO = ("videomae", "vivit", "timesformer", "vjepa2")
Triple = tuple[float, float, float]


class Options(TeacherOptions):
    config: str | dict[str, Any]
    """A folder with config.json (preprocessor_config.json beside it is read too), ORG/REPO, or what stands in it."""
    mean: Triple | None = None
    """Of the pixels in 0..1, where no preprocessor_config.json says it."""
    std: Triple | None = None
    """Their deviation."""
    licence: str = "as its model card states it"
    """Goes into model cards."""


class HuggingFace(Teacher):
    """An encoder of transformers: CLS or the pooled output, and the tokens or the map of its last layer."""

    api_version = 1
    Options = Options
    licence = "as its model card states it"
    small = {
        "config": {
            "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8,
        }
    }  # fmt: skip
    names: frozenset[str] = frozenset()  # of the module, once it is built

    def spec(self, options: Options) -> TeacherSpec:
        held = hf_config.read(options.config)
        measured, kinds = _measured(json.dumps(held, sort_keys=True, default=str))
        mean, std = options.mean, options.std
        if mean is None or std is None:
            mean, std = hf_config.normalisation(options.config, kinds)
        hub = isinstance(options.config, str) and hf_config.is_hub_id(options.config)
        weights = Weights(f"hf:{str(options.config).replace('@', '/model.safetensors@')}") if hub else None
        blue_first = hf_config.blue_first(options.config, kinds)
        return measured.spec(mean, std, options.licence, weights=weights, blue_first=blue_first)

    def build(self, options: Options) -> Any:
        held = hf_config.read(options.config)
        which = _measured_class(json.dumps(held, sort_keys=True, default=str))
        module = _entered(list(_makers(hf_config.configuration(held)))[which]())
        self.names = frozenset(module.state_dict())
        return module

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        """The entries of this encoder, wherever the file keeps it; what stands around it is left out."""
        held = entry(state)
        inside = _inside(held, self.names)
        return {n: t for n, t in inside.items() if n in self.names or not AROUND.match(n)}

    def forward(self, module: Any, images: Any) -> Features:
        return module(images)


def _inside(held: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """The entries below the prefix under which most of the module's names are found, without it; or with it before."""
    wanted = max(names, key=lambda name: (name.count("."), name), default="")
    prefixes = {name[: -len(wanted)] for name in held if name == wanted or name.endswith(f".{wanted}")}
    known = [sum(prefix + name in held for name in names) for prefix in sorted(prefixes)]
    if known and max(known):
        prefix = sorted(prefixes)[known.index(max(known))]
        return {name.removeprefix(prefix): t for name, t in held.items() if name.startswith(prefix)}
    outer = {name.partition(".")[0] for name in names}
    added = f"{next(iter(outer))}." if len(outer) == 1 else ""  # the file leaves out the one name that wraps all
    return {added + name: t for name, t in held.items()}


def _makers(whole: Any) -> Iterator[Any]:
    """The ways to the encoder of a configuration, the plainest first."""
    from transformers import AutoBackbone, AutoModel

    vision = hf_config.tower(whole)
    if vision.model_type == "vit_mae":
        vision.mask_ratio = 0.0  # a teacher sees everything
    yield lambda: AutoModel.from_config(vision)
    yield lambda: AutoBackbone.from_config(vision)
    parent = str(vision.model_type).removesuffix("_vision_model")
    if vision is whole and parent != vision.model_type:  # some are known only as a part of what they belong to
        yield lambda: _child_of(parent, vision)
    yield lambda: _child(AutoModel.from_config(whole), vision)


def _child_of(parent: str, vision: Any) -> Any:
    from transformers import AutoConfig, AutoModel

    whole = AutoConfig.for_model(parent)
    whole.vision_config = vision
    return _child(AutoModel.from_config(whole), vision)


def _child(parent: Any, vision: Any) -> Any:
    """The outermost module of a larger model that this configuration describes."""
    for module in parent.modules():
        if getattr(module, "config", None) is vision:
            return module
    raise ValueError(f"no part of {type(parent).__name__} is its image encoder")


def _entered(module: Any) -> Any:
    from unicscale_teachers.hf_tokens import tokens

    module.forward = partial(tokens, module, module.forward)  # the one entry that sharded modules allow
    return module


@lru_cache(maxsize=64)
def _asked(config: str) -> tuple[int, Measured, tuple[str, ...]]:
    """Which way to the encoder answers with tokens, and what it says of itself."""
    import torch

    whole = _configuration(config)
    vision = hf_config.tower(whole)
    kinds = (vision.model_type, whole.model_type)
    if vision.model_type in VIDEO:
        raise TeacherError(f"'{vision.model_type}' sees films and not images: it has no tokens of one.")
    refusals = []
    for number, make in enumerate(_makers(whole)):
        try:
            with torch.device("meta"):
                module = _entered(make()).eval()
            return number, measure(module, hf_config.native(vision), f"transformers' '{vision.model_type}'"), kinds
        except TeacherError as problem:
            refusals.append(str(problem))
        except Exception as problem:  # whatever a foreign class trips over
            refusals.append(f"transformers cannot build '{vision.model_type}': {first_line(problem)}")
    # of several refusals, the one of a class that could be built says most
    raise TeacherError(next((said for said in refusals if "cannot build" not in said), refusals[0]))


def _configuration(config: str) -> Any:
    try:
        import transformers
    except ImportError as problem:
        raise TeacherError("the `hf` teacher needs transformers: `pip install 'unicscale[export]'`.") from problem
    transformers.logging.set_verbosity_error()  # it warns of the text towers' tokens, which nobody builds here
    return hf_config.configuration(json.loads(config))


def _measured(config: str) -> tuple[Measured, tuple[str, ...]]:
    _, measured, kinds = _asked(config)
    return measured, kinds


def _measured_class(config: str) -> int:
    return _asked(config)[0]
