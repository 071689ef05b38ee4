"""What a stage starts from: weights of the stage before, of a checkpoint, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unicscale.engine import Engine, build_engine, stages
from unicscale.errors import CheckpointError, RecipeError
from unicscale.interop.starting import weights_at
from unicscale.ranks.world import World
from unicscale.recipe import sections
from unicscale.recipe.plan import Plan
from unicscale.student.model import build_student
from unicscale.student.trunk import resize_positions

SMALL = sections.Student(arch="vit_tiny", patch=8, options={"embed_dim": 32, "depth": 2, "num_heads": 2})
OFFICIAL = sections.Student(arch="vit_tiny", patch=14, options={"embed_dim": 128, "depth": 3, "num_heads": 2})


class Stages:
    """A run of two stages, 32 and 48 pixels (or as told), at the end of the first."""

    def __init__(self, student: sections.Student = SMALL, sizes: tuple[int, int] = (32, 48), **second: object) -> None:
        self.student = build_student(student, sections.Ladder(hidden=16, last_hidden=16), {"one": 12}, sizes[0])
        section = sections.EngineSection(ema=0.9)
        self.engine: Engine = build_engine(section, self.student, seed=3, world=World(), micro_batches=1, size=sizes[0])
        for name, piece in self.engine.pieces().items():
            if not name.startswith("optimizer"):
                piece.flat.add_(0.5)  # some training
        lr = sections.LearningRate(peak=1e-3)
        low = sections.Stage(name="low", size=sizes[0], steps=4, lr=lr)
        high = sections.Stage.model_validate({"name": "high", "size": sizes[1], "steps": 4, "lr": lr} | second)
        self.plan = Plan.of([low, high], images_per_epoch=64, images_per_step=8)
        self.before = {name: piece.flat.clone() for name, piece in self.engine.pieces().items()}

    def enter_second(self) -> dict[str, Tensor]:
        low, high = self.plan.stages
        stages.enter(high, low, self.engine, self.student, seed=3, read=weights_at)
        return {name: piece.flat.clone() for name, piece in self.engine.pieces().items()}


def test_the_second_stage_keeps_the_weights_resizes_positions_and_forgets_the_moments() -> None:
    run = Stages()
    after = run.enter_second()
    table = run.before["weights/trunk.pos_embed"].view(1, 17, 32)
    assert torch.equal(after["weights/trunk.pos_embed"], resize_positions(table, (4, 4), (6, 6)).flatten())
    for name, value in after.items():
        if name.startswith(("exp_avg", "optimizer/step")):
            assert not value.any(), name
        elif not name.endswith("pos_embed"):
            assert torch.equal(value, run.before[name]), name


def test_an_optimiser_that_is_kept_keeps_its_moments() -> None:
    run = Stages(optimizer="keep")
    after = run.enter_second()
    assert torch.equal(
        after["exp_avg/trunk.blocks.0.mlp.fc1.weight"], run.before["exp_avg/trunk.blocks.0.mlp.fc1.weight"]
    )


def test_from_scratch_means_the_initial_weights_at_the_new_size() -> None:
    run = Stages(start_from="scratch")
    after = run.enter_second()
    for name, piece in run.engine.pieces().items():
        kind, _, parameter = name.partition("/")
        if kind in ("weights", "ema"):
            assert torch.equal(after[name], run.student.initial(parameter, piece.shape, 3).flatten()), name


def test_a_stage_may_start_from_an_official_checkpoint_of_another_size(golden: Path) -> None:
    path = golden / "unic_official_tiny.pth"
    run = Stages(OFFICIAL, (56, 84), start_from=f"checkpoint:{path}")
    after, official = run.enter_second(), weights_at(str(path))
    assert torch.equal(
        after["weights/trunk.blocks.2.mlp.fc2.weight"], official["trunk.blocks.2.mlp.fc2.weight"].flatten()
    )
    assert torch.equal(after["ema/trunk.cls_token"], official["trunk.cls_token"].flatten())
    wanted = resize_positions(official["trunk.pos_embed"], (4, 4), (6, 6)).flatten()
    assert torch.equal(after["weights/trunk.pos_embed"], wanted)


def test_a_checkpoint_of_another_architecture_is_refused_by_name(golden: Path) -> None:
    run = Stages(start_from=f"checkpoint:{golden / 'unic_official_tiny.pth'}")
    with pytest.raises(CheckpointError, match=r"trunk\.\S+ is \(.*128.*\) there and \(.*32.*\) in this student"):
        run.enter_second()


def test_a_start_that_is_not_there_is_refused_before_the_first_stage_begins() -> None:
    lr = sections.LearningRate(peak=1e-3)
    lost = sections.Stage(name="high", size=48, steps=4, lr=lr, start_from="checkpoint:runs/nowhere")
    with pytest.raises(CheckpointError, match=r"'stages.1.start_from': runs/nowhere is not here"):
        stages.refuse_lost_starts([lost.model_copy(update={"start_from": "weights"}), lost])


def test_another_word_for_a_start_is_no_recipe(tmp_path: Path) -> None:
    from unicscale.recipe import load

    path = tmp_path / "r.yaml"
    path.write_text(
        "schema: 1\nout: runs/x\ndata: {train: [a], images_per_step: 8}\nteachers: {one: {weights: random}}\n"
        "stages:\n  - {name: low, size: 32, steps: 4, lr: {peak: 1.0e-3}, start_from: checkpint}\n"
    )
    with pytest.raises(RecipeError, match=r"r.yaml:6: .*'checkpint' is none of weights, scratch and checkpoint:PATH"):
        load(path)
