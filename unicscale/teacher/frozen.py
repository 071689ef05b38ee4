"""One frozen teacher: its module behind a single forward, built on meta, filled from a file that fits it exactly."""

from __future__ import annotations

import itertools
import json
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unicscale.contracts import Features, TeacherSpec, Widths, normalise
from unicscale.engine import fill
from unicscale.errors import TeacherError
from unicscale.ranks.world import World
from unicscale.recipe.sections import TeacherSection
from unicscale.student.trunk.weightless import weightless
from unicscale.teacher import door, files, weights
from unicscale.teacher.blame import named
from unicscale.teacher.described import Described, describe
from unicscale.teacher.options import literals
from unicscale.teacher.plugin import Teacher

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Frozen(nn.Module):
    """One teacher's module behind one forward: the only entry that sharded modules allow."""

    def __init__(
        self, plugin: Teacher, options: Any, name: str, widths: Widths | None = None, channels: list[int] | None = None
    ) -> None:
        super().__init__()
        self.plugin, self.options, self.name, self.channels = plugin, options, name, channels
        with named(name, plugin, "spec"):
            self.spec: TeacherSpec = plugin.spec(options)
        self.widths = widths or self.spec.widths  # of the tokens that a student is to match
        with torch.device("meta"), named(name, plugin, "build"):
            self.module = plugin.build(options)
        self.looked = True  # at floats, once; in a run there is nothing to look for, and no step may wait
        self.requires_grad_(False).eval()

    @property
    def meaning(self) -> str:
        """What decides its answers beside its weights: two teachers of one file may differ in this alone."""
        said = {"options": self.options.model_dump(), "mean": self.spec.mean, "std": self.spec.std}
        said |= {"channels": self.channels, "blue first": self.spec.blue_first}
        return json.dumps(said, sort_keys=True, default=str)

    def train(self, mode: bool = True) -> Frozen:
        """A teacher never trains."""
        return super().train(False)

    def forward(self, images: Tensor) -> Features:
        """Tokens of uint8 pixels, or of floats that are already in this teacher's normalisation."""
        if not isinstance(images, Tensor):
            raise TeacherError(
                f"teacher '{self.name}' is shown tensors, (B, 3, H, W): uint8, or floats in its own normalisation; "
                f"this is a {type(images).__name__}.\n"
                "  Students open pictures themselves; `unicscale features` does it for both."
            )
        door.refuse_pixels(self.name, self.spec, images)
        if not images.dtype.is_floating_point:
            images = normalise(self.colours(images), self.spec.mean, self.spec.std)
        elif not self.looked and not torch.compiler.is_compiling():
            door.refuse_unnormalised(images, self.spec.mean, self.spec.std, "model.spec.mean and model.spec.std", 5)
            self.looked = True
        dtype = next((p.dtype for p in self.module.parameters() if p.dtype.is_floating_point), torch.float32)
        # its own copy: what a teacher does to its images is no other teacher's affair
        images = images.to(dtype, copy=True)
        with named(self.name, self.plugin, "forward"):
            said = self.plugin.forward(self.module, images)
        return door.checked(said, self.name, self.spec, images)

    def colours(self, images: Tensor) -> Tensor:
        """Of images (B, C, H, W) its three colours in its order: of those that it was told, else of the first three."""
        chosen, count = self.channels or [0, 1, 2], images.shape[1]
        if self.channels is None and count == 3:
            return images.flip(1) if self.spec.blue_first else images
        if max(chosen) >= count:
            raise TeacherError(
                f"teacher '{self.name}' sees three channels, here {chosen}, and these images have {count}, from 0.\n"
                f"  Say which are its red, green and blue: teachers.{self.name}.channels: [0, 0, 0]"
            )
        chosen = chosen[::-1] if self.spec.blue_first else chosen
        return torch.stack([images[:, channel] for channel in chosen], dim=1)  # by an index the host would wait

    def classify(self, summary: Tensor) -> Tensor:
        """Logits of the teacher's own classifier: (B, D) -> (B, classes)."""
        return self.plugin.classify(self.module, summary)

    def embed(self, summary: Tensor) -> Tensor:
        """Its image embedding, comparable with `embed_text`: (B, D) -> (B, E), not normalised."""
        return self.plugin.embed(self.module, summary)

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Its text embedding: (B, L) int64 -> (B, E), not normalised."""
        return self.plugin.embed_text(self.module, tokens)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Texts as its text encoder reads them: -> (B, L) int64."""
        return self.plugin.tokenize(self.options, texts)


