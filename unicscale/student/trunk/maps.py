"""Every other encoder of timm, by `forward_intermediates`: convolutional, hierarchical, windowed, without a CLS."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from unicscale.contracts import Features
from unicscale.errors import RecipeError
from unicscale.recipe.sections import Student
from unicscale.student.trunk.base import First, Trunk
from unicscale.student.trunk.batch_norm import RUNNING, replace_batch_norms
from unicscale.student.trunk.dropping import KeyedDropPath, draw, key_paths, silence
from unicscale.student.trunk.grids import onto, tokens_of
from unicscale.student.trunk.positions import check_size
from unicscale.student.trunk.probing import Form, as_maps, layers_of, outputs_of, probe
from unicscale.student.trunk.timm_model import Wish

TABLE = re.compile(r"(^|\.)(pos_embed\w*|relative_position_bias_table)$")
REFUSALS = (TypeError, AssertionError, ValueError, RuntimeError, AttributeError, KeyError, IndexError)


class MapTrunk(Trunk):
    """One 'block' per stage: its map on the target grid, behind the map's mean, which is its summary.

    It shares its parameters, buffers and children with the model of timm, so that they have timm's names.
    """

    def __init__(self, section: Student, model: nn.Module, wish: Wish, form: Form, size: int, patch: int) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self.model: Any
        object.__setattr__(self, "model", model)  # no child: it would give every parameter a second name
        self.section, self.wish, self.form, self._size = section, wish, form, size
        self.widths, self.prefix = form.widths, form.prefix
        self.patch, self.grid = patch, (size // patch, size // patch)
        self.unread, self.uncovered = form.unread, 0 if getattr(model, "no_embed_class", False) else form.prefix_tokens
        self.tables = tuple(name for name, _ in self.named_parameters() if TABLE.search(name))
        self.paths = [m for m in model.modules() if isinstance(m, KeyedDropPath)]
        self.rates: Tensor | None = None
        self.taken = {(size, size)}
        self._layers: dict[str, int] = {}  # found when asked for

    def train(self, mode: bool = True) -> MapTrunk:
        """The model is no child, so nobody else tells it."""
        self.model.training = mode
        return super().train(mode)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Features]:
        """Normalised images (B, C, H, W) -> stages [(B, prefix + N, width of each)], what the last one ends in."""
        height, width = images.shape[-2:]
        self._refuse_unknown(height, width)
        grid = (height // self.patch, width // self.patch)
        # an engine may hold the weights in bf16 without autocast
        final, stages = outputs_of(self.model, images.to(next(self.model.parameters()).dtype), self.form.with_prefix)
        if self.form.with_prefix:
            blocks = [torch.cat([prefix, tokens], dim=1) for tokens, prefix in stages]
            return blocks, Features(final[:, 0], final[:, self.prefix :])
        maps = as_maps(final, stages[-1], self.form.channels)
        last = stages[-1] if maps is None else maps
        if self.form.ends_in_final:
            stages = [*stages[:-1], last]
        patches = onto(last, grid).flatten(2).mT
        pooled = self.model.forward_head(final, pre_logits=True) if self.form.pools else last.mean((2, 3))
        return [tokens_of(each, grid) for each in stages], Features(pooled, patches)

    def layer_of(self, name: str) -> int:
        """A parameter belongs to the first stage that depends on it; timm says what of that is the stem."""
        if not self._layers:
            stem = getattr(self.model, "group_matcher", lambda: {})().get("stem", "$^")
            patterns = [stem] if isinstance(stem, str) else [first for first, _ in stem]
            found = layers_of(self.model, self._size, self.channels.count)
            every = {n: found.get(n, self.depth + 1) for n, _ in self.named_parameters()}
            self._layers = {n: 0 if any(re.match(p, n) for p in patterns) else layer for n, layer in every.items()}
        return self._layers[name]

    def check(self, size: int) -> None:
        """On meta, once per size."""
        self._refuse_unknown(size, size)

    def _refuse_unknown(self, height: int, width: int) -> None:
        if (height, width) in self.taken:
            return
        for side in (height, width):
            check_size(side, self.patch)
        try:
            probe(ours(self.wish, self.wish.weightless())[0], height, width, self.channels.count, self.training)
        except RecipeError as problem:
            raise RecipeError(
                f"student.arch '{self.wish.arch}', built for {self._size} pixels, "
                f"cannot take {height}x{width}: {problem}"
            ) from problem
        self.taken.add((height, width))

    def at(self, size: int) -> Trunk:
        """Built anew: masks and tables of windows belong to a size."""
        other = build_maps(self.section, size)
        other.channels = self.channels
        for name, parameter in other.named_parameters():
            old = self.get_parameter(name)
            if self.fit(torch.empty(old.shape, device="meta"), parameter.shape) is None:
                raise RecipeError(
                    f"student.arch '{self.wish.arch}': {name} is {tuple(old.shape)} for {self._size} pixels and "
                    f"{tuple(parameter.shape)} for {size}, and no rule brings one to the other. "
                    "Give all stages one size, or take an architecture without such a table."
                )
        return other

    @torch.no_grad()
    def resize_positions(self, size: int) -> None:
        """Built anew around the same parameters."""
        if size == self._size:
            return
        other = self.at(size).train(self.training)
        for path, module in other.named_modules():
            for name, fresh in module._parameters.items():
                if fresh is not None:
                    held = self.get_parameter(f"{path}.{name}".lstrip("."))
                    held.data = self.fit(held, fresh.shape).to(held.dtype)  # type: ignore[union-attr]
                    module._parameters[name] = held
            for name, fresh in module._buffers.items():
                if fresh is not None:
                    old = self.get_buffer(f"{path}.{name}".lstrip("."))
                    module._buffers[name] = old if name in RUNNING else fresh.to(old.device)
        vars(self).update(vars(other))

    def first(self, seed: int) -> First:
        """timm's own."""
        return self.wish.first(seed)

    def set_draws(self, key: tuple[int, int], index: Tensor) -> None:
        """What the next training forward drops: a function of (seed, step), sample (B,) and path."""
        if not self.paths:
            return
        if self.rates is None or self.rates.device != index.device:
            self.rates = torch.tensor([path.rate for path in self.paths], dtype=torch.float64, device=index.device)
        draw(self.paths, self.rates, key, index)


