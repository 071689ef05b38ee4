"""Other papers' losses and standardisations against worked examples of their formulas, in fp64 and fp32."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kit import places, ranks
from tests.objective.test_worlds import Asked
from unicscale.contracts import Features, Loss
from unicscale.data.views.shift import STUDENT, Windows, meeting
from unicscale.errors import RecipeError
from unicscale.objective import build_balance
from unicscale.objective.balance import AdaLoss, TeacherDropping
from unicscale.objective.cone import Cone
from unicscale.objective.grid import on_larger, side
from unicscale.objective.loss import distil
from unicscale.objective.phi_s import PhiS
from unicscale.objective.relation import KINDS, distances, relations
from unicscale.ranks.world import World
from unicscale.recipe import sections

ZOO = places.GOLDEN / "zoo"
VALUES: dict[str, Any] = json.loads((ZOO / "values.json").read_text())
OPERATIONS = 209  # forward and back, two teachers, dropping; 207 in 0.1.0, which knew none of these keys
EUPE_PATCHES = {"cosine": 0.9, "smooth_l1": 0.1}


def example(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    held = load_file(ZOO / f"{name}.safetensors")
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in held.items()}


def near(found: Tensor, wanted: Any) -> None:
    rtol = 1e-10 if found.dtype == torch.float64 else 1e-5
    wanted = torch.as_tensor(wanted, dtype=found.dtype)
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol * float(wanted.abs().max()))


def alone(answer: Features, target: Features, **how: Any) -> Loss:
    """One teacher's loss, no teacher dropped."""
    return distil({"t": answer}, {"t": target}, balance="none", **how)


both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


@both_precisions
@pytest.mark.parametrize("resize", ["bicubic", "bilinear"])
@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_eupe_compares_patches_on_the_larger_grid(dtype: torch.dtype, resize: str, beta: float) -> None:
    x = example("eupe", dtype)
    answer = Features(x["cls_answer"], x["patch_answer"].flatten(1, 2))
    target = Features(x["cls_target"], x["patch_target"].flatten(1, 2))
    values, patch = VALUES["eupe"], VALUES["eupe"][f"patch_{resize}_beta{beta:.0f}"]
    how = dict(summary={"cosine": 1.0}, patches=EUPE_PATCHES, beta=beta, grid="larger", resize=resize)
    for gamma in (0.0, 1.0, 2.0):
        loss = alone(answer, target, weights={"t": {"patches": gamma}}, **how)
        near(2 * loss.total, values["cls"] + gamma * patch)
        if beta == 1.0 and resize == "bicubic":
            near(2 * loss.total, values[f"total_gamma{gamma:.0f}"])
    near(loss.terms["loss/t/cls"], values["cls"])
    near(loss.terms["loss/t/patch"], patch)
    near(on_larger(answer.patches, target.patches, resize)[0], x[f"patch_answer_{resize}"].flatten(1, 2))


@both_precisions
def test_angles_are_measured_against_the_dispersion_of_the_teacher(dtype: torch.dtype) -> None:
    x, values = example("angle_loss", dtype), VALUES["angle_loss"]
    answer, spread = x["student"].requires_grad_(), torch.tensor(values["dispersion"], dtype=dtype)
    how = dict(summary={"angle": 1.0}, spread={"t": spread})
    loss = alone(Features(answer, None), Features(x["teacher"], None), **how)
    near(2 * loss.total.detach(), values["loss"])
    (2 * loss.total).backward()
    near(answer.grad, x["gradient"])
    for i, one in enumerate(x["each"]):
        near(
            2 * alone(Features(answer[i : i + 1], None), Features(x["teacher"][i : i + 1], None), **how).total.detach(),
            one,
        )
    unknown = how | {"spread": {"t": torch.zeros((), dtype=dtype)}}
    loss = alone(Features(answer, None), Features(x["teacher"], None), **unknown)
    near(2 * loss.total.detach(), values["cosine_loss"])
    equal = x["teacher"].clone().requires_grad_()
    alone(Features(equal, None), Features(x["teacher"], None), **how).total.backward()
    assert torch.equal(equal.grad, torch.zeros_like(equal)), "the slope at equality is cut off, not infinite"