def open_teacher(
    name: str, weights: str | Path | None = None, options: Mapping[str, Any] | None = None, *, device: str = "cpu"
) -> Frozen:
    """One teacher by itself, frozen, in eval mode and fp32: takes uint8 or its own normalised floats, gives Features.

    `options` are the keys of its section in a recipe; `weights`, where given, wins over those among them.
    For evaluation the result also offers `classify(summary)`, `embed(summary)`, `embed_text(tokens)` and
    `tokenize(texts)`, where the plug-in has them; MetaCLIP and CLIP carry the text tower with `options={"text": True}`.
    """
    said = dict(options or {}) if weights is None else {**(options or {}), "weights": str(weights)}
    section = TeacherSection.model_validate(said)
    return open_frozen(name, section, device)


def frozen_of(name: str, section: TeacherSection) -> Frozen:
    """The teacher that a section describes, on meta, without weights."""
    described = describe(name, section)
    return Frozen(described.plugin, described.options, name, described.widths, section.channels)


def open_frozen(name: str, section: TeacherSection, device: str = "cpu") -> Frozen:
    """One teacher by itself, whole, filled, in fp32 unless the section says otherwise."""
    one = frozen_of(name, section)
    cast(one.module, DTYPES.get(section.dtype, torch.float32))
    state = state_of(one, section)
    one.to_empty(device=device)
    fill(one.module, state, World())
    one.looked = False  # whoever shows it floats normalised them, or did not
    return one


def state_of(one: Frozen, section: TeacherSection) -> Mapping[str, Tensor]:
    """Every value of the module, by its name: from the file that the section means, matched strictly."""
    buffers = real_buffers(one.plugin, one.options) if any(True for _ in one.module.buffers()) else {}
    if section.weights == "random":
        return ChainMap(weights.RandomState(one.module), buffers)  # type: ignore[arg-type]  (drawn one at a time)
    with named(one.name, one.plugin, "own_state"):
        own = one.plugin.own_state(one.options) if section.weights == "auto" else None
    if own is not None:
        weights.match(own, one.module, f"teacher '{one.name}'")
        return ChainMap(own, buffers)
    path = files.require(Described(one.name, section, one.plugin, one.options, one.spec).wanted, one.name)
    what = f"teacher '{one.name}': {path}"
    held = weights.read(path)
    state = renamed(one, held, what)
    try:
        weights.match(state, one.module, what)
    except TeacherError as problem:
        raise TeacherError(f"{problem}{_other_options(one, held)}") from problem
    weights.refuse_untrained(state, what)
    return ChainMap(state, buffers)


def renamed(one: Frozen, state: dict[str, Any], what: str) -> dict[str, Tensor]:
    """An official file's entries under the module's names; a file that confuses the plug-in is the wrong file."""
    try:
        state = one.plugin.rename(state)
    except TeacherError as problem:
        raise TeacherError(f"{what}: {problem}") from problem
    except (KeyError, AttributeError, TypeError, IndexError, RuntimeError) as problem:
        raise TeacherError(
            f"{what} does not fit: the plug-in could not rename its entries ({type(problem).__name__}: {problem})\n"
            f"  it holds: {', '.join(sorted(map(str, state))[:6])} ..."
        ) from problem
    without = one.plugin.leaves_out(one.options)
    return {n: t for n, t in state.items() if not (without and n.startswith(without))}


def _other_options(one: Frozen, held: dict[str, Any]) -> str:
    """`"  It is the file of size: small."`, where other options of the plug-in fit the file."""
    fields = one.plugin.Options.model_fields
    choices = {n: (False, True) if f.annotation is bool else literals(f.annotation) for n, f in fields.items()}
    choices = {n: values for n, values in choices.items() if values}
    for values in itertools.product(*choices.values()):
        changed = dict(zip(choices, values, strict=True))
        try:
            other = Frozen(one.plugin, one.options.model_copy(update=changed), one.name)
            weights.match(renamed(other, held, ""), other.module, "")
        except TeacherError:
            continue
        return "\n  It is the file of " + ", ".join(f"{n}: {str(v).lower()}" for n, v in changed.items()) + "."
    return ""


def real_buffers(plugin: Teacher, options: Any) -> dict[str, Tensor]:
    """The values of buffers that no file holds (masks, rotary tables)."""
    return dict(weightless(lambda: plugin.build(options)).named_buffers())


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Parameters; of the buffers only statistics of batch norms: rotary tables keep the precision they were made in."""
    for parameter in module.parameters():
        if parameter.dtype.is_floating_point:
            parameter.data = parameter.data.to(dtype)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):  # its products refuse two precisions
            for name, buffer in part.named_buffers(recurse=False):
                if buffer.dtype.is_floating_point:
                    setattr(part, name, buffer.to(dtype))
