"""`student.init`: weights from wherever they are, under the names that a trunk of timm's parts has."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from torch import Tensor, nn

from unicscale.checkpoint import committed
from unicscale.errors import CheckpointError, RecipeError, UserError, nearest
from unicscale.interop import foreign, hf_names, native, unic
from unicscale.interop.loading import read
from unicscale.interop.opened import Colour
from unicscale.ranks.voice import say
from unicscale.recipe import sections
from unicscale.recipe.sections import TeacherSection
from unicscale.student.model import Student
from unicscale.student.starting import Start, fit
from unicscale.student.trunk import Trunk
from unicscale.teacher import files
from unicscale.teacher.frozen import frozen_of, state_of
from unicscale.teacher.weights import read as read_safely

State = Mapping[str, Any]
Teachers = Mapping[str, TeacherSection]
WRAPS = re.compile(r"^(module|model|backbone|encoder|trunk|student|teacher|visual|vision_model|0)\.")
DINOV3 = {
    "embeddings.cls_token": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings": "patch_embed.proj",
    "attention.o_proj": "attn.proj",
    "layer_scale1.lambda1": "gamma_1",
    "layer_scale2.lambda1": "gamma_2",
    "mlp.down_proj": "mlp.fc2",
}


def introduce(student: Student, section: sections.Student, teachers: Teachers, *, resumed: bool) -> None:
    """Before its values are asked for: says once what it is and takes, and tells it where to read."""
    for note in student.trunk.notes:
        say.info(note)
    if section.init is None:
        return
    held: dict[str, Tensor] = {}  # of a resumed run, whose checkpoint has everything: nothing is read
    if not resumed:
        start = enough(section, student.trunk, teachers)
        say.info(start.said(section.init))
        held = start.values
    student.source = Source(held, lambda: enough(section, student.trunk, teachers).values)


def refuse_unfit_init(section: sections.Student, trunk: Trunk, teachers: Teachers, out: Path) -> None:
    """Before the run folder is touched; a run that goes on has no use for its source, which may be gone."""
    if section.init and not committed(out / "checkpoints"):
        enough(section, trunk, teachers)


def enough(section: sections.Student, trunk: Trunk, teachers: Teachers) -> Start:
    """What `student.init` gives; refused where it is too little."""
    assert section.init is not None
    start = start_of(section.init, trunk, teachers)
    if not section.init_partial:
        start.refuse_little(section.init)
    return start


class Source:
    """Once what is at hand, then from the disk: a stage that starts from scratch may ask again after days."""

    def __init__(self, held: dict[str, Tensor], read: Callable[[], dict[str, Tensor]]) -> None:
        self.held: dict[str, Tensor] | None = held
        self.read = read

    def __call__(self) -> dict[str, Tensor]:
        """Under the student's names."""
        held, self.held = self.held, None
        return self.read() if held is None else held


class Given(NamedTuple):
    """What a source holds, and of which pixels it was trained, where it says so."""

    state: State
    colours: tuple[Colour, Colour] | None = None


def start_of(source: str, trunk: Trunk, teachers: Teachers) -> Start:
    """The best fit among all the ways in which such weights are named."""
    given, name = _given(source, teachers), f"student.init: {source}"
    best: Start | None = None
    for named in candidates(given.state, trunk):
        found = fit(trunk, named)
        best = found if best is None or found.taken > best.taken else best
    if best is None:
        raise CheckpointError(f"{name} holds no tensors.")
    return replace(best, other_pixels=_other_pixels(given, trunk))


def _other_pixels(given: Given, trunk: Trunk) -> str:
    """That its weights were trained on pixels which are normalised in another way than the student's will be."""
    sees = (tuple(trunk.channels.mean), tuple(trunk.channels.std))
    if (
        given.colours is None
        or len(given.colours[0]) != len(sees[0])
        or np.allclose(given.colours, sees, rtol=0, atol=1e-3)
    ):
        return ""
    (mean, std), (own, _) = (tuple([round(one, 4) for one in part] for part in pair) for pair in (given.colours, sees))
    return (
        f"trained on pixels of mean {mean} and deviation {std}, and the student sees those of mean {own}.\n"
        f"  To see the same: data.channels: {{mean: {mean}, std: {std}}}"
    )