@both_precisions
def test_a_cone_is_the_mean_direction_and_the_mean_squared_angle_to_it(dtype: torch.dtype) -> None:
    x, cone = example("angle_loss", dtype), Cone(8).to(dtype)
    assert torch.equal(cone(x["teacher"], momentum=1.0), x["teacher"]) and float(cone.dispersion) == 0
    cone(x["teacher"], momentum=0.5)  # the same tokens: the direction stays, and is known now
    near(F.normalize(cone.mean, dim=0), x["mean_direction"])
    near(cone.dispersion, VALUES["angle_loss"]["dispersion"])


@both_precisions
def test_phi_s_is_that_of_its_paper(dtype: torch.dtype) -> None:
    x, values = example("phi_s", dtype), VALUES["phi_s"]
    standardizer = PhiS(12).to(dtype)
    standardizer(x["tokens"], momentum=1.0)
    near(standardizer.mean, x["mean"])
    near(standardizer.covariance, x["covariance"])
    near(standardizer.deviation, torch.full((12,), values["phi"], dtype=dtype))
    z = standardizer.normalise(x["tokens"])
    # ours is another Hadamard matrix of that order: behind it, the same coordinates with the same signs
    near((z @ standardizer.signs) / 12**0.5, x["z"] @ x["hadamard"])
    near(z.var(0), torch.ones(12))
    near(torch.pdist(z), torch.pdist(x["tokens"]) / values["phi"])
    near(standardizer.invert(z), x["tokens"])


@pytest.mark.parametrize("name", ["golden", "wide"])
def test_phi_s_and_angles_are_those_that_the_public_trainer_computes(name: str) -> None:
    held = example("public_trainer", torch.float64)
    golden = {"tokens": example("phi_s", torch.float64)["tokens"]} | example("angle_loss", torch.float64)
    tokens = golden["tokens"] if name == "golden" else held["phi_s/wide/tokens"]
    standardizer = PhiS(tokens.shape[1]).double()
    standardizer(tokens, momentum=1.0)
    near(1 / standardizer.deviation, held[f"phi_s/{name}/alpha"].expand(tokens.shape[1]))
    # another Hadamard matrix, and an eigenvector has no sign: behind the first, equal up to the second
    ours = standardizer.normalise(tokens) @ standardizer.signs / tokens.shape[1] ** 0.5
    theirs = (held[f"phi_s/{name}/targets"] @ held[f"phi_s/{name}/hadamard"]).abs()
    # we round tokens to 2^-30 before the first update, so that ranks agree to the bit
    torch.testing.assert_close(ours.abs(), theirs, rtol=0, atol=1e-8)
    teacher, student = golden["teacher"], golden["student"]
    if name == "wide":
        teacher, student = tokens[:64], held["angle/wide/student"]
    cone = Cone(teacher.shape[1]).double()
    for momentum in (1.0, 0.5):  # the mean direction first; theirs counts the batch at hand, ours what came before it
        cone(teacher, momentum=momentum)
    near(cone.dispersion, held[f"angle/{name}/dispersion"])
    how = dict(summary={"angle": 1.0}, spread={"t": cone.dispersion})
    near(2 * alone(Features(student, None), Features(teacher, None), **how).total, held[f"angle/{name}/loss"])


def test_a_restarted_rotation_is_that_of_the_new_stage_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    stages = [torch.randn(3, 50, 12, generator=generator) * scale for scale in (1.0, torch.arange(1.0, 13))]
    again, alone_ = PhiS(12), PhiS(12)
    for standardizer, seen in ((again, stages), (alone_, stages[1:])):
        for stage in seen:
            standardizer.restart()
            for number, tokens in enumerate(stage):
                standardizer(tokens, momentum=1 / (number + 1))
    # not frozen yet: the rotation was renewed at the first and second step of the stage, not at the run's fourth
    near(again.covariance, alone_.covariance)
    near(again.rotation, alone_.rotation)
    assert int(again.updates) == int(alone_.updates) == len(stages[1]) == 3


@both_precisions
def test_siglino_sums_over_channels_where_mse_takes_the_mean(dtype: torch.dtype) -> None:
    x, losses = example("per_image_mean", dtype), []
    for answer, target in zip(*(x[n].split(x["tokens"].tolist()) for n in ("answer", "target")), strict=True):
        loss = alone(Features(None, answer[None]), Features(None, target[None]), patches={"mse": 1.0})
        losses.append(6 * 2 * loss.total)
    near(torch.stack(losses), x["per_image"])
    near(torch.stack(losses).mean(), VALUES["per_image_mean"]["loss"])


