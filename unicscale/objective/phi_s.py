"""PHI-S (arXiv:2410.01680): an invertible rotation after which every channel has the same variance."""

from __future__ import annotations

import torch
from torch import Tensor

from unicscale.contracts import Moments
from unicscale.errors import RecipeError
from unicscale.objective.standardize import EPS, Standardizer


class PhiS(Standardizer):
    """y' = H Uᵀ (y - μ) / φ, where Σ = U Λ Uᵀ, φ = √mean(λ) and H is a normalised Hadamard matrix."""

    covariance: Tensor  # (D, D) fp32
    rotation: Tensor  # (D, D) fp32: H Uᵀ
    updates: Tensor  # () int64, how many steps entered the statistics

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("covariance", torch.eye(dim))
        self.register_buffer("rotation", torch.eye(dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("hadamard", hadamard(dim).float() / dim**0.5, persistent=False)
        self._updates = 0  # the same number on the host, so that nothing has to wait for it

    def normalise(self, tokens: Tensor) -> Tensor:
        """(..., D) in any dtype -> (..., D) fp32."""
        centred = tokens.float() - self.mean
        return torch.matmul(centred, self.rotation.mT) / (self.deviation + EPS)

    def invert(self, standardised: Tensor) -> Tensor:
        """The tokens that `normalise` made these of."""
        return torch.matmul(standardised.float() * (self.deviation + EPS), self.rotation) + self.mean

    def _moments(self, x: Tensor) -> Moments:
        count = torch.full((), float(len(x)), dtype=torch.float64, device=x.device)
        mean = x.double().mean(0)
        centred = x.double() - mean
        return Moments(count, mean, centred.mT @ centred)

    @torch.no_grad()
    def _move(self, batch: Moments, momentum: float) -> None:
        covariance = batch.m2 / (batch.count - 1)
        good = torch.isfinite(covariance).all() & (batch.count > 1)
        apart = batch.mean - self.running_mean.double()
        # of a mixture: the covariances within, and what lies between the two means
        mixed = (1 - momentum) * (self.covariance.double() + momentum * torch.outer(apart, apart))
        mixed += momentum * covariance
        self.covariance.copy_(torch.where(good, mixed, self.covariance.double()))
        mean = (1 - momentum) * self.running_mean.double() + momentum * batch.mean
        self.running_mean.copy_(torch.where(good, mean, self.running_mean.double()))
        self._updates += 1
        self.updates += 1
        # an eigendecomposition waits for the device: at updates 1, 2, 4, 8, ... the estimate has doubled its data
        if self._updates & (self._updates - 1) == 0:
            self.decompose()

    @torch.no_grad()
    def decompose(self) -> None:
        """Rotation and scale of the present covariance."""
        values, vectors = torch.linalg.eigh(self.covariance.double())
        self.rotation.copy_(self.hadamard.double() @ vectors.mT)
        self.running_deviation.fill_(1.0).mul_(values.clamp(min=0).mean().sqrt())

    def _load_from_state_dict(self, *arguments, **options) -> None:  # type: ignore[override]
        super()._load_from_state_dict(*arguments, **options)
        self._updates = int(self.updates)


def hadamard(order: int) -> Tensor:
    """A Hadamard matrix: Sylvester's doubling of one of Paley's."""
    for seed in (m for m in range(1, order + 1) if order % m == 0):
        doublings = (order // seed).bit_length() - 1
        if seed << doublings == order and (start := _paley(seed)) is not None:
            matrix = start
            for _ in range(doublings):
                matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
            return matrix
    raise RecipeError(
        f"standardize.kind: phi_s needs a Hadamard matrix of the teacher's width, {order}, and none is known here: "
        "it exists for 1, 2 and multiples of 4, and is built for 2^k (q + 1), q prime. Use 'running'."
    )


def _paley(order: int) -> Tensor | None:
    """Order 1, 2, or q + 1 with q a prime of the form 4k + 3, or 2 (q + 1) with q = 4k + 1."""
    if order <= 2:
        return torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)[:order, :order]
    if _prime(order - 1) and order % 4 == 0:
        core = _jacobsthal(order - 1)
        skew = torch.zeros(order, order, dtype=torch.float64)
        skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, core
        return skew + torch.eye(order, dtype=torch.float64)
    q = order // 2 - 1
    if order % 4 == 0 and _prime(q) and q % 4 == 1:
        conference = torch.zeros(q + 1, q + 1, dtype=torch.float64)
        conference[0, 1:], conference[1:, 0], conference[1:, 1:] = 1, 1, _jacobsthal(q)
        plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        zero = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(conference, plus) + torch.kron(torch.eye(q + 1, dtype=torch.float64), zero)
    return None


def _jacobsthal(q: int) -> Tensor:
    squares = {i * i % q for i in range(1, q)}
    symbol = torch.tensor([0.0, *(1.0 if i in squares else -1.0 for i in range(1, q))], dtype=torch.float64)
    index = torch.arange(q)
    return symbol[(index[:, None] - index[None, :]) % q]


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