def _given(source: str, teachers: Teachers) -> Given:
    if source.startswith("teacher:"):
        name = source.removeprefix("teacher:")
        if name not in teachers:
            raise RecipeError(
                f"student.init: '{name}' is none of the recipe's teachers, {', '.join(teachers)}."
                f"{nearest(name, list(teachers))}"
            )
        one, section = frozen_of(name, teachers[name]), teachers[name]
        held = state_of(one, section)
        own = [name for name, _ in [*one.module.named_parameters(), *one.module.named_buffers()]]
        return Given({name: held[name] for name in own}, (one.spec.mean, one.spec.std))
    if source.startswith("timm:"):
        file = files.wanted(source, None, None, source)
        if not file.present:
            raise RecipeError(
                f"student.init: the weights are not in the cache: {file.path}\n"
                "  Fetch them where there is a network: "
                f"`unicscale teachers fetch timm model={source.removeprefix('timm:')}`"
            )
        cfg = timm.get_pretrained_cfg(source.removeprefix("timm:"))
        state = read_safely(files.require(file, source), CheckpointError)
        return Given(state, (tuple(cfg.mean), tuple(cfg.std)) if cfg else None)
    return _of_path(Path(source).expanduser())


def _of_path(path: Path) -> Given:
    """A run, an export, an official file of UNIC or of a plain ViT, else the bare tensors."""
    if not path.exists() and "@" not in path.name:
        raise RecipeError(
            f"student.init: {path} is not here. It takes a file or folder of weights, a run, timm:ID or teacher:NAME."
        )
    try:
        opened = read(path, projectors=False)
        said = not path.is_file() or (path.suffix == ".safetensors" and native.describes(path))  # bare weights: silent
        return Given(opened.student.state_dict(), (opened.mean, opened.std) if said else None)
    except CheckpointError:
        inside = next((path / name for name in foreign.WEIGHTS if (path / name).is_file()), path)
        if not inside.is_file():
            raise
        return Given(read_safely(inside, CheckpointError), foreign.colours(path) if path.is_dir() else None)


def candidates(state: State, trunk: Trunk) -> Iterator[dict[str, Tensor]]:
    """The same tensors under each naming that could be timm's."""
    plain = unwrapped(state)
    yield plain
    for rename in (_dinov2, hf_names.to_timm, dinov3_to_timm, lambda held: _by_timm(state, trunk), _of_unic):
        try:
            yield rename(plain)
        except (KeyError, AttributeError, TypeError, IndexError, ValueError, RuntimeError, UserError):
            continue  # it is named in another way


def unwrapped(state: State) -> dict[str, Tensor]:
    """The tensors, without the dictionaries and prefixes that training code wraps around them."""
    for key in ("model_ema", "teacher", "student", "model", "state_dict"):
        if isinstance(state.get(key), Mapping):
            return unwrapped(state[key])
    held = {name: t for name, t in state.items() if isinstance(t, Tensor)}
    while held and (first := WRAPS.match(next(iter(held)))) and all(n.startswith(first[0]) for n in held):
        held = {name.removeprefix(first[0]): t for name, t in held.items()}
    return held


def _dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("trunk."): t for name, t in foreign.timm_names(state).items()}


def _of_unic(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = unic.rename({f"encoder.{name}": t for name, t in state.items()})
    return {name.removeprefix("trunk."): t for name, t in renamed.items()}


def _by_timm(state: State, trunk: Trunk) -> dict[str, Tensor]:
    """timm's own reading of official files, where it has one for this architecture."""
    wish: Any = getattr(trunk, "wish", None)
    model: nn.Module = wish.weightless()
    convert: Callable[..., dict[str, Any]] = vars(sys.modules[type(model).__module__])["checkpoint_filter_fn"]
    return unwrapped(convert(dict(state), model))


def dinov3_to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names of DINOv3's ViTs -> timm's, where query, key and value are one and keys have no bias."""
    renamed: dict[str, Tensor] = {}
    for full, tensor in state.items():
        name = re.sub(r"^(model\.)?layer\.", "blocks.", full)
        for theirs, ours in DINOV3.items():
            name = name.replace(theirs, ours)
        if "_proj" not in name:
            renamed[name] = tensor
        elif name.endswith("q_proj.weight"):
            three = [state[full.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            renamed[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(three)
        elif name.endswith(("q_proj.bias", "v_proj.bias")):
            renamed[re.sub(r"attention\.([qv])_proj\.bias", r"attn.\1_bias", name)] = tensor
        elif "mlp." in name:
            gated = full.replace("up_proj", "gate_proj") in state or "gate_proj" in full
            renamed[name.replace("up_proj", "fc1_x" if gated else "fc1").replace("gate_proj", "fc1_g")] = tensor
    if "cls_token" not in renamed:
        raise KeyError("cls_token")
    return renamed


def weights_at(path: str) -> dict[str, Tensor]:
    """The parameters a stage may start from: a run's, a checkpoint's, an export's, or an official UNIC file's."""
    return {name: value.detach() for name, value in read(path).student.state_dict().items()}