@both_precisions
def test_theias_cosine_over_the_whole_map_is_another_number_than_ours_over_each_token(dtype: torch.dtype) -> None:
    x, values = example("theia", dtype), VALUES["theia"]
    kinds = {"cosine": 0.9, "smooth_l1": 0.1, "mse": 0.0}
    terms = alone(Features(None, x["answer"]), Features(None, x["target"]), patches=kinds).terms
    near(terms["loss/t/patch/sl1"], values["smooth_l1"])
    near(terms["loss/t/patch/mse"], values["mse"])
    near(terms["loss/t/patch/cos"], values["per_token"])
    assert abs(float(terms["loss/t/patch/cos"]) - values["cosine"]) > 1e-3


def test_the_larger_of_two_grids_is_the_one_of_the_loss() -> None:
    held = VALUES["independent_scales"]
    for student, teachers in held["grid_of_the_loss"].items():
        for teacher, wanted in teachers.items():
            maps = (torch.zeros(1, (int(size) // held["patch"]) ** 2, 2) for size in (student, teacher))
            assert [side(one) for one in on_larger(*maps, "bicubic")] == [wanted, wanted]


# --- how images lie to each other -------------------------------------------------------------------


@both_precisions
@pytest.mark.parametrize("images", [5, 6])
def test_relations_are_those_of_the_worked_examples(dtype: torch.dtype, images: int) -> None:
    x, values = example(f"relations_{images}", dtype), VALUES[f"relations_{images}"]
    answer = x["student"].requires_grad_()
    near(KINDS["arkd"](answer, x["teacher"]).to(dtype).detach(), values["arkd_own_mean"])
    near(KINDS["rkd"](answer, x["teacher"]).to(dtype).detach(), values["rkd_distance_own_mean"])
    KINDS["arkd"](answer, x["teacher"]).backward()
    near(answer.grad, x["gradient"])
    apart = ~torch.eye(images, dtype=torch.bool)
    near(distances(x["teacher"]).to(dtype), x["teacher_normalised"][apart].view(images, images - 1))
    near(distances(x["teacher"]).median().to(dtype), values["median"])


def test_a_relation_counts_beside_the_summaries_as_its_weight_says() -> None:
    answers, targets = ({n: Features(torch.randn(5, 4), torch.randn(5, 9, 4)) for n in "ab"} for _ in range(2))
    plain = distil(answers, targets, balance="none")
    related = distil(answers, targets, balance="none", relation={"arkd": 3.0})
    each = torch.stack([KINDS["arkd"](answers[n].summary, targets[n].summary) for n in "ab"]).float()
    torch.testing.assert_close(related.total, plain.total + 3 * each.mean() / 2)
    torch.testing.assert_close(related.terms["loss"], related.total)
    torch.testing.assert_close(related.terms["loss/b/arkd"], each[1])
    assert torch.equal(related.weight, plain.weight)


def test_images_that_are_the_same_have_no_distance_and_no_slope() -> None:
    answer = torch.randn(2, 6).repeat(3, 1).requires_grad_()
    KINDS["arkd"](answer, torch.randn(6, 5)).backward()
    assert bool(torch.isfinite(answer.grad).all())


SAMPLES = 8


def related() -> dict[str, Tensor]:
    """ARKD's value and its gradient for this rank's rows, as the whole loss hands it to an engine."""
    world = World.start(sections.EngineSection(device="cpu"))
    generator = torch.Generator().manual_seed(4)
    answer, target = (torch.randn(SAMPLES, 12, generator=generator) for _ in range(2))
    patches = torch.zeros(SAMPLES, 4, 3)
    own = torch.arange(SAMPLES).tensor_split(world.size)[world.rank]
    rows = answer[own].requires_grad_()
    alpha = torch.rand(1, SAMPLES, generator=generator)[:, own]
    value, whole = relations({"t": Features(rows, None)}, {"t": Features(target[own], None)}, alpha, "arkd", world)
    value["t"].backward()
    found = {"value": value["t"].detach(), "weight": whole, "rows": rows.grad.clone(), "own": own}
    rows.grad = None
    answers, targets = {"t": Features(rows, patches[own])}, {"t": Features(target[own], patches[own])}
    loss = distil(answers, targets, balance="none", relation={"arkd": 2.0}, summary={"mse": 1.0}, world=world)
    loss.sum.backward()
    total = world.all_sum(torch.stack([loss.sum.detach(), loss.weight]))
    found |= {"loss": total[0] / total[1], "whole": rows.grad / total[1]}
    world.close()
    return found


def test_a_relation_has_the_same_bits_on_any_number_of_ranks() -> None:
    (alone,) = ranks.run(1, related)
    for size in (2, 4):
        for found in ranks.run(size, related):
            assert torch.equal(found["value"], alone["value"]) and torch.equal(found["weight"], alone["weight"])
            assert torch.equal(found["rows"], alone["rows"][found["own"]])
            torch.testing.assert_close(found["loss"], alone["loss"], rtol=1e-6, atol=0)
            torch.testing.assert_close(found["whole"], alone["whole"][found["own"]], rtol=1e-5, atol=1e-8)


# --- windows that moved -----------------------------------------------------------------------------


@both_precisions
def test_moved_windows_are_compared_where_they_meet(dtype: torch.dtype) -> None:
    x, values = example("shift_loss", dtype), VALUES["shift_loss"]
    grid = x["student"].shape[1]
    index, both = meeting(x["student_at"], x["teacher_at"], grid)
    assert torch.equal(both, x["student_mask"].flatten(1)) and torch.equal(both.sum(1), x["count"])
    theirs = x["teacher_mask"].flatten(1).nonzero()[:, 1]  # the k-th of one belongs to the k-th of the other
    assert torch.equal(index[both], theirs)
    teacher = x["teacher"].flatten(1, 2)
    target = teacher.gather(1, index[..., None].expand_as(teacher))
    how = dict(patches={"mse": 1.0}, both={"t": both})
    loss = alone(Features(None, x["student"].flatten(1, 2)), Features(None, target), **how)
    near(2 * loss.total, values["mean_over_images"])
    near(loss.terms["loss/t/patch"], values["mean_over_images"])
    for i, one in enumerate(x["per_image"]):
        part = slice(i, i + 1)
        maps = (Features(None, x["student"].flatten(1, 2)[part]), Features(None, target[part]))
        near(2 * alone(*maps, patches={"mse": 1.0}, both={"t": both[part]}).total, one)


class Computed(TorchDispatchMode):
    """Counts operations that write numbers; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not (function.is_view or function.overloadpacket.__name__ == "_unsafe_view")
        return function(*args, **(kwargs or {}))


def test_keys_that_no_recipe_names_add_no_operation_to_the_loss() -> None:
    section = sections.LossSection()
    for how in ({}, section.arguments({n: sections.TeacherSection(plugin="dino") for n in "ab"})):
        targets = {n: Features(torch.randn(4, 6), torch.randn(4, 9, 6)) for n in "ab"}
        answers = {n: f.each(lambda t: torch.randn_like(t).requires_grad_()) for n, f in targets.items()}
        with Computed() as computed:
            distil(answers, targets, key=(1, 2), index=torch.arange(4), **how).sum.backward()
        assert computed.count == OPERATIONS


@pytest.mark.parametrize("relation", ["arkd", "rkd"])
def test_neither_windows_nor_relations_make_the_host_wait(relation: str) -> None:
    images, index = torch.zeros(4, 3, 24, 24, dtype=torch.uint8), torch.arange(4)
    answers = {"t": Features(torch.randn(4, 6).requires_grad_(), torch.randn(4, 16, 5).requires_grad_())}
    summary, patches = torch.randn(4, 6), torch.randn(4, 16, 5)
    with Asked() as asked:
        windows = Windows(images, 0.5, 4, (1, 2), index)
        assert windows.of(STUDENT).shape == windows.of("t").shape == (4, 3, 16, 16)
        targets = {"t": Features(summary, windows.meet("t", patches))}
        loss = distil(answers, targets, key=(1, 2), index=index, relation={relation: 1.0}, both=windows.both)
        loss.sum.backward()
    assert asked.found == []


# --- teachers that lack a kind of token -------------------------------------------------------------


def unlike() -> tuple[dict[str, Features], dict[str, Features]]:
    torch.manual_seed(3)
    shapes = {"both": (4, 6), "dense": (None, 5), "global": (7, None)}
    made = [
        {
            name: Features(None if s is None else torch.randn(6, s), None if p is None else torch.randn(6, 9, p))
            for name, (s, p) in shapes.items()
        }
        for _ in range(2)
    ]
    return made[0], made[1]


def token(answer: Tensor, target: Tensor) -> Tensor:
    away = 1 - F.cosine_similarity(answer, target, dim=-1)
    return (away + F.smooth_l1_loss(answer, target, reduction="none").mean(-1)) / 2


def test_half_of_a_missing_token_is_missing_from_the_loss_and_the_whole_is_compared() -> None:
    answers, targets = unlike()
    seen = []

    class Spy(TeacherDropping):
        def forward(self, losses: Tensor, *rest: Any) -> Tensor:
            seen.append(losses)
            return super().forward(losses, *rest)

    weights = {"both": {"summary": 1.0, "patches": 2.0}, "dense": {"patches": 2.0}}
    loss = distil(answers, targets, balance=Spy(1.0), weights=weights)
    summary = {n: token(answers[n].summary, targets[n].summary) for n in ("both", "global")}
    patches = {n: token(answers[n].patches, targets[n].patches).mean(-1) for n in ("both", "dense")}
    entering = torch.stack(
        [(summary["both"] + 2 * patches["both"]) / 2, 2 * patches["dense"] / 2, summary["global"] / 2]
    )
    compared = torch.stack([(summary["both"] + 2 * patches["both"]) / 3, patches["dense"], summary["global"]])
    torch.testing.assert_close(seen[0], compared)
    worst = compared.argmax(0)
    torch.testing.assert_close(loss.total, entering.gather(0, worst[None]).mean())


def test_curves_exist_only_where_the_token_does() -> None:
    terms = distil(*unlike(), balance="none").terms
    assert {name for name in terms if name.count("/") == 2} == {
        "loss/both/cls", "loss/both/patch", "loss/dense/patch", "loss/global/cls",
    }  # fmt: skip
    assert not any(name.startswith(("loss/dense/cls", "loss/global/patch")) for name in terms)


def test_a_teacher_may_be_answered_by_another_loss_than_the_others() -> None:
    answers, targets = unlike()
    terms = distil(answers, targets, patches={"cosine": 1.0}, own={"dense": {"patches": {"mse": 1.0}}}).terms
    apart = (answers["dense"].patches - targets["dense"].patches).square().mean()
    torch.testing.assert_close(terms["loss/dense/patch"], apart)
    assert "loss/both/patch/cos" in terms and "loss/dense/patch/cos" not in terms


def test_adaloss_remembers_what_is_compared() -> None:
    balance = AdaLoss(3)
    answers, targets = unlike()
    distil(answers, targets, balance=balance)
    balance.update()
    patches = token(answers["dense"].patches, targets["dense"].patches)
    torch.testing.assert_close(balance.running[1], patches.mean())


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"summary": {"mes": 1.0}}, r"loss: 'mes' is no kind of it\. Did you mean 'mse'\?"),
        ({"summary": {"angle": 1.0}}, r"angle needs the teacher's dispersion"),
        (
            {"balance": build_balance(sections.TeacherDropping(per="patch"), ["both"])},
            r"per: patch' .* 'dense' has no summary",
        ),
        ({"relation": {"arkd": 1.0}}, r"loss\.relation is between summaries, and teacher 'dense' has none\."),
        (
            {"relation": {"akrd": 1.0}},
            r"loss\.relation: 'akrd' is no kind of it\. Did you mean 'arkd'\? It takes: arkd, rkd",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(how: dict[str, Any], text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        distil(*unlike(), **how)


def test_a_projector_that_answers_what_the_teacher_lacks_is_refused() -> None:
    answers, targets = unlike()
    answers["dense"] = answers["dense"]._replace(summary=torch.zeros(6, 4))
    with pytest.raises(RecipeError, match=r"teachers\.dense: the projector answers summary, the teacher gives none"):
        distil(answers, targets)
