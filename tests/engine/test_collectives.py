"""How often 64 ranks talk in a step of UNIC-L: its depths and its placement, small widths, a pretended network."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kit import ranks
from unicscale.engine import build_engine
from unicscale.objective.loss import distil
from unicscale.ranks.world import World
from unicscale.recipe import sections
from unicscale.student.model import build_student
from unicscale.teacher.targets import Teachers

WORLD, SIZE = 64, 28
DINO = {"embed_dim": 32, "depth": 40, "num_heads": 2, "patch_size": 14, "img_size": SIZE, "ffn": "swiglu"}
CLIP = {"embed_dim": 32, "depth": 32, "num_heads": 2, "patch_size": 14, "img_size": SIZE, "clip_embed_dim": 48}
TEXT = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 2}


class Talk(TorchDispatchMode):
    """Counts collectives by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            self.seen[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def talked(reshard: bool) -> Counter[str]:
    dist.init_process_group("fake", rank=0, world_size=WORLD, store=FakeStore())
    world = World(0, WORLD, 0, 8, torch.device("cpu"), control=dist.group.WORLD)
    where = "full" if reshard else "none"
    given = {
        "dinov2": {"plugin": "dinov2", "size": DINO},
        "metaclip": {"plugin": "metaclip", "size": {**CLIP, "text": TEXT}},
    }
    teachers = {
        name: sections.TeacherSection.model_validate({**said, "weights": "random", "shard": where})
        for name, said in given.items()
    }
    section = sections.EngineSection(kind="fsdp2", dtype="bf16", reshard=reshard, device="cpu")
    student = sections.Student(arch="vit_large", patch=14, options={"embed_dim": 64, "num_heads": 2})
    built = build_student(student, sections.Ladder(), Teachers.widths_of(teachers), SIZE)
    built.projector.fused = not reshard  # type: ignore[union-attr]
    engine = build_engine(section, built, seed=0, world=world, micro_batches=1, size=SIZE)
    asked = Teachers.build(
        teachers, sections.Standardize(), student_patch=14, engine=engine, engine_section=section, world=world
    )
    images, index = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8), torch.arange(2)
    for step in range(2):
        with Talk() as talk:
            for last in engine.micro_steps():
                engine.student.set_draws((0, step), index)  # type: ignore[attr-defined]
                targets = asked(images)
                loss = distil(engine.student(images).answers, targets, key=(0, step), index=index)
                engine.backward(loss.sum, last=last)
            engine.step(1e-4, loss.weight)
            asked.update(0.5)
    assert any(isinstance(p, DTensor) for p in engine.student.parameters())  # type: ignore[attr-defined]
    dist.destroy_process_group()
    return talk.seen


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("reshard", "most"), [(False, 60), (True, 230)])
def test_a_step_of_64_ranks_talks_so_often(reshard: bool, most: int) -> None:
    (seen,) = ranks.run(1, talked, reshard)
    assert 40 < sum(seen.values()) <= most, seen
