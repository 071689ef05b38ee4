"""The loss against the authors' numbers, and who teaches which image."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.kit.golden_method import assert_near, method
from unicscale import rng
from unicscale.contracts import Features
from unicscale.errors import RecipeError
from unicscale.objective import build_balance
from unicscale.objective.balance import AdaLoss, ManualWeights, OwnData, RandomTeacher, TeacherDropping
from unicscale.objective.loss import distil
from unicscale.recipe import sections

Pair = tuple[dict[str, Features], dict[str, Features]]


def pairs(images: int = 6, teachers: tuple[str, ...] = ("a", "b", "c"), patches: int = 4) -> Pair:
    torch.manual_seed(2)
    dims = {name: 5 + 3 * i for i, name in enumerate(teachers)}
    both = [
        {name: Features(torch.randn(images, d), torch.randn(images, patches, d)) for name, d in dims.items()}
        for _ in range(2)
    ]
    return both[0], both[1]


def per_image(answers: dict[str, Features], targets: dict[str, Features]) -> torch.Tensor:
    """The definition, image by image: (T, B)."""
    rows = []
    for name, target in targets.items():
        answer, row = answers[name], []
        for i in range(len(target.summary)):

            def token(h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                return (1 - F.cosine_similarity(h, y, dim=0)) / 2 + F.smooth_l1_loss(h, y) / 2

            patches = [token(h, y) for h, y in zip(answer.patches[i], target.patches[i], strict=True)]
            row.append((token(answer.summary[i], target.summary[i]) + torch.stack(patches).mean()) / 2)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("letter", ["a", "b"])
def test_losses_and_coefficients_are_those_of_the_released_code(letter: str) -> None:
    golden = method(letter)
    for step, facts in enumerate(golden.facts["steps"]):
        answers, targets = golden.answers(step), golden.targets(step)
        for dropping in (0, 1):
            loss = distil(answers, targets, p=dropping)
            assert float(loss.total) == pytest.approx(facts[f"loss_drop{dropping}"], rel=1e-5)
        for name in golden.dims:
            assert float(loss.terms[f"keep/{name}"]) == pytest.approx(facts["coeff_drop1"][name], abs=1e-6)
            assert_near(per_image(answers, targets)[list(golden.dims).index(name)],
                        golden.tensors[f"step{step}.loss_per_image.{name}"])  # fmt: skip
            for part, theirs in {
                "": f"loss/dist_{name}",
                "/cls": f"loss/dist_cls_{name}",
                "/patch": f"loss/dist_patch_{name}",
                "/cls/cos": f"loss/dist_cls_cos_{name}",
                "/cls/sl1": f"loss/dist_cls_sl1_{name}",
                "/patch/cos": f"loss/dist_patch_cos_{name}",
                "/patch/sl1": f"loss/dist_patch_sl1_{name}",
            }.items():
                assert float(loss.terms[f"loss/{name}{part}"]) == pytest.approx(facts["parts"][theirs], rel=1e-5)


def test_the_total_is_the_mean_over_the_pairs_that_were_kept() -> None:
    answers, targets = pairs()
    index = torch.arange(6) + 100
    loss = distil(answers, targets, p=0.5, key=(3, 8), index=index)
    each = per_image(answers, targets)
    keys = rng.keys_torch(rng.key(3, rng.Purpose.DROP_TEACHER, 8), index)
    kept = torch.stack([rng.uniform_torch(keys, t) >= 0.5 for t in range(3)])
    kept[each.argmax(0), torch.arange(6)] = True
    assert float(loss.weight) == kept.sum()
    torch.testing.assert_close(loss.total, (each * kept).sum() / kept.sum())


def test_the_teacher_furthest_from_the_student_always_stays() -> None:
    losses = torch.rand(4, 5000)
    kept = TeacherDropping(1.0)(losses, (0, 0), torch.arange(5000), None)
    assert torch.equal(kept.argmax(0), losses.argmax(0)) and torch.equal(kept.sum(0), torch.ones(5000))
    kept = TeacherDropping(0.5)(losses, (0, 0), torch.arange(5000), None)
    assert kept.gather(0, losses.argmax(0, keepdim=True)).all()


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_every_other_teacher_is_dropped_with_probability_p(p: float) -> None:
    images, teachers = 100_000, 4
    losses = torch.rand(teachers, images)
    kept = TeacherDropping(p)(losses, (22, 7), torch.arange(images), None)
    worst = losses.argmax(0)
    for t in range(teachers):
        others = kept[t][worst != t]
        bound = 4 * math.sqrt(p * (1 - p) / len(others))
        assert abs((others == 0).double().mean() - p) <= bound


def test_drops_belong_to_seed_step_and_sample() -> None:
    losses, index = torch.rand(3, 64), torch.arange(64) * 17
    dropping = TeacherDropping(0.5)
    kept = dropping(losses, (1, 5), index, None)
    order = torch.randperm(64)
    assert torch.equal(dropping(losses[:, order], (1, 5), index[order], None), kept[:, order])
    assert not torch.equal(dropping(losses, (1, 6), index, None), kept)
    assert not torch.equal(dropping(losses, (2, 5), index, None), kept)


def test_per_patch_each_token_has_its_own_worst_teacher() -> None:
    answers, targets = pairs()
    section = sections.TeacherDropping(p=1.0, per="patch")
    balance = build_balance(section, list(targets))
    loss = distil(answers, targets, balance=balance)
    error = {
        n: [
            (1 - F.cosine_similarity(h, y, dim=-1)) / 2 + F.smooth_l1_loss(h, y, reduction="none").mean(-1) / 2
            for h, y in zip(answers[n], targets[n], strict=True)
        ]
        for n in targets
    }
    cls, patch = (torch.stack([e[i] for e in error.values()]).amax(0) for i in (0, 1))
    torch.testing.assert_close(loss.total, (cls.mean() + patch.mean()) / 2)
    everyone = build_balance(sections.TeacherDropping(p=0.0, per="patch"), list(targets))
    torch.testing.assert_close(
        distil(answers, targets, balance=everyone).total, distil(answers, targets, balance="none").total
    )


def test_without_balance_all_teachers_weigh_the_same() -> None:
    answers, targets = pairs()
    loss = distil(answers, targets, balance="none")
    torch.testing.assert_close(loss.total, per_image(answers, targets).mean())
    assert float(loss.weight) == 18


def test_manual_weights_weigh_teachers() -> None:
    answers, targets = pairs()
    loss = distil(answers, targets, balance=ManualWeights({"a": 2.0, "b": 0.0}, list(targets)))
    each = per_image(answers, targets).mean(1)
    torch.testing.assert_close(loss.total, (2 * each[0] + each[2]) / 3)


def test_one_random_teacher_teaches_a_whole_batch_and_all_get_their_turn() -> None:
    losses, chosen = torch.rand(4, 8), []
    for step in range(4000):
        kept = RandomTeacher()(losses, (1, step), torch.arange(8), None)
        assert kept.sum() == 8 and (kept.sum(1) == 8).sum() == 1
        chosen.append(int(kept.sum(1).argmax()))
    counts = torch.bincount(torch.tensor(chosen)) / 4000
    assert (counts - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_adaloss_weighs_a_teacher_inversely_to_its_running_loss() -> None:
    balance = AdaLoss(2, momentum=0.5)
    losses = torch.tensor([[1.0, 3.0], [6.0, 10.0]])
    assert torch.equal(balance(losses, (0, 0), torch.arange(2), None), torch.ones(2, 2))
    balance.update()
    torch.testing.assert_close(balance.running, torch.tensor([2.0, 8.0]))
    weights = balance(losses * 2, (0, 1), torch.arange(2), None)
    torch.testing.assert_close(weights[:, 0], torch.tensor([1.6, 0.4]))
    balance.update()
    torch.testing.assert_close(balance.running, torch.tensor([3.0, 12.0]))


def test_a_data_set_names_its_teachers() -> None:
    answers, targets = pairs(4)
    balance = OwnData([["a"], ["b", "c"], None], list(targets))
    domain = torch.tensor([0, 1, 1, 2])
    loss = distil(answers, targets, balance=balance, domain=domain)
    each = per_image(answers, targets)
    kept = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1], [0, 1, 1, 1]])
    torch.testing.assert_close(loss.total, (each * kept).sum() / kept.sum())


def test_fp32_inside_autocast() -> None:
    answers, targets = pairs()
    with torch.autocast("cpu", torch.bfloat16):
        inside = distil(answers, targets, p=1.0).total
    assert inside.dtype == torch.float32 and torch.equal(inside, distil(answers, targets, p=1.0).total)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_terms_name_the_teacher_whose_output_is_broken(bad: float) -> None:
    answers, targets = pairs()
    targets["b"].patches[1, 2, 3] = bad
    terms = distil(answers, targets, p=0.0).terms
    broken = {name for name in targets if not torch.isfinite(terms[f"loss/{name}"])}
    assert broken == {"b"} and not torch.isfinite(terms["loss"])


def test_targets_get_no_gradient_and_terms_carry_no_graph() -> None:
    answers, targets = pairs()
    targets = {n: Features(*(t.requires_grad_() for t in pair)) for n, pair in targets.items()}
    answers = {n: Features(*(t.requires_grad_() for t in pair)) for n, pair in answers.items()}
    loss = distil(answers, targets)
    loss.total.backward()
    assert all(t.grad is None for pair in targets.values() for t in pair)
    assert not any(t.requires_grad for t in loss.terms.values())


def _without_c(answers: dict[str, Features], targets: dict[str, Features]) -> Pair:
    del answers["c"]
    return answers, targets


def _wider(answers: dict[str, Features], targets: dict[str, Features]) -> Pair:
    return answers, targets | {"b": Features(torch.randn(6, 9), torch.randn(6, 4, 9))}


def _other_grid(answers: dict[str, Features], targets: dict[str, Features]) -> Pair:
    return answers, targets | {"b": Features(torch.randn(6, 8), torch.randn(6, 9, 8))}


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_without_c, r"teachers\.c: there is a target for it and no answer"),
        (_wider, r"teachers\.b: the projector answers 8 wide, the teacher's summary is 9 wide"),
        (_other_grid, r"teachers\.b: 9 patches, the student has 4\. `teachers\.b\.resolution: same_grid`"),
    ],
)
def test_answers_and_targets_that_do_not_fit_are_refused_by_teacher(spoil: object, text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        distil(*spoil(*pairs()))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: distil(*pairs(), p=1.5), r"loss\.balance\.p is 1\.5: a probability lies between 0 and 1"),
        (lambda: distil(*pairs(), balance="adalos"), "balance 'adalos' is none of"),
        (lambda: ManualWeights({"d": 1.0}, ["a"]), r"loss\.balance\.weights: 'd' is not one of the teachers a"),
        (lambda: ManualWeights({"a": 0.0}, ["a"]), r"loss\.balance\.weights are all 0"),
        (lambda: OwnData([["d"]], ["a"]), r"data\.train\[\]\.teachers: 'd' is not one of the teachers a"),
        (lambda: OwnData([[]], ["a"]), r"data\.train\[\]\.teachers is empty"),
    ],
)
def test_a_balance_that_cannot_be_is_refused_by_its_key(build: object, text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        build()  # type: ignore[operator]
