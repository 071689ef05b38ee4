"""Three engines, one contract: whatever holds the parameters, the numbers are those of the plain one-process engine."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kit import contract, ranks
from tests.kit.contract import Case, Trace
from unicscale.errors import RecipeError
from unicscale.ranks.device import computes_fp16

ENGINES = ["plain", "fsdp2", "zero3"]
# relative, over all weights together. bf16 rounds at 4e-3, and AdamW turns the sign of a gradient near zero into a step
TOLERANCE = {
    "fp32": {"loss": 1e-6, "gradient": 1e-6, "weights": 1e-6},
    "bf16": {"loss": 5e-3, "gradient": 3e-2, "weights": 5e-3},
}
QUICK = {
    1: [Case(kind, *rest) for kind in ENGINES for rest in (("fp32", "none", 1), ("bf16", "full", 2))],
    2: [Case(kind, *rest) for kind in ENGINES for rest in (("fp32", "full", 2), ("bf16", "ladder", 1))]
    + [Case("fsdp2", accumulation=2, options=(("reshard", False),))],
    4: [Case("fsdp2"), Case("zero3"), Case("fsdp2", options=(("replicate", 2),))],
}
GRID = [
    Case(kind, dtype, checkpointing, accumulation)
    for kind in ENGINES
    for dtype in ("fp32", "bf16")
    for checkpointing in ("none", "ladder", "full")
    for accumulation in (1, 2)
]


def on(size: int, function, *arguments):
    return ranks.run(size, contract.in_group, function, *arguments)[0]


@pytest.fixture(scope="module")
def plain() -> Trace:
    return on(1, contract.traces, [Case()], 5)[0]


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor], kind: str) -> float:
    names = [n for n in theirs if n.startswith(kind)]
    assert names and {n for n in ours if n.startswith(kind)} == set(names)
    off = sum((ours[n].double() - theirs[n].double()).square().sum() for n in names)
    return float((off / sum(theirs[n].double().square().sum() for n in names)).sqrt())


def assert_same(case: Case, ours: Trace, plain: Trace) -> None:
    allowed = TOLERANCE[case.dtype]
    assert ours.losses == pytest.approx(plain.losses, rel=allowed["loss"]), case
    assert ours.norms == pytest.approx(plain.norms, rel=3 * allowed["loss"]), case
    assert apart(ours.first, plain.first, "exp_avg/") < allowed["gradient"], case
    assert apart(ours.last, plain.last, "weights/") < allowed["weights"], case


@pytest.mark.parametrize("size", QUICK)
def test_every_engine_takes_the_steps_of_the_plain_one(size: int, plain: Trace) -> None:
    for case, ours in zip(QUICK[size], on(size, contract.traces, QUICK[size], 5), strict=True):
        assert_same(case, ours, plain)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_whole_grid_takes_the_steps_of_the_plain_one(size: int, plain: Trace) -> None:
    found = ranks.run(size, contract.in_group, contract.traces, GRID, 5, timeout=880)[0]
    for case, ours in zip(GRID, found, strict=True):
        assert_same(case, ours, plain)


def test_the_gradient_is_that_of_the_mean_over_the_kept_pairs(plain: Trace) -> None:
    engine = contract.open_engine(Case(), contract.World())
    index = torch.arange(contract.IMAGES)
    engine.student.set_draws((7, 0), index)
    answers = engine.student(contract.images(0)).answers
    contract.distil(answers, contract.targets(0), key=(7, 0), index=index).total.backward()
    for name, parameter in engine.student.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(plain.first[f"exp_avg/{name}"] * 10, parameter.grad, rtol=1e-4, atol=1e-8)


def test_a_nan_on_one_rank_is_skipped_by_all_and_leaves_no_trace() -> None:
    cases = [Case("plain", "fp32"), Case("fsdp2", "bf16", accumulation=2), Case("zero3", "bf16")]
    for case, found in zip(cases, on(2, contract.poisoned, cases), strict=True):
        assert not any(torch.isfinite(torch.tensor(found["norms"]))), case
        for name, value in found["before"].items():
            assert torch.equal(value, found["after"][name]), (case, name)
            assert torch.isfinite(found["later"][name]).all(), (case, name)
        assert found["later"]["optimizer/step"] == 2, case


def test_fp16_halves_its_scale_when_a_gradient_overflows() -> None:
    cases = [Case(kind, "fp16") for kind in ENGINES if kind != "zero3" or computes_fp16("cpu")]
    for case, found in zip(cases, on(2, contract.poisoned, cases), strict=True):
        before, after = found["before"], found["after"]
        assert after["optimizer/scale"] == before["optimizer/scale"] / 2, case
        assert torch.equal(before["weights/trunk.pos_embed"], after["weights/trunk.pos_embed"]), case
        assert found["later"]["optimizer/step"] == 2, case


@pytest.mark.parametrize("reshard", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_a_look_at_the_student_between_steps_changes_none(plain: Trace, reshard: bool, fused: bool) -> None:
    losses = on(2, contract.evaluated, Case("fsdp2", options=(("reshard", reshard),)), fused)
    assert losses == pytest.approx(plain.losses[:3], rel=1e-6)


@pytest.mark.parametrize("reshard", [False, True])
def test_gathers_that_start_ahead_of_their_turn_change_no_bit(reshard: bool) -> None:
    case = Case("fsdp2", "bf16", accumulation=2, options=(("reshard", reshard),))
    ahead, in_turn = (on(2, contract.hurried, case, early) for early in (True, False))
    assert len(ahead) > 50 and all(torch.equal(ahead[name], in_turn[name]) for name in in_turn)


def test_zero3_and_plain_survive_a_look_too(plain: Trace) -> None:
    for kind in ("plain", "zero3"):
        assert on(2, contract.evaluated, Case(kind), False) == pytest.approx(plain.losses[:3], rel=1e-6)


def refusal(world: contract.World, case: Case) -> str:
    if case.dtype == "fp16":  # whatever this CPU can: some have instructions for it, and DeepSpeed takes those
        import deepspeed

        deepspeed.get_accelerator().is_fp16_supported = lambda: False
    with pytest.raises(RecipeError) as refused:
        contract.open_engine(case, world).shard_teacher(contract.TinyTeacher(), "full")
    return str(refused.value)


def test_what_an_engine_cannot_do_it_says() -> None:
    assert on(1, refusal, Case("plain")) == (
        "'shard: full' needs a sharding engine. Set engine.kind to fsdp2 or zero3, or shard: none."
    )
    assert on(1, refusal, Case("zero3", "fp16")) == (
        "engine.dtype 'fp16': DeepSpeed cannot compute in it on this device. Say bf16 or fp32."
    )
    assert on(1, refusal, Case("fsdp2", options=(("replicate", 2),))) == (
        "'engine.replicate' is 2, which does not divide 1 ranks."
    )


def test_another_size_changes_the_positions_and_nothing_else() -> None:
    cases = [Case(kind, options=(("ema", 0.9),)) for kind in ENGINES]
    found = on(2, contract.resized, cases, 32)
    for case, (before, after, loss, overlaps) in zip(cases, (f.values() for f in found), strict=True):
        assert overlaps == [False], f"{case}: old weights were in memory when new ones were made"
        for name, value in before.items():
            if name.endswith("trunk.pos_embed"):
                assert after[name].shape == (1, 17, 36), (case, name)
                assert bool(after[name].any()) is name.startswith(("weights/", "ema/")), (case, name)
            else:
                assert torch.equal(value, after[name]), (case, name)
        assert loss == pytest.approx(found[0]["loss"], rel=1e-6), case


def test_pieces_of_one_engine_restore_any_other() -> None:
    for found in on(2, contract.exchanged, ENGINES):
        assert found["given"].keys() == found["taken"].keys()
        for name, value in found["given"].items():
            assert torch.equal(value, found["taken"][name]), name
        assert found["losses"][0] == pytest.approx(found["losses"][1], rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_weights_and_moments_take_a_rank_its_share_of_memory(size: int) -> None:
    for share in on(size, contract.held_bytes, [Case("fsdp2"), Case("zero3")]):
        assert share == pytest.approx(1 / size, rel=0.15)


def remembered(world: contract.World) -> int:
    placed = contract.open_engine(Case("fsdp2"), world).shard_teacher(contract.TinyTeacher(), "full")
    with torch.no_grad():
        for _ in range(3):
            placed(torch.zeros(2, 5, 12))
    return len(placed._get_fsdp_state()._comm_ctx.post_forward_order)


def test_a_sharded_teacher_does_not_pile_up_its_forwards_for_a_backward() -> None:
    assert on(2, remembered) == 0


def test_a_sharded_teacher_answers_as_a_whole_one_and_lies_in_shares() -> None:
    for kind, found in zip(ENGINES, on(2, contract.taught, ENGINES), strict=True):
        assert found["empty"].isnan().all(), f"{kind}: a teacher without weights must not look like one"
        for answer in found["answers"]:
            torch.testing.assert_close(answer, found["truth"], rtol=1e-5, atol=1e-6)
        assert found["share"] == pytest.approx(1 if kind == "plain" else 0.5, rel=0.05)


def test_no_step_waits_for_a_number() -> None:
    assert on(2, contract.looks, [Case("plain"), Case("fsdp2", "bf16", "full")]) == [0, 0]
