"""Who teaches which image: weights for every (teacher, image) pair, or (teacher, image, token) triple."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unicscale import rng
from unicscale.errors import RecipeError
from unicscale.ranks.world import World
from unicscale.recipe import sections

Sources = list[list[str] | None]  # the teachers that each data set names; None: all of them


class Balance(nn.Module):
    """All teachers weigh the same; subclasses say otherwise. State, where there is any, is in buffers."""

    per_token = False  # True: weights are asked per token, CLS first

    @classmethod
    def of(cls, section: Any, teachers: list[str], sources: Sources) -> Balance:
        """What a recipe asks for, by these teachers on these data sets."""
        return cls()

    def forward(self, losses: Tensor, key: tuple[int, int], index: Tensor, domain: Tensor | None) -> Tensor:
        """Losses (T, B) or (T, B, 1 + N), without graph -> weights that broadcast to them."""
        return torch.ones_like(losses)

    def update(self, world: World | None = None) -> None:
        """Once a step, after its last micro-batch."""


class TeacherDropping(Balance):
    """The worst-answered teacher always teaches; every other is dropped with probability p."""

    def __init__(self, p: float, per: str = "image") -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise RecipeError(f"loss.balance.p is {p}: a probability lies between 0 and 1.")
        self.p, self.per_token = p, per == "patch"

    @classmethod
    def of(cls, section: sections.TeacherDropping, teachers: list[str], sources: Sources) -> Balance:
        """As the recipe says."""
        return cls(section.p, section.per)

    def forward(self, losses: Tensor, key: tuple[int, int], index: Tensor, domain: Tensor | None) -> Tensor:
        """Draws are a function of (seed, step), the sample and the teacher (and the token): not of ranks."""
        teachers, tokens = len(losses), losses[0, 0].numel()
        seed, step = key
        keys = rng.keys_torch(rng.key(seed, rng.Purpose.DROP_TEACHER, step), index.to(losses.device))
        draws = rng.uniforms_torch(keys, tokens * teachers)  # (1 + N) T, B: the first T are those of the image or CLS
        draws = draws.view(tokens, teachers, -1).permute(1, 2, 0).reshape(losses.shape)
        worst = torch.zeros_like(losses, dtype=torch.bool).scatter_(0, losses.max(0, keepdim=True).indices, True)
        return (worst | (draws >= self.p)).to(losses.dtype)


class ManualWeights(Balance):
    """Fixed weights (arXiv:2408.05088, Table K); a teacher that is not named weighs 1."""

    weights: Tensor

    def __init__(self, weights: dict[str, float], teachers: list[str]) -> None:
        super().__init__()
        unknown = sorted(set(weights) - set(teachers))
        if unknown:
            raise RecipeError(f"loss.balance.weights: '{unknown[0]}' is not one of the teachers {', '.join(teachers)}.")
        values = [weights.get(name, 1.0) for name in teachers]
        if not any(values):
            raise RecipeError("loss.balance.weights are all 0: nothing is left to learn from.")
        self.register_buffer("weights", torch.tensor(values), persistent=False)

    @classmethod
    def of(cls, section: sections.ManualWeights, teachers: list[str], sources: Sources) -> Balance:
        """As the recipe says."""
        return cls(section.weights, teachers)

    def forward(self, losses: Tensor, key: tuple[int, int], index: Tensor, domain: Tensor | None) -> Tensor:
        """The same for every image."""
        return self.weights[:, None].expand_as(losses)


class RandomTeacher(Balance):
    """One teacher per batch, drawn uniformly (Fukuda et al.)."""

    def forward(self, losses: Tensor, key: tuple[int, int], index: Tensor, domain: Tensor | None) -> Tensor:
        """Drawn on the host, from (seed, step) alone: all ranks and micro-batches agree."""
        seed, step = key
        chosen = rng.key(seed, rng.Purpose.DROP_TEACHER, step) % len(losses)
        weights = torch.zeros_like(losses)
        weights[chosen] = 1.0
        return weights


class AdaLoss(Balance):
    """Weights inversely proportional to each teacher's running loss, 1 on average."""

    running: Tensor  # (T,) of the steps before this one; 0: none yet
    _sum: Tensor  # (T + 1,) of this step on this rank: losses, and how many images they are of

    def __init__(self, teachers: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running", torch.zeros(teachers))
        self.register_buffer("_sum", torch.zeros(teachers + 1, dtype=torch.float64), persistent=False)

    @classmethod
    def of(cls, section: sections.AdaLoss, teachers: list[str], sources: Sources) -> Balance:
        """As the recipe says."""
        return cls(len(teachers), section.momentum)

    def forward(self, losses: Tensor, key: tuple[int, int], index: Tensor, domain: Tensor | None) -> Tensor:
        """Statistics from before this step, so that micro-batches and ranks agree."""
        if self.training:
            self._sum += torch.cat([losses.double().sum(1), losses.new_full((1,), losses.shape[1]).double()])
        inverse = 1 / self.running.clamp(min=1e-8)
        inverse = torch.where(self.running.min() > 0, inverse / inverse.mean(), torch.ones_like(inverse))
        return inverse[:, None].expand_as(losses)

    @torch.no_grad()
    def update(self, world: World | None = None) -> None:
        """The global batch's mean loss enters the running one; the first replaces it."""
        total = world.all_sum(self._sum) if world is not None else self._sum
        mean = (total[:-1] / total[-1]).float()
        moved = torch.where(self.running > 0, self.running.lerp(mean, self.momentum), mean)
        self.running.copy_(torch.where(torch.isfinite(mean).all(), moved, self.running))
        self._sum.zero_()


class OwnData(Balance):
    """A data set names its teachers (DUNE, arXiv:2503.14405)."""

    allowed: Tensor  # (domains, T)

    def __init__(self, allowed: Sources, teachers: list[str]) -> None:
        super().__init__()
        unknown = sorted({name for names in allowed if names for name in names} - set(teachers))
        if unknown:
            raise RecipeError(
                f"data.train[].teachers: '{unknown[0]}' is not one of the teachers {', '.join(teachers)}."
            )
        if any(names is not None and not names for names in allowed):
            raise RecipeError("data.train[].teachers is empty: every data set needs at least one teacher.")
        table = [[float(names is None or t in names) for t in teachers] for names in allowed]
        self.register_buffer("allowed", torch.tensor(table), persistent=False)

    @classmethod
    def of(cls, section: Any, teachers: list[str], sources: Sources) -> Balance:
        """As the data sets say."""
        return cls(sources, teachers)

    def forward(self, losses: Tensor, key: tuple[int, int], index: Tensor, domain: Tensor | None) -> Tensor:
        """(T, B) from each image's data set."""
        assert domain is not None, "own_data needs to know which data set each image came from"
        return self.allowed[domain].mT.to(losses.dtype)
