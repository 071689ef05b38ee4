"""Teacher tokens to zero mean and unit deviation, with statistics merged exactly over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unicscale.contracts import Moments
from unicscale.objective.terms import precise
from unicscale.ranks.world import World

EPS = 1e-6
LARGEST = 1e15  # of a token: its square is still a number in fp32
DEAD = 1e-3  # of the channels' mean deviation: what varies less is scaled as if it varied so much, for it may wake up


def spread(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of each channel, over all tokens (..., D); Welford's, so a large mean costs no digits."""
    return torch.var_mean(precise(tokens.flatten(0, -2)), dim=0, correction=0)


def all_finite(tokens: Sequence[Tensor]) -> Tensor:
    """Whether all of them are numbers, and not so large that statistics would break."""
    return torch.stack([(t.abs() < LARGEST).all() for t in tokens]).all()


def measured(said: Sequence[Sequence[Tensor]], seen: Sequence[Tensor]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Whether each teacher's tokens are numbers (T,), and the spread of what was seen: compiled, one graph for all."""
    return torch.stack([all_finite(tokens) for tokens in said]), [spread(tokens) for tokens in seen]


def floored(deviation: Tensor) -> Tensor:
    """Deviations of channels (D,), none of them next to nothing beside the others."""
    return torch.maximum(deviation, DEAD * deviation.mean())


class Scale(NamedTuple):
    """What standardises tokens, for whoever does it while it compares them."""

    mean: Tensor  # (D,)
    deviation: Tensor  # (D,), never 0

    def __call__(self, tokens: Tensor) -> Tensor:
        """(..., D) in any dtype -> (..., D) at least in fp32."""
        return (precise(tokens) - self.mean) / self.deviation


class Standardizer(nn.Module):
    """One teacher's and token type's running mean and deviation; normalises with those from before this step."""

    running_mean: Tensor  # (D,) fp32
    running_deviation: Tensor  # (D,) fp32

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_deviation", torch.ones(dim))
        self._seen: Any = None  # Moments of this step, this rank; PHI-S has sums instead
        self._arriving: Callable[[], None] | None = None  # other ranks' moments of the last step
        self.register_state_dict_pre_hook(_settle)

    @property
    def mean(self) -> Tensor:
        """(D,)"""
        self.settle()
        return self.running_mean

    @property
    def deviation(self) -> Tensor:
        """(D,)"""
        self.settle()
        return self.running_deviation

    def forward(self, tokens: Tensor, momentum: float) -> Tensor:
        """(..., D) with the old statistics, which then move by `momentum`; alone, without other ranks."""
        standardised = self.normalise(tokens)
        self.observe(tokens)
        self.update(momentum)
        return standardised

    def normalise(self, tokens: Tensor) -> Tensor:
        """(..., D) in any dtype -> (..., D) fp32."""
        return Scale(self.mean, self.deviation + EPS)(tokens)

    def scale(self) -> Scale | None:
        """What `normalise` would do as of now; None where that is more than a mean and a deviation, or nothing."""
        if type(self).normalise is not Standardizer.normalise:
            return None
        return Scale(self.mean, self.deviation + EPS)

    def invert(self, standardised: Tensor) -> Tensor:
        """The tokens that `normalise` made these of."""
        return precise(standardised) * (self.deviation + EPS) + self.mean

    @torch.no_grad()
    def observe(self, tokens: Tensor) -> None:
        """Add a micro-batch to this step's moments."""
        seen = self.see(tokens)
        if seen is not None:
            self.note(seen, *spread(seen))

    def see(self, tokens: Tensor) -> Tensor | None:
        """What of a micro-batch is to be measured for `note` (..., D); None where nothing is left to measure."""
        return tokens

    @torch.no_grad()
    def note(self, seen: Tensor, variance: Tensor, mean: Tensor) -> None:
        """The spread of what it saw joins this step's moments."""
        rows = seen.numel() // seen.shape[-1]
        count = torch.full((), float(rows), dtype=torch.float64, device=seen.device)
        here = Moments(count, mean.double(), variance.double() * rows)
        self._seen = here if self._seen is None else merge([self._seen, here])

    def update(self, momentum: float, world: World | None = None) -> None:
        """Once a step: statistics move towards those of the global batch."""
        update([self], momentum, world)

    def settle(self) -> None:
        """Finish an update that is still on its way."""
        if self._arriving is not None:
            finish, self._arriving = self._arriving, None
            finish()

    def freeze(self) -> None:
        """Once nothing moves it any more."""

    def restart(self) -> None:
        """A new estimate begins, whose first batch moves everything: nothing to do where nothing is counted."""

    def odd(self) -> str:
        """What is odd about these tokens, in words; nothing where nothing is. Reads from the device."""
        deviation = self.deviation
        if float(deviation.mean()) < 10 * EPS:
            return "they are the same for every image: nothing can be learned from them"
        dead = int((deviation < (1 + EPS) * DEAD * deviation.mean()).sum())
        return f"{dead} of {self.dim} channels hardly ever vary; they count little" if dead else ""

    @torch.no_grad()
    def _move(self, batch: Any, momentum: float) -> None:
        deviation = (batch.m2 / (batch.count - 1)).sqrt() + EPS
        # one bad teacher output, on any rank, must not poison the statistics; one token has no deviation
        good = torch.isfinite(batch.mean).all() & torch.isfinite(deviation).all() & (batch.count > 1)
        for old, new in ((self.running_mean, batch.mean), (self.running_deviation, deviation)):
            moved = (1 - momentum) * old.double() + momentum * new
            moved = moved if old is self.running_mean else floored(moved)
            old.copy_(torch.where(good, moved, old.double()))


class Fixed(Standardizer):
    """Statistics that were read from a file."""

    def see(self, tokens: Tensor) -> None:
        """They stay what they are."""


def _settle(standardizer: Standardizer, *_: object) -> None:
    """Of whichever copy is asked: a hook that closed over one of them could be neither pickled nor copied."""
    standardizer.settle()


class Unchanged(Standardizer):
    """No standardisation (arXiv:2408.05088, Table 1, row 4)."""

    def normalise(self, tokens: Tensor) -> Tensor:
        """As they are, in fp32."""
        return precise(tokens)

    def invert(self, standardised: Tensor) -> Tensor:
        """As they are."""
        return precise(standardised)

    def see(self, tokens: Tensor) -> None:
        """Nothing is remembered."""


def merge(parts: Sequence[Moments]) -> Moments:
    """The moments of everything together (Chan et al.)."""
    counts = torch.stack([p.count for p in parts])  # (K,)
    means = torch.stack([p.mean for p in parts])  # (K, D)
    count = counts.sum()
    mean = (counts[:, None] * means).sum(0) / count
    between = means - mean
    m2 = torch.stack([p.m2 for p in parts]).sum(0)
    return Moments(count, mean, m2 + (counts[:, None] * between.square()).sum(0))


def update(standardizers: Sequence[Standardizer], momentum: float, world: World | None = None) -> None:
    """Move all of them at once: one small message per rank and step, which may arrive until the next step needs it."""
    for standardizer in standardizers:
        standardizer.settle()
    seen = [(s, s._seen) for s in standardizers if s._seen is not None]
    for standardizer in standardizers:
        standardizer._seen = None
        if momentum == 0:  # frozen: nothing to send
            standardizer.freeze()
    if momentum == 0 or not seen:
        return
    if world is None or world.size == 1:
        for standardizer, moments in seen:
            standardizer._move(moments, momentum)
        return
    sums = [(s, m) for s, m in seen if isinstance(m, Tensor)]
    _summed(sums, momentum, world)
    _gathered([(s, m) for s, m in seen if not isinstance(m, Tensor)], momentum, world)


def _summed(seen: list[tuple[Standardizer, Tensor]], momentum: float, world: World) -> None:
    """Sums that are exact in fp64, so that it does not matter who adds them in which order."""
    for standardizer, sums in seen:
        arrived = world.sum_soon(sums)

        def finish(standardizer: Standardizer = standardizer, arrived: Callable[[], Tensor] = arrived) -> None:
            standardizer._move(arrived(), momentum)

        standardizer._arriving = finish


def _gathered(seen: list[tuple[Standardizer, Moments]], momentum: float, world: World) -> None:
    """Everybody's moments, merged in the order of ranks."""
    if not seen:
        return
    # fp32 on the wire: 45 KB for UNIC-L
    sizes = [(m.count.numel(), m.mean.numel(), m.m2.numel()) for _, m in seen]
    packed = torch.cat([t.flatten().float() for _, m in seen for t in (m.count, m.mean, m.m2)])
    arrived = world.gather_soon(packed)

    def finish() -> None:
        rows = arrived().double().split([n for size in sizes for n in size], dim=1)  # each (W, n)
        for i, (standardizer, _) in enumerate(seen):
            standardizer._arriving = None
            count, mean, m2 = rows[3 * i : 3 * i + 3]
            standardizer._move(merge([Moments(*part) for part in zip(count[:, 0], mean, m2, strict=True)]), momentum)

    for standardizer, _ in seen:
        standardizer._arriving = finish
