"""Durations and curves."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from tests.kit import places
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.recipe.plan import Pace, Plan, cosine, share

CURVES = json.loads((places.GOLDEN / "schedules.json").read_text())


def stage(name: str = "one", **keys: object) -> sections.Stage:
    return sections.Stage.model_validate({"name": name, "size": 32, "lr": {"peak": 1e-3}} | keys)


def plan(*stages: sections.Stage, epoch: int = 100, step: int = 10, **others: object) -> Plan:
    return Plan.of(stages, images_per_epoch=epoch, images_per_step=step, **others)  # type: ignore[arg-type]


def curves() -> list[dict]:
    return list(CURVES.values()) if isinstance(CURVES, dict) else CURVES


@pytest.mark.parametrize("curve", curves(), ids=lambda c: f"{c['epochs']}x{c['steps_per_epoch']}")
def test_curves_are_those_of_the_released_code(curve: dict) -> None:
    lr = {"peak": curve["base"], "end": curve["final"]}
    one = stage(epochs=curve["epochs"], warmup_epochs=curve["warmup_epochs"], lr=lr)
    found = plan(one, epoch=curve["steps_per_epoch"], step=1)
    assert found.steps == len(curve["values"])
    assert [found.lr(step) for step in range(found.steps)] == pytest.approx(curve["values"], rel=1e-12, abs=1e-18)


def test_the_momentum_is_one_cosine_over_all_stages() -> None:
    found = plan(stage("one", steps=6), stage("two", steps=4))
    assert [found.momentum(s) for s in range(10)] == pytest.approx([cosine(1.0, 0.001, s, 10) for s in range(10)])
    assert found.momentum(0) == 1.0


@pytest.mark.parametrize(
    ("text", "steps"),
    [("500", 500), (7, 7), ("500 steps", 500), ("1 step", 1), ("2 epochs", 20), ("0.5 epoch", 5), ("1e3 images", 100),
     ("95 images", 10), ("5%", 50), ("12.5 %", 125)],
)  # fmt: skip
def test_a_duration_is_steps_epochs_images_or_percent(text: str | int, steps: int) -> None:
    assert Pace(100, 10).duration(text, 1000, "here") == steps


@pytest.mark.parametrize("text", ["a while", "5 percent", "-3", "", "3 epochs 2 steps", "1.2.3"])
def test_other_durations_are_refused_by_their_key(text: str) -> None:
    with pytest.raises(RecipeError, match=r"here: '.*' is no duration: say '500 steps'"):
        Pace(100, 10).duration(text, 1000, "here")
    with pytest.raises(ValidationError, match=r"freeze_after '.*' is no duration: say '500 steps'"):
        sections.Standardize(kind="frozen", freeze_after=text)
    with pytest.raises(ValidationError, match=r"warmup '.*' is no duration: say '500 steps'"):
        stage(steps=9, warmup=text)


def test_a_warm_up_of_one_step_moves_nothing_and_says_so() -> None:
    one, two = (plan(stage("low", steps=10, warmup_steps=n)).stages[0] for n in (1, 2))
    assert one.lr(0) == 0.0  # as in the released code: a run that began so goes on so
    assert one.remark == (
        "stage low: a warm-up of one step has a learning rate of 0, so that step moves nothing: say 0, or 2"
    )
    assert two.lr(1) > 0 and not two.remark


def test_stages_follow_each_other_with_their_own_lengths_sizes_and_rates() -> None:
    found = plan(
        stage("low", epochs=2, warmup="10%", size=[16, 32, 48]),
        stage("high", images=55, lr={"peak": 1e-4, "end": 1e-5}),
    )
    assert [(s.first, s.steps, s.warmup) for s in found.stages] == [(0, 20, 2), (20, 6, 0)]
    assert found.steps == 26
    assert [found.stage_of(s) for s in (0, 19, 20, 25, 26)] == [0, 0, 1, 1, 1]
    assert [found.size(s, 0) for s in range(4)] == [16, 32, 48, 16] and found.size(20, 0) == 32
    assert (found.lr(0), found.lr(1), found.lr(2), found.lr(20)) == (0.0, 1e-3, 1e-3, 1e-4)
    assert found.lr(25) > 1e-5


def test_random_sizes_are_a_function_of_seed_and_step() -> None:
    found = plan(stage(steps=300, size=[16, 32, 48], sizes="random"))
    drawn = [found.size(s, 1) for s in range(300)]
    assert drawn == [found.size(s, 1) for s in range(300)] and drawn != [found.size(s, 2) for s in range(300)]
    assert all(70 < drawn.count(size) < 130 for size in (16, 32, 48))


def test_frozen_statistics_are_a_plain_average_of_the_first_steps() -> None:
    found = plan(stage(steps=10), standardize=sections.Standardize(kind="frozen", freeze_after="40%"))
    assert [found.momentum(s) for s in range(6)] == [1, 1 / 2, 1 / 3, 1 / 4, 0.0, 0.0]
    assert plan(stage(steps=9), standardize=sections.Standardize(kind="none")).momentum(0) == 0.0


def test_statistics_that_restart_are_estimated_anew_in_each_stage() -> None:
    frozen = sections.Standardize(kind="phi_s", freeze_after="2 steps", restart="stage")
    found = plan(stage(steps=4), stage(name="high", steps=3), standardize=frozen)
    assert [found.momentum(s) for s in range(7)] == [1, 1 / 2, 0, 0, 1, 1 / 2, 0]
    share = sections.Standardize(kind="phi_s", freeze_after="50%", restart="stage")
    found = plan(stage(steps=4), stage(name="high", steps=2), standardize=share)
    assert [found.momentum(s) for s in range(6)] == [1, 1 / 2, 0, 0, 1, 0], "a share is of the stage"
    found = plan(stage(steps=4), stage(name="high", steps=3), standardize=sections.Standardize(restart="stage"))
    assert [found.momentum(s) for s in (0, 4)] == [1, 1] and found.momentum(3) < 0.2


def test_logs_saves_and_evaluations_come_when_asked() -> None:
    found = plan(
        stage(steps=25),
        track=sections.Track(every_steps=10),
        save=sections.Save(every_steps=8),
        evaluate=sections.Evaluate(every_epochs=1.2),
    )
    steps = range(1, 26)
    assert [s for s in steps if found.logs(s)] == [1, 10, 20, 25]
    assert [s for s in steps if found.saves(s)] == [8, 16, 24]
    assert [s for s in steps if found.evaluates(s)] == [12, 24, 25]
    assert not any(plan(stage(steps=25)).evaluates(s) for s in steps)


def test_a_warm_up_as_long_as_its_stage_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"stages\[1\]: a warm-up of 20 steps leaves nothing of the stage's 20"):
        plan(stage("one", steps=5), stage("two", steps=20, warmup_epochs=2))


def test_a_rank_gets_an_equal_share_in_equal_micro_batches() -> None:
    assert share(512, 8) == (64, 1)
    assert share(512, 8, 16) == (16, 4)
    assert share(8, 8, 16) == (1, 1)


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_does() -> None:
    with pytest.raises(RecipeError, match=r"data\.images_per_step: 6 images do not divide over 4 ranks.* 4 or 8"):
        share(6, 4)
    with pytest.raises(RecipeError, match=r"data\.images_per_step: 3 images do not divide over 4 ranks.* are 4\."):
        share(3, 4)
    with pytest.raises(
        RecipeError, match=r"data\.micro_batch: 5 does not divide a rank's 16 images.* \[1, 2, 4, 8, 16"
    ):
        share(32, 2, 5)


def test_a_stage_that_names_no_warm_up_gets_the_usual_one_and_one_that_wants_none_none() -> None:
    def warm(steps: int, **said: object) -> int:
        return plan(stage(steps=steps, **said)).stages[0].warmup

    assert warm(200) == warm(200, warmup=None) == warm(200, warmup_epochs=None) == 10
    assert warm(200, warmup_steps=0) == warm(200, warmup="0%") == warm(200, warmup_epochs=0) == 0
    assert warm(200, warmup_steps=7) == 7 and warm(200, warmup_epochs=2) == 20
    assert warm(20) == warm(20, warmup="5%") == 0, "one step at a rate of 0 would be lost"
    assert warm(40) == 2


def test_the_log_says_how_long_the_warm_up_is_and_that_nobody_asked_for_it() -> None:
    said = [one.said for one in plan(stage(steps=2000), stage("two", steps=9, size=[16, 32], warmup_steps=0)).stages]
    assert said == [
        "stage one: 2,000 steps of 32 px, 100 of them warm-up (5%, as nobody said another)",
        "stage two: 9 steps of 16 and 32 px, no warm-up",
    ]


def test_what_nobody_said_of_the_engine_follows_the_device_and_what_was_said_stays() -> None:
    gpu = {"bf16": True, "compiles": True}
    one = sections.EngineSection()
    assert one.open == ["dtype", "compile"] and one.settled(**gpu).open == []
    assert (one.settled(**gpu).dtype, one.settled(**gpu).compile) == ("bf16", True)
    assert (one.settled(bf16=False, compiles=False).dtype, one.settled(bf16=False, compiles=False).compile) == (
        "fp32",
        False,
    )
    said = sections.EngineSection(dtype="fp16", compile=False)
    assert said.open == [] and said.settled(**gpu) == said
