"""Parts of the trunk that are never trained, rest for a while, or learn at a rate of their own; in every engine."""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_engines import ENGINES, apart, on
from tests.kit import contract
from tests.kit.contract import LR, Case
from unicscale.errors import RecipeError
from unicscale.ranks.world import World
from unicscale.recipe import sections
from unicscale.recipe.plan import Plan, decays
from unicscale.student.model import kept_layers
from unicscale.student.trunk import build_trunk

SHARES = (("lr_scale", {"trunk": 0.1, "projector": 0.5}), ("layer_decay", 0.5), ("weight_decay", 0.0))


def test_a_trunk_that_rests_keeps_its_weights_and_its_projectors_learn() -> None:
    cases = [Case(kind, student=student) for student in ("plain", "batch_norm") for kind in ENGINES]
    found = on(2, contract.rested, cases)
    for case, (before, resting, after) in zip(cases, found, strict=True):
        alone = found[0 if case.student == "plain" else len(ENGINES)]
        for name, value in before.items():
            kind, _, parameter = name.partition("/")
            if kind == "weights" and "running" not in name:
                rests = parameter.startswith("trunk.")
                assert torch.equal(resting[name], value) is rests, (case, name)
            if kind == "exp_avg" and parameter.startswith("trunk."):
                assert resting[name].any(), (case, name)  # moments follow, so that the first step after is a good one
        for ours, theirs in ((resting, alone[1]), (after, alone[2])):
            assert apart(ours, theirs, "weights/") < 1e-6, case


def test_every_parameter_moves_by_its_share_of_the_rate() -> None:
    cases = [Case(kind, options=SHARES, student="maps") for kind in ENGINES]
    found = on(2, contract.rested, cases)
    for case, (_, _, last) in zip(cases, found, strict=True):
        assert apart(last, found[0][2], "weights/") < 1e-6, case
    engine = contract.open_engine(Case(options=SHARES, student="maps"), World())
    before = contract.whole(engine, World())
    contract.one_step(engine, World(), 0, 1)
    after = contract.whole(engine, World())
    rates = engine.blueprint.rates(engine.section)
    depth = engine.blueprint.trunk.depth
    shares = {"projector.rungs.0.heads.a.cls.fc1.weight": 0.5}
    shares |= {f"trunk.stages.{i}.blocks.0.mlp.fc1.weight": 0.1 * 0.5 ** (depth - i) for i in range(depth)}
    shares |= {"trunk.stem.0.weight": 0.1 * 0.5 ** (depth + 1)}
    for name, share in shares.items():
        assert rates[name] == pytest.approx(share), name
        moved = (after[f"weights/{name}"] - before[f"weights/{name}"]).abs().max()
        assert moved.item() == pytest.approx(LR * share, rel=0.02), name  # Adam's first step is the rate itself


def test_the_usual_rates_make_the_usual_groups() -> None:
    engine = contract.open_engine(Case(), World())
    for group in engine.update.inner.param_groups:
        assert group["share"] == 1.0
    names = {id(part): name for name, part in engine.update.parts.items()}
    for group in engine.update.inner.param_groups:
        for part in group["params"]:
            name = names[id(part)]
            assert (group["weight_decay"] > 0) is decays(name, engine.weights[name].shape)
            assert group["of_trunk"] is name.startswith("trunk.")


def test_frozen_parts_are_never_trained() -> None:
    for arch, parts, frozen in (
        ("vit_tiny", ["stem", "blocks.0-5"], {"patch_embed.proj.weight", "cls_token", "blocks.5.norm1.weight"}),
        ("convnext_atto", ["stem", "blocks.0-1"], {"stem.0.weight", "stages.1.downsample.1.weight"}),
        ("resnet10t", ["blocks.1"], {"layer1.0.conv1.weight"}),
    ):
        section = sections.Student.model_validate({"arch": arch, "freeze": parts})
        student = contract.build_student(section, sections.Ladder(hidden=4), {"a": 4}, 64)
        fixed = {n.removeprefix("trunk.") for n, p in student.named_parameters() if not p.requires_grad}
        assert frozen <= fixed, arch
        assert any(n.startswith(("blocks.6", "stages.2", "layer2")) for n, _ in student.trunk.named_parameters())
        assert not any(n.startswith(("blocks.6", "stages.2", "layer2", "projector")) for n in fixed)


def test_parts_that_are_not_there_are_refused() -> None:
    assert kept_layers(["stem", "blocks.0-1", "blocks.3"], 4) == {0, 1, 2, 4}
    with pytest.raises(RecipeError, match=r"student.freeze: 'blocks.2-9', and the student has blocks 0 to 3"):
        kept_layers(["blocks.2-9"], 4)
    with pytest.raises(ValueError, match="freeze"):
        sections.Student(freeze=["head"])


def test_the_trunk_rests_at_the_beginning_of_its_stage() -> None:
    lr = sections.LearningRate(peak=1e-3)
    low = sections.Stage(name="low", size=32, steps=10, lr=lr, freeze_trunk="20%")
    high = sections.Stage(name="high", size=48, steps=10, lr=lr, freeze_trunk="24 images")
    plan = Plan.of([low, high], images_per_epoch=64, images_per_step=8)
    assert [step for step in range(20) if plan.trunk_rests(step)] == [0, 1, 10, 11, 12]
    with pytest.raises(ValueError, match="freeze_trunk 'long' is no duration"):
        sections.Stage(name="low", size=32, steps=10, lr=lr, freeze_trunk="long")


def test_a_layer_of_every_trunk_is_known() -> None:
    for arch, size in (("vit_tiny", 32), ("vit_tiny_patch16_dinov3_qkvb", 32), ("convnext_atto", 64)):
        trunk = build_trunk(sections.Student(arch=arch), size)
        layers = [trunk.layer_of(name) for name, _ in trunk.named_parameters()]
        assert set(range(trunk.depth + 1)) <= set(layers), arch
