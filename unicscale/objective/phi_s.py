"""PHI-S (arXiv:2410.01680): an invertible rotation after which every channel has the same variance."""

from __future__ import annotations

import torch
from torch import Tensor

from unicscale.errors import RecipeError
from unicscale.objective.standardize import EPS, Standardizer
from unicscale.objective.terms import precise

STEPS = 2.0**14  # of a channel's deviation: tokens count in whole steps of it, whose sums fp64 holds exactly


class PhiS(Standardizer):
    """y' = H Uᵀ (y - μ) / φ, where Σ = U Λ Uᵀ, φ = √mean(λ) and H is a normalised Hadamard matrix."""

    covariance: Tensor  # (D, D) fp32
    rotation: Tensor  # (D, D) fp32: H Uᵀ
    updates: Tensor  # () int64, how many steps entered the statistics
    signs: Tensor  # (D, D): √D H

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("covariance", torch.eye(dim))
        self.register_buffer("rotation", torch.eye(dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("signs", hadamard(dim).float(), persistent=False)
        self._updates = 0  # the same number on the host, so that nothing has to wait for it
        self._decomposed = 0  # which of them the rotation is of

    def normalise(self, tokens: Tensor) -> Tensor:
        """(..., D) in any dtype -> (..., D) fp32."""
        return torch.matmul(precise(tokens) - self.mean, self.rotation.mT) / self.deviation

    def invert(self, standardised: Tensor) -> Tensor:
        """The tokens that `normalise` made these of."""
        return torch.matmul(precise(standardised) * self.deviation, self.rotation) + self.mean

    def see(self, tokens: Tensor) -> None:
        """Add a micro-batch to this step's sums: count, tokens, outer products; whole numbers, exact in any order.

        Rounded once, on the rank that sees a token, so that the covariance has the same bits however a batch is cut.
        """
        apart = tokens.reshape(-1, self.dim).double() - self.mean.double()
        whole = (apart / self._unit()).round()
        count = torch.full((1,), float(len(whole)), dtype=torch.float64, device=whole.device)
        here = torch.cat([count, whole.sum(0), (whole.mT @ whole).flatten()])
        self._seen = here if self._seen is None else self._seen + here

    def _unit(self) -> Tensor:
        """(D,) What a whole number stands for: of what was known before this step, which all ranks know alike."""
        if self._updates == 0:  # nothing is known: fine enough for any scale, exact for none
            return torch.full_like(self.running_mean, 2.0**-30, dtype=torch.float64)
        deviation = self.covariance.double().diagonal().clamp(min=0).sqrt()
        return torch.maximum(deviation, 1e-6 * deviation.mean() + torch.finfo(torch.float32).tiny) / STEPS

    @torch.no_grad()
    def _move(self, batch: Tensor, momentum: float) -> None:
        count, total, products = batch.split([1, self.dim, self.dim**2])
        unit = self._unit()
        apart = total * unit / count  # of the batch's mean from the running one
        covariance = products.view(self.dim, self.dim) * torch.outer(unit, unit) - count * torch.outer(apart, apart)
        covariance = covariance / (count - 1)
        good = torch.isfinite(covariance).all() & (count[0] > 1)
        # of a mixture: the covariances within, and what lies between the two means
        mixed = (1 - momentum) * (self.covariance.double() + momentum * torch.outer(apart, apart))
        mixed += momentum * covariance
        self.covariance.copy_(torch.where(good, mixed, self.covariance.double()))
        mean = self.running_mean.double() + momentum * apart
        self.running_mean.copy_(torch.where(good, mean, self.running_mean.double()))
        self._updates += 1
        self.updates += 1
        # an eigendecomposition waits for the device: at updates 1, 2, 4, 8, ... the estimate has doubled its data
        if self._updates & (self._updates - 1) == 0:
            self.decompose()

    def freeze(self) -> None:
        """The last rotation is that of everything that was seen."""
        if self._updates != self._decomposed:
            self.decompose()

    def restart(self) -> None:
        """The rotation is renewed at the first batches of a new estimate as at those of the run."""
        self.settle()
        self.updates.zero_()
        self._updates = self._decomposed = 0

    @torch.no_grad()
    def decompose(self) -> None:
        """Rotation and scale of the present covariance."""
        values, vectors = torch.linalg.eigh(self.covariance.double())
        # an eigenvector has no sign: its largest entry is positive, or ranks and devices would turn the targets
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        self.rotation.copy_(self.signs.double() @ (vectors * largest.sign()).mT / self.dim**0.5)
        self.running_deviation.fill_(1.0).mul_(values.clamp(min=0).mean().sqrt().clamp(min=EPS))
        self._decomposed = self._updates

    def _load_from_state_dict(self, *arguments, **options) -> None:  # type: ignore[override]
        super()._load_from_state_dict(*arguments, **options)
        self._updates = int(self.updates)
        self._decomposed = 1 << self._updates.bit_length() - 1 if self._updates else 0


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
