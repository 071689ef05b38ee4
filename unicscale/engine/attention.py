"""Which of torch's attention kernels each model asks first: measured when a run begins on a GPU, and kept for the run.

models on meta -> what each asks of attention, at every size -> a time per kernel -> a choice, in `attention.json`

On a host nothing is measured, for runs there are repeated to the bit: in bf16, torch's one kernel takes two to four
times as long as the products written out, and is left out; in fp32 both take as long.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from unicscale.engine.base import DTYPES
from unicscale.errors import RunError
from unicscale.ranks.device import settled
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.recipe import Recipe
from unicscale.recipe.plan import share
from unicscale.student.model import Student
from unicscale.student.trunk.timm_model import wholly_on_meta

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
TORCH = "torch"  # its own order
PLAIN = "plain"  # no kernel: two products and a softmax
WORTH = 0.98  # of the time of torch's own order: what gains less is noise
NAME = "attention.json"
WARM, TIMED, ROUNDS = 3, 10, 3  # calls of a kernel before it is timed, in a round, and rounds, of which the best counts

Chosen = dict[str, dict[int, str]]  # model -> pixels a side -> kernel


class Call(NamedTuple):
    """What a forward asks of attention once."""

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    mask: tuple[int, ...] | None
    causal: bool
    dtype: torch.dtype
    learns: bool  # whether a backward follows


class Model(NamedTuple):
    """Whoever computes attention."""

    modules: Sequence[nn.Module]  # before whose forward its kernel is put first
    on_meta: Callable[[int], nn.Module]  # the same without numbers, for so many pixels a side
    channels: int
    sides: Sequence[int]  # of the images that it is shown
    dtype: torch.dtype
    learns: bool


Time = Callable[[str, Call], float | None]  # None where the kernel cannot


def settle(
    recipe: Recipe, world: World, folder: Path, student: Student, current: Any, teachers: Mapping[str, Model],
    *, resumed: bool, time: Time | None = None,
) -> Chosen:  # fmt: skip
    """Every model asks its kernel first from now on. `student` is the blueprint, `current` what was built from it.

    Rank 0 measures and everybody hears; a run that goes on keeps the choice it began with, or that it had none.
    """
    section = settled(recipe.engine, world.device)
    on_gpu = world.device.type == "cuda"
    if section.attention == TORCH or (section.deterministic and on_gpu and section.attention != PLAIN):
        return {}
    models = {"student": student_of(recipe.sizes, DTYPES[section.dtype], student, current), **teachers}
    if section.attention != "auto":
        chosen: Chosen = {name: dict.fromkeys(model.sides, section.attention) for name, model in models.items()}
    else:
        images = share(recipe.data.images_per_step, world.size, recipe.data.micro_batch)[0]
        choose = (lambda: measured(models, images, time)) if on_gpu else (lambda: suited(models))
        chosen = world.on_main(lambda: _kept(folder / NAME, resumed, choose))
        if chosen:
            say.info("attention: %s", ", ".join(f"{n} at {s}: {k}" for n, of in chosen.items() for s, k in of.items()))
    for name, model in models.items():
        if PLAIN in chosen.get(name, {}).values():
            write_out(model)
    if on_gpu and chosen:
        _order(models, chosen)
    return chosen


def _order(models: Mapping[str, Model], chosen: Chosen) -> None:
    """Each model's kernel is first from its forward on."""
    # compiled graphs on disk have the kernels that were first when they were made: those of another choice are others
    torch.compiler.config.cache_key_tag += f" attention {chosen}"
    order = Order()
    for name, model in models.items():
        for module in model.modules:
            module.register_forward_pre_hook(order.before(chosen.get(name, {})))


def suited(models: Mapping[str, Model]) -> Chosen:
    """What a host does best."""
    return {name: dict.fromkeys(of.sides, PLAIN) for name, of in models.items() if of.dtype is torch.bfloat16}


def write_out(model: Model) -> None:
    """Products and a softmax in the place of a kernel, in every block that knows both ways."""
    parts: list[Any] = [part for module in model.modules for part in module.modules()]
    for part in parts:
        if hasattr(part, "fused_attn"):
            part.fused_attn = False


def student_of(sizes: Sequence[int], dtype: torch.dtype, student: Student, current: Any) -> Model:
    """Its blueprint is among the modules: a student that is built anew at another size has its blueprint's hooks."""
    trunk = student.trunk
    return Model([current, student], lambda size: trunk.at(size), trunk.channels.count, sizes, dtype, True)


def measured(models: Mapping[str, Model], images: int, time: Time | None = None) -> Chosen:
    """The fastest kernel of every model at every size; what several models ask alike is timed once."""
    timed = cache(time or milliseconds)
    return {
        name: {side: fastest(calls_of(model, side, images), timed) for side in model.sides}
        for name, model in models.items()
    }


def fastest(calls: Sequence[Call], time: Time) -> str:
    """The kernel that can do all of these calls in the least time, where that is less than torch's own order takes."""
    best, least = TORCH, float("inf")
    for name in (TORCH, *BACKENDS):
        times = [time(name, call) for call in calls]
        known = [taken for taken in times if taken is not None]
        total = sum(known) * (1 if name != TORCH else WORTH)
        if calls and len(known) == len(calls) and total < least:
            best, least = name, total
    return best