def build_maps(section: Student, size: int) -> Trunk:
    """The stages of any encoder of timm; refused with its own words where it gives none, or not at this size."""
    for key in ("registers", "layer_scale"):
        if getattr(section, key):
            raise RecipeError(f"student.{key} is for ViTs; '{section.arch}' is read by its maps.")
    if section.stem != "patch":
        raise RecipeError(f"student.stem 'convolutions' is for plain ViTs; '{section.arch}' has its own.")
    return copy.deepcopy(_first_that_fits(section.model_dump_json(), size))


@lru_cache(maxsize=8)  # a recipe asks for the same trunk several times, and probing takes seconds
def _first_that_fits(text: str, size: int) -> Trunk:
    section, said = Student.model_validate_json(text), None
    for rate in dict.fromkeys((section.drop_path, 0.0)):  # where paths cannot be dropped by sample, none are
        try:
            return _built(section, size, rate)
        except RecipeError as problem:
            said = said or problem
    raise said or AssertionError


def _built(section: Student, size: int, rate: float) -> Trunk:
    wish, model = accepted(section, size, rate)
    model, notes = ours(wish, model)
    try:
        form = probe(model, size, size, section.options.get("in_chans", 3))
    except RecipeError as problem:
        raise RecipeError(f"student.arch '{section.arch}' cannot learn at {size} pixels: {problem}") from problem
    patch = section.patch or native_patch(model, form, size)
    check_size(size, patch)
    if form.with_prefix and patch != native_patch(model, form, size):
        raise RecipeError(f"student.patch: '{section.arch}' gives tokens of {native_patch(model, form, size)} pixels.")
    trunk = MapTrunk(section, model, wish, form, size, patch)
    if section.drop_path and not trunk.paths:
        notes = [*notes, f"student.drop_path: '{section.arch}' has no path to drop, so none is dropped"]
    trunk.notes = tuple(notes)
    return trunk


def accepted(section: Student, size: int, rate: float) -> tuple[Wish, nn.Module]:
    """What timm takes of what we should like to say: sizes that may change, a size at all, dropped paths."""
    sizes = [{"img_size": size, "dynamic_img_size": True}, {"img_size": size}, {}]
    said: Exception | None = None
    for dropping in [{"drop_path_rate": rate}, {}] if rate else [{}]:
        for one in sizes:
            wish = Wish(section.arch, one | dropping | section.options)
            try:
                return wish, wish.weightless()
            except REFUSALS as problem:
                said = problem
    assert said is not None
    raise RecipeError(f"student: timm cannot build '{section.arch}' with {section.options}: {said}") from said


def ours(wish: Wish, model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A model whose paths are keyed and whose batch norms are ours; and what to say about it."""
    notes: list[str] = []
    key_paths(model)
    if silenced := silence(model):
        notes.append(f"student.arch '{wish.arch}' brings rates of its own in {', '.join(silenced)}: they are 0 here")
    if replace_batch_norms(model):
        notes.append(
            f"student.arch '{wish.arch}' has batch norms: each rank's micro-batch has statistics of its own, "
            "so results depend on how a step is cut into micro-batches"
        )
    return model, notes


def native_patch(model: Any, form: Form, size: int) -> int:
    """Pixels a side of one cell of what it ends in."""
    side = form.sides[-1]
    info = getattr(model, "feature_info", None) or [{}]
    stride = info[-1].get("reduction") if isinstance(info[-1], dict) else None
    if isinstance(stride, int) and side in (size // stride, -(-size // stride)):  # either way of rounding
        return stride
    return max(size // side, 1)
