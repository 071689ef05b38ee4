"""The same for every engine: weigh the gradient, clip, refuse what is not finite, AdamW. The host never looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from unicscale.engine.pieces import Piece
from unicscale.ranks.world import World
from unicscale.recipe.plan import decays
from unicscale.recipe.sections import EngineSection

FIRST_SCALE, GROW_EVERY = 128.0, 2000  # fp16 only: low, because losses are sums over images
MOMENTS = ("exp_avg", "exp_avg_sq")


class Verdict(NamedTuple):
    """What a step does with the gradient; scalars that stay on the device."""

    norm: Tensor  # of the true global gradient, before clipping
    divisor: Tensor  # gradients as they lie / divisor = what AdamW sees
    broken: Tensor  # 1.0 where the norm is not finite, on all ranks alike

    def at(self, home: torch.device) -> Verdict:
        """Where AdamW works; waits where that is another device: fused AdamW reads before its own copy is there."""
        return Verdict(self.norm, self.divisor.to(home), self.broken.to(home))


class Judge:
    """Global weight, global norm, clipping, loss scale: one all-reduce of two numbers."""

    def __init__(self, section: EngineSection, world: World, copies: int) -> None:
        self.clip, self.world, self.copies = section.clip, world, copies  # copies: ranks that hold the same numbers
        fp16 = section.dtype == "fp16"
        self.factor = torch.full((1,), FIRST_SCALE if fp16 else 1.0, device=world.device)
        self.grown = torch.zeros(1, device=world.device, dtype=torch.int32) if fp16 else None

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to differentiate: small fp16 gradients vanish without a factor."""
        return loss if self.grown is None else loss * self.factor[0]

    def __call__(self, gradients: list[Tensor], weight: Tensor, *, averaged: bool) -> Verdict:
        """From this rank's gradients, already summed (or averaged) over ranks, and this rank's weight."""
        squares = squared_norm(gradients).to(weight.device) if gradients else weight.new_zeros(())
        sums = self.world.all_sum(torch.stack([squares / self.copies, weight.detach().float()]))
        divisor = sums[1] * self.factor[0] / (self.world.size if averaged else 1)
        norm = sums[0].sqrt() / divisor
        if self.clip is not None:
            divisor = divisor * (norm / self.clip).clamp(min=1.0)
        broken = (~torch.isfinite(norm)).float()
        if self.grown is not None:
            torch._amp_update_scale_(self.factor, self.grown, broken.reshape(1), 2.0, 0.5, GROW_EVERY)
        return Verdict(norm, divisor, broken)

    def state(self) -> dict[str, Piece]:
        """The loss scale, where there is one."""
        if self.grown is None:
            return {}
        return {"optimizer/scale": Piece(self.factor, 0, (1,)), "optimizer/grown": Piece(self.grown, 0, (1,))}


def squared_norm(tensors: list[Tensor]) -> Tensor:
    """Of all of them together, in fp32."""
    if tensors[0].is_cuda:
        return torch.stack(torch._foreach_norm(tensors)).square().sum()
    # the CPU's norm adds one number after the other: 2e-4 off at 6 M numbers; its sum is a tree
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum()


class Average:
    """The exponential average of the trained weights, for evaluation and export; empty where the recipe wants none."""

    def __init__(self, decay: float | None, pieces: dict[str, Piece]) -> None:
        self.rate = 1 - decay if decay else 0.0
        self.pieces = pieces if decay else {}
        self.held = {name: torch.empty_like(piece.flat) for name, piece in self.pieces.items()}

    def start(self) -> None:
        """The average of one value is that value."""
        for name, piece in self.pieces.items():
            self.held[name].copy_(piece.flat)

    def follow(self) -> None:
        """One step behind the weights."""
        if self.held:
            torch._foreach_lerp_(list(self.held.values()), [p.flat for p in self.pieces.values()], self.rate)

    def state(self) -> dict[str, Piece]:
        """As `ema/NAME`."""
        return {f"ema/{n}": Piece(t, self.pieces[n].start, self.pieces[n].shape) for n, t in self.held.items()}


def fresh_state(name: str, part: Tensor, moments: dict[str, Piece]) -> dict[str, Tensor]:
    """What AdamW would make in its first step, made now: checkpoints are read before it."""
    held = {kind: moments.pop(f"{kind}/{name}", None) for kind in MOMENTS}
    state = {kind: torch.zeros_like(part) if piece is None else piece.flat for kind, piece in held.items()}
    return state | {"step": torch.zeros((), device=part.device)}


def adamw(
    section: EngineSection, parts: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], rates: Mapping[str, float]
) -> torch.optim.AdamW:
    """Biases and one-dimensional parameters do not decay; positions and CLS do. `rates`: shares of the step's lr."""
    groups: dict[tuple[bool, bool, float], list[Tensor]] = {}
    for name, part in parts.items():
        still = not decays(name, shapes[name])
        groups.setdefault((still, not name.startswith("trunk."), rates.get(name, 1.0)), []).append(part)
    held = [
        {"params": groups[kind], "weight_decay": 0.0 if kind[0] else section.weight_decay}
        | {"of_trunk": not kind[1], "share": kind[2]}
        for kind in sorted(groups)
    ]
    return torch.optim.AdamW(held, lr=0.0, betas=section.betas, eps=section.eps, fused=True)


def order(optimizer: torch.optim.AdamW, lr: float, verdict: Verdict, trunk_rests: bool) -> None:
    """Tell fused AdamW what to do: it divides by grad_scale, and where found_inf is 1 it leaves everything alone."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if trunk_rests and group["of_trunk"] else lr * group["share"]
    optimizer.grad_scale, optimizer.found_inf = verdict.divisor, verdict.broken  # type: ignore[attr-defined]


class Update:
    """AdamW over this rank's pieces of the trained weights, for engines that leave the optimiser to us."""

    def __init__(
        self,
        section: EngineSection,
        pieces: dict[str, Piece],
        rates: Mapping[str, float],
        device: torch.device,
        moments: dict[str, Piece],
    ) -> None:
        """`moments` of an earlier optimiser over the same pieces become this one's, and are taken out of there."""
        self.pieces = pieces
        self.parts = {n: p.flat for n, p in pieces.items() if p.flat.numel()}  # fused kernels want no empty tensors
        self.states = {n: fresh_state(n, p.flat, moments) for n, p in pieces.items()}
        self.steps = torch.zeros(1, device=device)
        self.inner = None
        if self.parts:
            self.inner = adamw(section, self.parts, {n: p.shape for n, p in pieces.items()}, rates)
            self.inner.state.update({part: self.states[n] for n, part in self.parts.items()})

    def __call__(self, gradients: dict[str, Tensor], lr: float, verdict: Verdict, trunk_rests: bool = False) -> None:
        """One step; the gradients are spent."""
        if self.inner is None:
            return
        for name, part in self.parts.items():
            part.grad = gradients[name]
        order(self.inner, lr, verdict, trunk_rests)
        self.inner.step()
        for part in self.parts.values():
            part.grad = None

    def state(self) -> dict[str, Piece]:
        """Moments by name, and the number of steps once: every parameter has taken the same."""
        for name in self.parts:
            self.steps.copy_(self.states[name]["step"])
            break
        held = {f"{kind}/{n}": Piece(s[kind], *self.pieces[n][1:]) for kind in MOMENTS for n, s in self.states.items()}
        return held | {"optimizer/step": Piece(self.steps, 0, (1,))}

    def restored(self) -> None:
        """Every parameter counts its steps for itself."""
        for state in self.states.values():
            state["step"].copy_(self.steps[0])
