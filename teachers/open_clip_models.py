"""Any image tower that open_clip knows, with the text tower beside it where zero-shot evaluation asks for it."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from unicscale_teachers.asked import Measured, first_line, measure

from unicscale.contracts import CLIP_MEAN, CLIP_STD, TeacherSpec, Weights
from unicscale.errors import TeacherError, nearest
from unicscale.teacher import Teacher, TeacherOptions, entry

log = logging.getLogger("unicscale")

NO_TEXT = {"width": 64, "heads": 1, "layers": 1, "vocab_size": 8, "context_length": 8}  # built, and left out at once


class Options(TeacherOptions):
    model: str = "ViT-B-16"
    """A model of open_clip, as `open_clip.list_models()` writes it."""
    pretrained: str | None = None
    """The tag of its weights: `weights: auto` means their file; their normalisation and activation are used."""
    text: bool = False
    """Keep the text tower too: zero-shot evaluation needs it, distillation does not."""
    settings: dict[str, Any] = {}
    """Changes to `vision_cfg` in the model's configuration."""


class OpenClip(Teacher):
    """A CLIP of open_clip: ViTs give the pooled token before the projection, others the image embedding itself."""

    api_version = 1
    Options = Options
    licence = "as its authors state it"
    small = {
        "model": "ViT-S-16", "text": True, "settings": {"width": 64, "layers": 2, "image_size": 32, "patch_size": 8},
    }  # fmt: skip
    doubt = ""  # what a file of weights should be asked about, once the model is known

    def spec(self, options: Options) -> TeacherSpec:
        known, weights = tag_of(options), None
        if options.pretrained:
            hub = str(known.get("hf_hub") or "").strip("/")
            file = hub if hub.count("/") > 1 else f"{hub}/open_clip_model.safetensors"
            weights = Weights(f"hf:{file}" if hub else known["url"])
        mean, std = tuple(known.get("mean") or CLIP_MEAN), tuple(known.get("std") or CLIP_STD)
        return _measured(options.model_dump_json()).spec(mean, std, self.licence, weights=weights)

    def build(self, options: Options) -> Any:
        from unicscale_teachers.open_clip_towers import Towers

        self.doubt = "" if options.pretrained else doubt(options.model)
        try:
            return Towers(*_clip(options))
        except TeacherError:
            raise
        except Exception as problem:  # settings of a recipe go into constructors of every kind
            raise TeacherError(f"open_clip cannot build '{options.model}': {first_line(problem)}") from problem

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        if self.doubt:
            log.warning("%s", self.doubt)
        held = {name.removeprefix("module."): t for name, t in entry(state).items()}
        held = {name: t for name, t in held.items() if name not in ("logit_scale", "logit_bias")}
        if "visual.proj" in held:
            held["proj"] = held.pop("visual.proj")
        inside = ("visual.", "text.", "proj")
        return {n if n.startswith(inside) else f"text.{n}": t for n, t in held.items()}

    def leaves_out(self, options: Options) -> tuple[str, ...]:
        return () if options.text else ("text.",)

    def embed(self, module: Any, summary: Any) -> Any:
        return summary if module.proj is None else summary @ module.proj

    def embed_text(self, module: Any, tokens: Any) -> Any:
        if module.text is None:
            raise TeacherError("the text tower was not loaded: open this teacher with options={'text': True}.")
        return module.text(tokens)

    def tokenize(self, options: Options, texts: list[str]) -> Any:
        import open_clip

        try:
            return open_clip.get_tokenizer(options.model)(texts)
        except Exception as problem:  # tokenizers of other libraries come from their hub
            raise TeacherError(f"the tokenizer of '{options.model}' cannot be had: {first_line(problem)}") from problem


def config_of(model: str) -> dict[str, Any]:
    """The model's configuration, as open_clip keeps it."""
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        raise TeacherError(f"open_clip has no model '{model}'.{nearest(model, open_clip.list_models())}")
    return config


def tag_of(options: Options) -> dict[str, Any]:
    """What open_clip knows of the tag; without one, of the model's first: nearly all of a model see the same pixels."""
    import open_clip

    config_of(options.model)
    tags = open_clip.list_pretrained_tags_by_model(options.model)
    if options.pretrained and options.pretrained not in tags:
        near = nearest(options.pretrained, tags)
        raise TeacherError(
            f"open_clip has no weights '{options.pretrained}' of '{options.model}'.{near}\n"
            f"  It has: {', '.join(tags) or 'none'}"
        )
    tag = options.pretrained or next(iter(tags), None)
    return dict(open_clip.get_pretrained_cfg(options.model, tag)) if tag else {}


def doubt(model: str) -> str:
    """What to say of a file whose tag nobody named, where the model's tags differ; nothing where they are all alike."""
    import open_clip

    ways: dict[Any, list[str]] = {}
    for tag in open_clip.list_pretrained_tags_by_model(model):
        known = open_clip.get_pretrained_cfg(model, tag)
        way = tuple(known.get("mean") or CLIP_MEAN), tuple(known.get("std") or CLIP_STD), bool(known.get("quick_gelu"))
        ways.setdefault(way, []).append(tag)
    if len(ways) < 2:
        return ""
    kinds = "; ".join(
        f"mean {mean[0]:.3f}, {'QuickGELU' if quick else 'GELU'}: {', '.join(tags[:3])}{' ...' if tags[3:] else ''}"
        for (mean, _, quick), tags in ways.items()
    )
    mean, *_ = next(iter(ways))
    activation = "QuickGELU" if config_of(model).get("quick_gelu") else "GELU"
    return (
        f"open_clip's weights of '{model}' are of {len(ways)} kinds, and nothing in a file says of which it is. Taken: "
        f"mean {mean[0]:.3f}, {activation}. Say `pretrained` beside `weights` to be sure. {kinds}"
    )


def _clip(options: Options) -> tuple[Any, Any | None]:
    """The image tower, and the text tower where it is wanted."""
    import open_clip

    config = config_of(options.model)
    vision = {**config["vision_cfg"], **options.settings, "timm_model_pretrained": False}
    text = config.get("text_cfg", {})
    quick = bool(config.get("quick_gelu"))
    if options.pretrained:  # the activation that these weights were trained with, whatever the model's name says
        quick = bool(tag_of(options).get("quick_gelu", False))
    if not options.text:
        return open_clip.CLIP(config["embed_dim"], vision, NO_TEXT, quick_gelu=quick).visual, None  # type: ignore[arg-type]
    if "hf_model_name" in text:
        raise TeacherError(
            f"the text tower of '{options.model}' is of transformers ({text['hf_model_name']}), and not built here.\n"
            "  Without `text: true` its image tower teaches as any other."
        )
    whole = open_clip.CustomTextCLIP(config["embed_dim"], vision, text, quick_gelu=quick)  # type: ignore[arg-type]
    return whole.visual, whole.text


@lru_cache(maxsize=64)
def _measured(options: str) -> Measured:
    import torch

    said = Options.model_validate_json(options).model_copy(update={"text": False})
    with torch.device("meta"):
        module = OpenClip().build(said).eval()
    size = module.visual.image_size
    return measure(module, max(size) if isinstance(size, list | tuple) else size, f"open_clip's '{said.model}'")