def calls_of(model: Model, side: int, images: int) -> list[Call]:
    """What one forward asks of attention, heard on meta; nothing where a model needs numbers to compute."""
    heard = _Listener(model.dtype, model.learns)
    twin = wholly_on_meta(model.on_meta(side)).eval()
    try:
        with heard, torch.no_grad():
            twin(torch.empty(images, model.channels, side, side, device="meta"))
    except Exception as problem:  # whatever somebody's encoder trips over on meta: the real forward will tell
        say.warning("attention: not measured at %d pixels: %s", side, problem)
        return []
    return heard.calls


class _Listener(TorchFunctionMode):
    """Hears every call of torch's attention."""

    def __init__(self, dtype: torch.dtype, learns: bool) -> None:
        super().__init__()
        self.dtype, self.learns, self.calls = dtype, learns, list[Call]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._hear(*args, **kwargs)
        return func(*args, **kwargs)

    def _hear(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, **_: Any,
    ) -> None:  # fmt: skip
        mask = None if attn_mask is None else tuple(attn_mask.shape)
        shapes = tuple(query.shape), tuple(key.shape), tuple(value.shape), mask
        self.calls.append(Call(*shapes, is_causal, self.dtype, self.learns))


def first(name: str) -> AbstractContextManager[Any]:
    """This kernel before the others, which follow where it cannot."""
    others = [backend for other, backend in BACKENDS.items() if other != name]
    return sdpa_kernel([BACKENDS[name], *others, SDPBackend.MATH], set_priority=True)


class Order:
    """The order in which torch tries its kernels; it is the process's, so it stays for a backward that computes again.

    Teachers speak before the student in every micro-batch, so the student's order is there from its forward to the end
    of its backward. A compiled forward has the kernel that was first when it was traced, which is the same.
    """

    def __init__(self) -> None:
        self.held, self.now = ExitStack(), TORCH

    def put_first(self, name: str) -> None:
        """Until another is."""
        if name == self.now:
            return
        self.held.close()
        if name in BACKENDS:
            self.held.enter_context(first(name))
        self.now = name

    def before(self, by_side: Mapping[int, str]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        """A hook for a forward of images; a function, because students are copied with their hooks."""

        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            self.put_first(by_side.get(given[0].shape[-1], TORCH))

        return hook


def milliseconds(name: str, call: Call) -> float | None:
    """Of a call on this rank's GPU, with its backward where one follows; None where this kernel cannot do it."""
    only = ExitStack()
    try:
        with only, warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # torch says at length why a kernel cannot
            if name != TORCH:
                only.enter_context(sdpa_kernel(BACKENDS[name]))
            once = _once(call)
            for _ in range(WARM):
                once()
            return min(_round(once) for _ in range(ROUNDS))
    except RuntimeError:
        return None


def _once(call: Call) -> Callable[[], None]:
    made = {"dtype": call.dtype, "device": "cuda"}

    def drawn(shape: tuple[int, ...]) -> Tensor:  # heads lie beside one another within a token, as blocks have them
        turned = len(shape) == 4
        tensor = torch.randn(tuple(shape[i] for i in (0, 2, 1, 3)) if turned else shape, **made)
        return (tensor.transpose(1, 2) if turned else tensor).requires_grad_(call.learns)

    inputs = [drawn(shape) for shape in (call.query, call.key, call.value)]
    mask = None if call.mask is None else torch.zeros(call.mask, **made)

    def once() -> None:
        answer = F.scaled_dot_product_attention(*inputs, attn_mask=mask, is_causal=call.causal)
        if call.learns:
            torch.autograd.grad(answer, inputs, torch.ones_like(answer))

    return once


def _round(once: Callable[[], None]) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(TIMED):
        once()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / TIMED


def _kept(path: Path, resumed: bool, choose: Callable[[], Chosen]) -> Chosen:
    """What the run folder says; else what is chosen now, unless the run began without a choice."""
    if path.exists():
        return _read(path)
    if resumed:
        return {}
    chosen = choose()
    if not chosen:
        return chosen
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(chosen, indent=1) + "\n")
    os.replace(temporary, path)
    return chosen


def _read(path: Path) -> Chosen:
    try:
        held = json.loads(path.read_text())
        found = {name: {int(side): str(kernel) for side, kernel in of.items()} for name, of in held.items()}
        unknown = {kernel for of in found.values() for kernel in of.values()} - {TORCH, PLAIN, *BACKENDS}
    except (OSError, ValueError, AttributeError) as problem:
        raise RunError(
            f"{path} cannot be read: {problem}.\n"
            "  Remove it: a run that goes on then has torch's own order of kernels, a new one measures again."
        ) from problem
    if unknown:
        raise RunError(f"{path} names {sorted(unknown)}; the kernels are {', '.join((TORCH, PLAIN, *BACKENDS))}.")
    return found
