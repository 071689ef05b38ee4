"""One global batch, cut in any way over ranks and micro-batches: the same loss, statistics, drops and gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kit import ranks
from unicscale.contracts import Features, Widths
from unicscale.objective.balance import AdaLoss
from unicscale.objective.loss import distil
from unicscale.objective.phi_s import PhiS
from unicscale.objective.standardize import Standardizer, update
from unicscale.ranks.world import World
from unicscale.recipe import sections
from unicscale.student.model import build_student

IMAGES, STEPS, DIMS = 8, 3, {"a": 8, "b": 12}
TEACHERS = {"a": Widths.of(8), "b": Widths.of(12), "dense": Widths(None, 4)}
TOKENS = {"summary": (), "patches": (16,)}  # and what stands between images and channels
Found = dict[str, Tensor]


def distilled(accumulation: int) -> Found:
    """Three steps of everything between pixels and gradients, on this rank's share."""
    world = World.start(sections.EngineSection(device="cpu"))
    section = sections.Student(arch="vit_tiny", patch=4, options={"embed_dim": 16, "depth": 3, "num_heads": 2})
    student = build_student(section, sections.Ladder(), TEACHERS, 16).to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            parameter.copy_(student.initial(name, parameter.shape, 1))
    makes = {"summary": Standardizer, "patches": PhiS}
    standardizers = {
        (n, kind): makes[kind](d) for n, wide in TEACHERS.items() for kind, d in wide._asdict().items() if d is not None
    }
    balance, found = AdaLoss(len(TEACHERS), momentum=0.5), {}
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(IMAGES, 3, 16, 16, generator=generator)
        raw = {
            n: {k: 3 + torch.randn(IMAGES, *TOKENS[k], d, generator=generator) for k, d in wide._asdict().items() if d}
            for n, wide in TEACHERS.items()
        }
        weight, total, kept = torch.zeros(()), torch.zeros(()), []
        share = IMAGES // world.size // accumulation
        for micro in range(accumulation):
            first = world.rank * IMAGES // world.size + micro * share
            part, index = slice(first, first + share), 100 + torch.arange(first, first + share)
            student.set_draws((5, step), index)
            answers, targets = student(images[part]).answers, {}
            for n, kinds in raw.items():
                for kind, tokens in kinds.items():
                    standardizers[n, kind].observe(tokens[part])
                made = {kind: standardizers[n, kind].normalise(tokens[part]) for kind, tokens in kinds.items()}
                targets[n] = Features(made.get("summary"), made.get("patches"))
            loss = distil(answers, targets, p=0.5, key=(5, step), index=index)
            ada = distil(answers, targets, balance=balance)
            (loss.sum + ada.total.detach()).backward()
            weight, total = weight + loss.weight, total + loss.sum.detach()
            kept.append(torch.stack([loss.terms[f"keep/{n}"] for n in TEACHERS]) * share)
        update(list(standardizers.values()), 1 / (step + 1), world)
        balance.update(world)
        sums = world.all_sum(torch.cat([torch.stack([total, weight]), torch.stack(kept).sum(0)]))
        found |= {
            f"{step}/loss": sums[0] / sums[1],
            f"{step}/drops": sums[1:],
            f"{step}/adaloss": balance.running.clone(),
        }
        for (n, kind), standardizer in standardizers.items():
            found |= {f"{step}/{n}/{kind}/mean": standardizer.mean.clone()}
            found |= {f"{step}/{n}/{kind}/deviation": standardizer.deviation.clone()}
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            found[f"gradient/{name}"] = world.all_sum(parameter.grad)
    world.close()
    return found


class Asked(TorchDispatchMode):
    """Collects what makes the host wait for a device: reading a value, or sending one that was made on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh", "masked_select"):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("balance", ["teacher_dropping", "none", "random"])
def test_nothing_between_pixels_and_statistics_makes_the_host_wait(balance: str) -> None:
    section = sections.Student(arch="vit_tiny", patch=4, options={"embed_dim": 16, "depth": 3, "num_heads": 2})
    student = build_student(section, sections.Ladder(), DIMS, 16).to_empty(device="cpu")
    standardizers = {n: (Standardizer(d), Standardizer(d)) for n, d in DIMS.items()}
    images, index = torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.arange(4)
    raw = {n: Features(torch.randn(4, d), torch.randn(4, 16, d)) for n, d in DIMS.items()}
    with Asked() as asked:
        student.set_draws((1, 2), index)
        targets = {
            n: Features(*(s(t, momentum=0.5) for s, t in zip(standardizers[n], raw[n], strict=True))) for n in DIMS
        }
        loss = distil(student(images).answers, targets, p=0.5, key=(1, 2), index=index, balance=balance)
        loss.sum.backward()
    assert asked.found == []


@dataclass(slots=True)
class Overheard(World):
    """Two ranks of which the other says the same; notes what is sent."""

    size: int = 2
    sent: list[int] = field(default_factory=list)

    def gather_soon(self, tensor: Tensor) -> Callable[[], Tensor]:
        self.sent.append(tensor.nbytes)
        return lambda: torch.stack([tensor, tensor])


def test_the_statistics_of_unic_l_cost_45_kilobytes_per_rank_and_step_in_one_message() -> None:
    standardizers = [Standardizer(dim) for dim in (1536, 1536, 1280, 1280)]
    for standardizer in standardizers:
        standardizer.observe(torch.randn(8, standardizer.dim))
    world = Overheard()
    update(standardizers, 0.5, world)
    assert len(world.sent) == 1 and 45_000 < world.sent[0] < 46_000
    update(standardizers, 0.0, world)  # frozen statistics send nothing
    assert len(world.sent) == 1


@pytest.fixture(scope="module")
def alone() -> Found:
    return ranks.run(1, distilled, 1)[0]


@pytest.mark.parametrize(("size", "accumulation"), [(1, 2), (1, 4), (2, 1), (2, 4), (4, 1), (4, 2)])
def test_neither_ranks_nor_accumulation_change_anything(size: int, accumulation: int, alone: Found) -> None:
    for found in ranks.run(size, distilled, accumulation):
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            error = (found[name] - value).norm() / value.norm().clamp(min=1e-12)
            assert error <= 1e-6, f"{name}: {error:.1e}"


def turned(accumulation: int) -> Found:
    """PHI-S over tokens whose variances are all but equal: nothing but the same bits gives the same rotation."""
    world = World.start(sections.EngineSection(device="cpu"))
    standardizer, found = PhiS(12), {}
    for step in range(5):
        tokens = 2 + torch.randn(IMAGES, 64, 12, generator=torch.Generator().manual_seed(step))
        for part in tokens.tensor_split(world.size)[world.rank].tensor_split(accumulation):
            standardizer.observe(part)
        standardizer.update(1 / (step + 1), world)
        found |= {f"{step}/{name}": t.clone() for name, t in standardizer.state_dict().items()}
    standardizer.update(0.0, world)  # frozen: the fifth step enters the rotation, too
    found |= {f"frozen/{name}": t.clone() for name, t in standardizer.state_dict().items()}
    world.close()
    return found


@pytest.mark.parametrize(("size", "accumulation"), [(1, 2), (2, 1), (4, 2)])
def test_phi_s_turns_the_targets_by_the_same_bits_on_any_number_of_ranks(size: int, accumulation: int) -> None:
    alone = turned(1)
    assert not torch.equal(alone["frozen/rotation"], alone["4/rotation"])
    for found in ranks.run(size, turned, accumulation):
        assert all(torch.equal(found[name], value) for name, value in alone.items())
