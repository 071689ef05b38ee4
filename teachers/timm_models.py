"""Any model that timm knows, by its name."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal

from unicscale_teachers.asked import Measured, first_line, measure

from unicscale.contracts import Features, TeacherSpec, Weights
from unicscale.errors import TeacherError
from unicscale.teacher import Teacher, TeacherOptions, entry

# tables of relative positions that are indexed: on meta no index is out of bounds
ONE_SIZE = {"MultiScaleVit"}
# where a constructor takes them, other sizes than the native one are understood
ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False, "dynamic_mask": True}


class Options(TeacherOptions):
    model: str = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    """An architecture of timm, with or without the tag of its weights."""
    layer: int | list[int] = -1
    """Which block or stage, counted from the end where negative; several are put together."""
    combine: Literal["concat", "mean"] = "concat"
    """How several layers are put together; maps of several stages go onto the finest grid among them."""
    pooled: bool = False
    """The head's pooled vector as summary, even where there is a CLS."""
    settings: dict[str, Any] = {}
    """Further arguments of timm.create_model."""


class Timm(Teacher):
    """A model of timm: CLS or the head's pooled vector, and the last map; what it takes is asked of it on meta."""

    api_version = 1
    Options: ClassVar[type[TeacherOptions]] = Options
    licence = "as timm states it"
    norm: ClassVar[bool] = True  # the map after the final norm, where one stands before the head
    summary: ClassVar[bool] = True
    pooled: ClassVar[bool] = False
    head_norm: ClassVar[bool] = False
    small = {
        "model": "vit_tiny_patch16_224",
        "settings": {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8},
    }

    def model(self, options: Any) -> str:
        """timm's full name."""
        return options.model

    def spec(self, options: Any) -> TeacherSpec:
        """Asked of timm itself, so this imports it."""
        name = self.model(options)
        known = _known(name)
        weights = Weights(f"timm:{name}") if known.has_weights else None
        papers = known.paper_ids  # one, or several
        return self.measured(options).spec(
            _three(known.mean, name), _three(known.std, name), known.license or self.licence,
            citation=", ".join([papers] if isinstance(papers, str) else papers or ()), weights=weights,
        )  # fmt: skip

    def measured(self, options: Any) -> Measured:
        """Widths and sizes, asked once a process."""
        return _measured(type(self), options.model_dump_json())

    def build(self, options: Any) -> Any:
        from unicscale_teachers.timm_tokens import Wanted, tokens

        module = _create(self.model(options), options.settings)
        layer = getattr(options, "layer", -1)
        wanted = Wanted(
            tuple(layer) if isinstance(layer, list) else (layer,), getattr(options, "combine", "concat"),
            getattr(options, "pooled", self.pooled), self.norm, self.summary, self.head_norm,
        )  # fmt: skip
        # the one entry that sharded modules allow
        module.forward = partial(tokens, module, wanted)
        return module

    def rename(self, state: dict[str, Any]) -> dict[str, Any]:
        return entry(state)

    def leaves_out(self, options: Any) -> tuple[str, ...]:
        """The classifier, by the names that timm gives it."""
        heads = _known(self.model(options)).classifier or ()
        return tuple(f"{name}." for name in ((heads,) if isinstance(heads, str) else heads))

    def forward(self, module: Any, images: Any) -> Features:
        return module(images)


@lru_cache(maxsize=64)
def _measured(kind: type[Timm], options: str) -> Measured:
    import torch

    plugin, said = kind(), kind.Options.model_validate_json(options)
    name = plugin.model(said)
    with torch.device("meta"):
        module = plugin.build(said).eval()
    size = said.settings.get("img_size") or _known(name).input_size[-1]  # type: ignore[attr-defined]
    if not isinstance(size, int):
        raise TeacherError(f"'settings.img_size: {size}': teachers are shown square images; give one number.")
    found = measure(module, size, f"timm's '{name}'")
    return replace(found, fixed=True, multiple=found.stride) if type(module).__name__ in ONE_SIZE else found


def _known(name: str) -> Any:
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name)
    if known is None:
        raise TeacherError(f"timm knows no model '{name}': `timm.list_models(pretrained=True)` does.")
    return known


def _create(name: str, settings: dict[str, Any]) -> Any:
    """timm's model without its classifier."""
    import timm

    architecture = name.partition(".")[0]
    _known(name)
    if settings.get("in_chans", 3) != 3:
        raise TeacherError(f"'settings.in_chans: {settings['in_chans']}': teachers are shown images of three channels.")
    try:
        return timm.create_model(architecture, num_classes=0, **{**_any_size(architecture), **settings})
    except Exception as problem:  # settings of a recipe go into constructors of every kind
        with_ = f" with settings {json.dumps(settings, default=str)}" if settings else ""
        raise TeacherError(f"timm cannot build '{name}'{with_}: {first_line(problem)}") from problem


@lru_cache(maxsize=256)
def _any_size(architecture: str) -> dict[str, bool]:
    """Those of ANY_SIZE that the architecture's constructor takes."""
    import timm
    import torch

    with torch.device("meta"):
        kind = type(timm.create_model(architecture, num_classes=0))
    takes = inspect.signature(kind.__init__).parameters
    return {key: value for key, value in ANY_SIZE.items() if key in takes}


def _three(values: Any, name: str) -> tuple[float, float, float]:
    if len(values) != 3:
        raise TeacherError(f"timm's '{name}' sees {len(values)} channels; teachers are shown three.")
    red, green, blue = values
    return red, green, blue
