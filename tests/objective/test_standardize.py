"""Running statistics of teacher tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.kit.golden_method import assert_near, method
from unicscale.contracts import Features
from unicscale.errors import DataError, RecipeError
from unicscale.objective import build_standardizer, statistics
from unicscale.objective.phi_s import PhiS, hadamard
from unicscale.objective.standardize import DEAD, EPS, Standardizer, Unchanged, update
from unicscale.recipe.sections import Standardize


@pytest.mark.parametrize("letter", ["a", "b"])
def test_targets_and_statistics_after_every_step_are_those_of_the_released_code(letter: str) -> None:
    golden = method(letter)
    standardizers = {name: (Standardizer(dim), Standardizer(dim)) for name, dim in golden.dims.items()}
    for step, momentum in enumerate(golden.facts["momentum"]):
        for name, pair in standardizers.items():
            raw, wanted = golden.tokens(step, name, "raw"), golden.tokens(step, name, "target")
            means, deviations = golden.tokens(step, name, "ema_mean_after"), golden.tokens(step, name, "ema_std_after")
            for i, standardizer in enumerate(pair):
                assert_near(standardizer(raw[i], momentum=momentum), wanted[i])
                assert_near(standardizer.mean, means[i])
                assert_near(standardizer.deviation, deviations[i])


def test_a_batch_is_normalised_with_the_statistics_from_before_it() -> None:
    standardizer = Standardizer(2)
    tokens = torch.tensor([[10.0, 0.0], [14.0, 2.0]])
    torch.testing.assert_close(standardizer(tokens, momentum=1.0), tokens)
    torch.testing.assert_close(standardizer.mean, torch.tensor([12.0, 1.0]))
    torch.testing.assert_close(standardizer.deviation, torch.tensor([8.0, 2.0]).sqrt() + EPS)


def test_statistics_do_not_depend_on_how_a_batch_is_split() -> None:
    tokens = torch.randn(12, 5, 7) * 3 + 100
    whole, split = Standardizer(7), Standardizer(7)
    whole.observe(tokens)
    for part in tokens.split([1, 4, 7]):
        split.observe(part)
    for standardizer in (whole, split):
        standardizer.update(0.3)
    torch.testing.assert_close(split.mean, whole.mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(split.deviation, whole.deviation, rtol=1e-6, atol=0)


def test_a_large_mean_costs_the_deviation_no_digits() -> None:
    tokens = 3000 + 0.5 * torch.randn(4000, 2, dtype=torch.float64)
    standardizer = Standardizer(2)
    standardizer(tokens.float(), momentum=1.0)
    torch.testing.assert_close(standardizer.deviation.double(), tokens.float().double().std(0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["running", "none", "phi_s"])
def test_inverting_gives_the_tokens_back(kind: str) -> None:
    standardizer = build_standardizer(Standardize.model_validate({"kind": kind}), 12)
    tokens = torch.randn(40, 12) * 5 + 3
    for _ in range(3):
        standardised = standardizer(tokens, momentum=0.5)
    standardised = standardizer.normalise(tokens)
    torch.testing.assert_close(standardizer.invert(standardised), tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [Standardizer, PhiS])
def test_a_broken_batch_leaves_the_statistics_as_they_were(make: type[Standardizer], bad: float) -> None:
    standardizer = make(4)
    standardizer(torch.randn(9, 4), momentum=1.0)
    before = {name: t.clone() for name, t in standardizer.state_dict().items() if name != "updates"}
    broken = torch.randn(9, 4)
    broken[3, 2] = bad
    standardizer(broken, momentum=0.5)
    after = standardizer.state_dict()
    assert all(torch.equal(after[name], t) for name, t in before.items())
    standardizer(torch.randn(9, 4), momentum=0.5)
    assert not torch.equal(standardizer.mean, before["running_mean"])
    assert torch.isfinite(standardizer.mean).all() and torch.isfinite(standardizer.deviation).all()


def test_a_single_token_has_no_deviation_and_changes_nothing() -> None:
    standardizer = Standardizer(4)
    standardizer(torch.randn(1, 4), momentum=1.0)
    assert torch.equal(standardizer.mean, torch.zeros(4)) and torch.equal(standardizer.deviation, torch.ones(4))


def test_momentum_zero_freezes() -> None:
    standardizer = Standardizer(4)
    standardizer(torch.randn(8, 4), momentum=1.0)
    mean = standardizer.mean.clone()
    standardizer(torch.randn(8, 4), momentum=0.0)
    assert torch.equal(standardizer.mean, mean)


def test_statistics_survive_a_state_dict() -> None:
    for make in (Standardizer, PhiS):
        old, new = make(4), make(4)
        for _ in range(3):
            old(torch.randn(30, 4) + 2, momentum=0.5)
        new.load_state_dict(old.state_dict())
        tokens = torch.randn(30, 4)
        assert torch.equal(old(tokens, momentum=0.5), new(tokens, momentum=0.5))
        assert torch.equal(old.normalise(tokens), new.normalise(tokens))


def test_several_standardizers_move_together_as_they_would_alone() -> None:
    alone, together = [Standardizer(3), Standardizer(5)], [Standardizer(3), Standardizer(5)]
    tokens = [torch.randn(6, 3), torch.randn(2, 4, 5)]
    for group in (alone, together):
        for standardizer, t in zip(group, tokens, strict=True):
            standardizer.observe(t)
    for standardizer in alone:
        standardizer.update(0.7)
    update(together, 0.7)
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a.mean, b.mean) and torch.equal(a.deviation, b.deviation)


def test_none_hands_tokens_through() -> None:
    standardizer, tokens = build_standardizer(Standardize(kind="none"), 3), torch.randn(5, 3) * 9
    assert isinstance(standardizer, Unchanged)
    assert torch.equal(standardizer(tokens, momentum=1.0), tokens)
    assert torch.equal(standardizer(tokens, momentum=1.0), tokens)


# --- PHI-S ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 20, 24, 28, 36, 40, 384, 768, 1024, 1280, 1408, 1536])
def test_hadamard_matrices_are_orthogonal_and_of_signs_only(order: int) -> None:
    matrix = hadamard(order)
    assert torch.equal(matrix.abs(), torch.ones(order, order, dtype=torch.float64))
    assert torch.equal(matrix @ matrix.mT, order * torch.eye(order, dtype=torch.float64))


def test_phi_s_gives_every_channel_variance_one_and_keeps_distances_in_proportion() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(4000, 12) @ torch.randn(12, 12) + 4
    standardizer = PhiS(12)
    standardizer(tokens, momentum=1.0)
    standardised = standardizer.normalise(tokens)
    torch.testing.assert_close(standardised.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(standardised.var(0), torch.ones(12), atol=1e-3, rtol=0)
    ratio = torch.pdist(standardised[:50]) / torch.pdist(tokens[:50])
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-4, atol=0)


def test_a_width_without_a_hadamard_matrix_is_refused() -> None:
    with pytest.raises(RecipeError, match="phi_s needs a Hadamard matrix of the teacher's width, 6"):
        PhiS(6)


# --- statistics of a teacher on a data set --------------------------------------------------------


def test_estimated_statistics_are_those_of_all_tokens_at_once() -> None:
    batches = [Features(torch.randn(n, 6) * 2 + 1, torch.randn(n, 4, 6) * 3 - 1) for n in (5, 3, 8)]
    found = statistics.estimate(batches)["patches"]
    every = torch.cat([b.patches.reshape(-1, 6) for b in batches])
    assert found.count == len(every)
    torch.testing.assert_close(found.mean, every.mean(0))
    torch.testing.assert_close(found.deviation, every.std(0) + EPS)


def test_table_g_is_of_one_token_per_image_and_averages_patches_first() -> None:
    batches = [Features(None, torch.randn(n, 4, 6) * 3 - 1) for n in (5, 3, 8)]  # dBOT-ft has no CLS
    found = statistics.estimate(batches)
    pooled = torch.cat([b.patches.mean(1) for b in batches])
    assert list(found) == ["patches"]
    assert found["patches"].look == pytest.approx(
        (pooled.norm(dim=1).mean().item(), pooled.std(dim=1).mean().item(), pooled.std(dim=0).mean().item()), rel=1e-5
    )


def test_saved_statistics_standardise_by_file(tmp_path: Path) -> None:
    batches = [Features(torch.randn(30, 6) * 2 + 1, torch.randn(30, 4, 6) * 3 - 1)]
    path = tmp_path / "statistics.safetensors"
    statistics.save(path, {"dino": statistics.estimate(batches)})
    section = Standardize(kind="file", path=str(path))
    standardizer = build_standardizer(section, 6, ("dino", "patches"))
    standardised = standardizer.normalise(batches[0].patches).reshape(-1, 6)
    torch.testing.assert_close(standardised.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardised.std(0), torch.ones(6), atol=1e-4, rtol=0)
    with pytest.raises(RecipeError, match=r"'.*' has no 'ibot.patches.mean'. It has \['dino.patches"):
        build_standardizer(section, 6, ("ibot", "patches"))
    with pytest.raises(RecipeError, match=r"'dino.patches.mean' of '.*' is 6 wide, the teacher's tokens 7"):
        build_standardizer(section, 7, ("dino", "patches"))


def test_a_missing_file_of_statistics_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"standardize\.path: there is no file '.*none\.safetensors'"):
        build_standardizer(Standardize(kind="file", path=str(tmp_path / "none.safetensors")), 6, ("a", "summary"))
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(DataError, match="no images"):
        statistics.estimate([])


def test_the_command_prints_the_table_and_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unicscale.commands.teachers import stats
    from unicscale.data import scenes

    scenes.write(tmp_path / "images", 6, seed=0)
    out = tmp_path / "statistics.safetensors"
    stats("scenes", tmp_path / "images", ["knows=dense"], out=out, size=48, batch=4)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["teacher", "tokens", "norm"]
    assert [line.split()[:2] for line in printed[1:3]] == [["scenes", "summary"], ["scenes", "patches"]]
    assert printed[1].endswith(" 6") and printed[2].endswith(" 216")
    standardizer = build_standardizer(Standardize(kind="file", path=str(out)), 96, ("scenes", "patches"))
    assert standardizer.deviation.min() > 0


# --- tokens that do not vary ------------------------------------------------------------------------


def test_a_channel_that_sleeps_and_wakes_does_not_drown_the_others() -> None:
    standardizer, tokens = Standardizer(4), torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    tokens[:, 2] = 7.0
    standardizer(tokens, momentum=1.0)
    assert standardizer.odd() == "1 of 4 channels hardly ever vary; they count little"
    floor = DEAD * standardizer.deviation.mean()
    torch.testing.assert_close(standardizer.deviation[2], floor, rtol=1e-3, atol=0)
    tokens[0, 2] = 8.0
    assert float(standardizer.normalise(tokens).abs().max()) < 2 / DEAD, "without a floor it is a million"


@pytest.mark.parametrize("make", [Standardizer, PhiS])
def test_tokens_that_are_all_alike_are_said_to_be(make: type[Standardizer]) -> None:
    for tokens, said in (
        (torch.full((50, 4), 3.0), True),
        (torch.randn(50, 4) * 1e-30, True),
        (torch.randn(50, 4), False),
    ):
        standardizer = make(4)
        standardizer(tokens, momentum=1.0)
        assert ("the same for every image" in standardizer.odd()) is said
        assert bool(torch.isfinite(standardizer.normalise(tokens)).all())


def test_phi_s_freezes_with_the_rotation_of_all_that_it_saw() -> None:
    standardizer = PhiS(4)
    for step in range(3):
        standardizer(torch.randn(30, 4), momentum=1 / (step + 1))
    turned = standardizer.rotation.clone()
    standardizer(torch.randn(30, 4), momentum=0.0)
    assert not torch.equal(standardizer.rotation, turned), "the third step came after the last doubling"
    basis = standardizer.signs.double().mT @ standardizer.rotation.double() / 2
    covariance = standardizer.covariance.double()
    eigenvalues = torch.linalg.eigvalsh(covariance).diag()
    torch.testing.assert_close(basis @ covariance @ basis.mT, eigenvalues, rtol=1e-5, atol=1e-5)
    turned = standardizer.rotation.clone()
    standardizer(torch.randn(30, 4), momentum=0.0)
    assert torch.equal(standardizer.rotation, turned), "and then it stays"
