"""Every projector behind one door."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unicscale.contracts import Features, Widths
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.student.projector import Rung, build_projector, widths_of

DIMS = {"a": 8, "b": 12}
WIDTHS = {name: Widths.of(dim) for name, dim in DIMS.items()}
UNLIKE = {"both": Widths(8, 12), "dense": Widths(None, 12), "global": Widths(8, None)}
KINDS = [
    sections.Ladder(),
    sections.Ladder(blocks=[0, -1], hidden=5, last_hidden=7),
    sections.Ladder(shared=True),
    sections.Ladder(pre_norm=True, mid_norm=True),
    *(sections.MLP(layers=n) for n in range(4)),
    sections.MLP(shared=True),
    sections.MLP(norm=True, bias=False),
    sections.TransformerProjector(),
]


def built(section: sections.Projector, prefix: int = 1, teachers: dict[str, Widths] | None = None) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_projector(section, widths=[16] * 3, prefix=prefix, teachers=teachers or WIDTHS)


def tokens(prefix: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, prefix + 9, 16) for _ in range(3)]


def shapes(answers: dict[str, Features]) -> dict[str, tuple[tuple[int, ...] | None, ...]]:
    return {name: tuple(None if t is None else tuple(t.shape) for t in answer) for name, answer in answers.items()}


@pytest.mark.parametrize("prefix", [1, 5])
@pytest.mark.parametrize("section", KINDS, ids=repr)
def test_each_kind_of_token_has_its_own_width_or_is_not_answered(section: sections.Projector, prefix: int) -> None:
    one_width = {"both": Widths(8, 8)} if getattr(section, "shared", False) else {}
    teachers = UNLIKE | one_width
    projector = built(section, prefix, teachers)
    answers = projector(tokens(prefix))
    wide = teachers["both"].patches
    assert shapes(answers) == {"both": ((2, 8), (2, 9, wide)), "dense": (None, (2, 9, 12)), "global": ((2, 8), None)}
    sum(t.square().sum() for answer in answers.values() for t in answer if t is not None).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projector.parameters()), "nothing lies idle"
    if section.kind != "transformer":  # whose one layer does not say which tokens it reads: runs keep statistics
        assert widths_of({f"projector.{n}": p for n, p in projector.named_parameters()}) == teachers


def test_one_perceptron_for_tokens_of_two_widths_is_refused_by_its_key() -> None:
    with pytest.raises(RecipeError, match=r"projector\.shared: .* teacher 'both', whose summary is 8 wide and whose"):
        built(sections.Ladder(shared=True), teachers=UNLIKE)


def test_a_ladder_reads_stages_of_different_widths() -> None:
    ladder = build_projector(sections.Ladder(), widths=[4, 8, 16], prefix=1, teachers=WIDTHS)
    blocks = [torch.randn(2, 1 + 9, width) for width in (4, 8, 16)]
    plain = ladder(blocks)
    ladder.fused = True
    for one, other in zip(plain["b"], ladder(blocks)["b"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert [len(rung.heads["a"]["cls"].fc1.weight) for rung in ladder.rungs.values()] == [4, 8, 64]


def test_a_perceptron_may_have_norms_and_no_biases() -> None:
    head = built(sections.MLP(hidden=6, norm=True, bias=False)).rungs["2"].heads["a"]["cls"]
    assert [name for name, _ in head.named_parameters()] == ["fc1.weight", "norm1.weight", "norm1.bias", "fc2.weight"]
    x = torch.randn(3, 16)
    hidden = torch.nn.functional.layer_norm(x @ head.fc1.weight.T, (6,))
    torch.testing.assert_close(head(x), torch.nn.functional.gelu(hidden) @ head.fc2.weight.T)


@pytest.mark.parametrize("prefix", [1, 5])
@pytest.mark.parametrize("section", KINDS, ids=repr)
def test_every_projector_answers_every_teacher_for_every_token_and_learns(
    section: sections.Projector, prefix: int
) -> None:
    projector = built(section, prefix)
    answers = projector(tokens(prefix))
    assert list(answers) == list(DIMS)
    for name, dim in DIMS.items():
        assert answers[name].summary.shape == (2, dim) and answers[name].patches.shape == (2, 9, dim)
    sum(t.square().sum() for answer in answers.values() for t in answer).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projector.parameters())
    assert any(isinstance(m, Rung) for m in projector.modules())
    assert widths_of({f"projector.{n}": p for n, p in projector.named_parameters()}) == WIDTHS


@pytest.mark.parametrize("teachers", [WIDTHS, UNLIKE], ids=["both", "unlike"])
@pytest.mark.parametrize("section", [s for s in KINDS if s.kind == "ladder"], ids=repr)
def test_the_fused_ladder_is_the_plain_one_with_its_gradients(
    section: sections.Ladder, teachers: dict[str, Widths]
) -> None:
    if section.shared:
        teachers = teachers | {"both": Widths(8, 8)}
    results = []
    for fused in (False, True):
        projector = built(section, 5, teachers)
        projector.fused = fused
        blocks = [t.requires_grad_() for t in tokens(5)]
        answers = [t for answer in projector(blocks).values() for t in answer if t is not None]
        torch.stack([t.sin().sum() for t in answers]).sum().backward()
        gradients = [p.grad for p in projector.parameters()] + [b.grad for b in blocks]
        results.append(answers + gradients)
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)


def test_each_block_has_its_width_by_the_rule_of_the_paper() -> None:
    projector = built(sections.Ladder())
    widths = [len(rung.heads["a"]["cls"].fc1.weight) for rung in projector.rungs.values()]
    assert widths == [16, 16, 64]


def test_answers_are_summed_in_fp32_under_autocast() -> None:
    projector = built(sections.Ladder())
    with torch.autocast("cpu", torch.bfloat16):
        answers = projector(tokens())
    assert answers["a"].patches.dtype == torch.float32


def test_registers_do_not_reach_the_ladder() -> None:
    projector, blocks = built(sections.Ladder(), 5), tokens(5)
    before = projector(blocks)["a"]
    after = projector([torch.cat([b[:, :1], b[:, 1:5] * 9, b[:, 5:]], 1) for b in blocks])["a"]
    assert torch.equal(before.patches, after.patches) and torch.equal(before.summary, after.summary)


def test_a_block_that_does_not_exist_is_refused_by_its_key() -> None:
    with pytest.raises(RecipeError, match=r"projector\.blocks: there is no block 3\. The student has 3: 0 to 2"):
        built(sections.Ladder(blocks=[0, 3]))
    with pytest.raises(RecipeError, match=r"projector\.blocks is empty"):
        built(sections.Ladder(blocks=[]))


def test_heads_that_do_not_divide_the_width_are_refused_by_their_key() -> None:
    with pytest.raises(RecipeError, match=r"projector\.heads: 3 heads do not divide the student's width, 16"):
        built(sections.TransformerProjector(heads=3))


def test_without_a_projector_the_last_block_answers_every_teacher_as_it_is() -> None:
    blocks = tokens(5)
    none = build_projector(
        sections.NoProjector(), widths=[16] * 3, prefix=5, teachers={"a": Widths.of(16), "b": Widths.of(16)}
    )
    answers = none(blocks)
    assert list(answers) == ["a", "b"] and not list(none.parameters())
    for answer in answers.values():
        assert torch.equal(answer.summary, blocks[-1][:, 0]) and torch.equal(answer.patches, blocks[-1][:, 5:])


def test_without_a_projector_the_widths_must_agree() -> None:
    with pytest.raises(RecipeError) as refused:
        build_projector(
            sections.NoProjector(), widths=[16] * 3, prefix=1, teachers={"a": Widths.of(8), "b": Widths.of(16)}
        )
    assert str(refused.value) == (
        "projector.kind: none, and the student is 16 wide where its teachers are not: a 8.\n"
        "  Choose a student of their width, or the least that joins two widths: {kind: mlp, layers: 0}."
    )


@pytest.mark.parametrize("prefix", [1, 5])
@pytest.mark.parametrize("widths", [[16, 16, 16, 16], [4, 8, 8, 16]], ids=["one width", "a pyramid"])
@pytest.mark.parametrize(
    "teachers", [WIDTHS, UNLIKE, {"global": Widths(8, None)}], ids=["both", "unlike", "summaries only"]
)
def test_the_fused_ladder_is_exact(prefix: int, widths: list[int], teachers: dict[str, Widths]) -> None:
    for section in (sections.Ladder(), sections.Ladder(shared=True)):
        if section.shared and teachers is UNLIKE:
            continue
        if section.shared and teachers is WIDTHS:
            teachers = teachers | {"dense": Widths(None, 12), "global": Widths(8, None)}
        torch.manual_seed(0)
        ladder = build_projector(section, widths=widths, prefix=prefix, teachers=teachers).double()
        blocks = [torch.randn(3, prefix + 9, width, dtype=torch.float64).requires_grad_() for width in widths]
        found = []
        for ladder.fused in (False, True):
            everything = [*ladder.parameters(), *blocks]
            answers = [t for answer in ladder(blocks).values() for t in answer if t is not None]
            assert all(t.dtype == torch.float64 for t in answers)
            found.append([*answers, *torch.autograd.grad([t.sin().sum() for t in answers], everything)])
        for plain, fused in zip(*found, strict=True):
            torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-10)


def test_the_fused_ladder_leaves_blocks_alone_that_want_no_gradient() -> None:
    ladder, blocks = built(sections.Ladder()), tokens()
    ladder.fused = True
    blocks[1].requires_grad_()
    torch.stack([t.sum() for answer in ladder(blocks).values() for t in answer]).sum().backward()
    assert blocks[0].grad is None and blocks[1].grad.abs().sum() > 0


def test_under_autocast_the_fused_ladder_rounds_no_more_than_the_plain_one() -> None:
    ladder = built(sections.Ladder())
    blocks = [t.requires_grad_() for t in tokens()]
    found = {}
    for ladder.fused, dtype in ((False, None), (False, torch.bfloat16), (True, torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
            answers = [t for answer in ladder(blocks).values() for t in answer]
        gradients = torch.autograd.grad([t.sin().sum() for t in answers], [*ladder.parameters(), *blocks])
        assert all(t.dtype == torch.float32 for t in [*answers, *gradients])
        found[ladder.fused, dtype] = torch.cat([t.flatten() for t in (*answers, *gradients)])
    exact, plain, fused = found.values()
    assert 0 < (fused - exact).norm() < 1.1 * (plain - exact).norm()


class Kernels(TorchDispatchMode):
    """Counts operators that are not views."""

    VIEWS = (
        "view", "_unsafe_view", "t", "transpose", "permute", "select", "slice", "split", "split_with_sizes",
        "unsqueeze", "unbind", "expand", "detach", "alias", "empty", "new_empty", "empty_like",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if (name := function.overloadpacket.__name__) not in self.VIEWS:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def of_unic_l() -> dict[bool, tuple[int, int, int]]:
    """Kernels forward, kernels backward, and bytes kept, plain and fused."""
    counted = {}
    for fused in (False, True):
        with torch.device("meta"):
            teachers = {"dinov2": Widths.of(1536), "metaclip": Widths.of(1280)}
            ladder = build_projector(sections.Ladder(), widths=[1024] * 24, prefix=1, teachers=teachers).bfloat16()
            blocks = [torch.empty(64, 1 + 256, 1024, dtype=torch.bfloat16, requires_grad=True) for _ in range(24)]
        ladder.fused = fused
        own = {p.untyped_storage()._cdata for p in ladder.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def keep(t: torch.Tensor, own: set[int] = own, kept: dict[int, torch.Tensor] = kept) -> torch.Tensor:
            if t.untyped_storage()._cdata not in own:
                kept[t.untyped_storage()._cdata] = t
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), Kernels() as forward:
            answers = [t for answer in ladder(blocks).values() for t in answer]
        with Kernels() as backward:
            torch.autograd.backward(answers, [torch.empty_like(t) for t in answers])
        held = sum(t.untyped_storage().nbytes() for t in kept.values())
        counted[fused] = (len(forward.seen), len(backward.seen), held)
    return counted


def test_the_fused_ladder_of_unic_l_takes_at_most_110_kernels_and_150_backward(of_unic_l: dict) -> None:
    forward, backward, _ = of_unic_l[True]
    assert (forward, backward) == (90, 114), "docs/scaling.md says so"
    assert forward <= 110 and backward <= 150


def test_the_fused_ladder_of_unic_l_keeps_at_most_six_tenths_for_backward(of_unic_l: dict) -> None:
    assert of_unic_l[True][2] <= 0.6 * of_unic_l[False][2]
