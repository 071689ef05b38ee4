"""The loss as one graph: the numbers of its eager twin, from tokens that nobody has standardised yet."""

from __future__ import annotations

import pytest
import torch

from tests.kit.inductor import Counted
from unicscale.contracts import Features
from unicscale.objective.cone import Cone
from unicscale.objective.loss import Measure, compared, distances, distil
from unicscale.objective.phi_s import PhiS
from unicscale.objective.standardize import Fixed, Standardizer, Unchanged, measured, spread
from unicscale.recipe.sections import EngineSection

OF_UNIC_L = {"dinov2": 1536, "metaclip": 1280}
HALF = {"cosine": 0.5, "smooth_l1": 0.5}


def tokens(images: int, dims: dict[str, int], patches: int, **how: object) -> dict[str, Features]:
    drawn = {n: torch.randn(images, 1 + patches, d, **how) for n, d in dims.items()}  # type: ignore[call-overload]
    return {n: Features(t[:, 0].clone(), t[:, 1:].clone()) for n, t in drawn.items()}


def wanting(given: dict[str, Features]) -> dict[str, Features]:
    return {name: features.each(lambda t: t.detach().requires_grad_()) for name, features in given.items()}


def standardizers(dims: dict[str, int]) -> dict[str, Features]:
    torch.manual_seed(3)
    found = {name: Features(Standardizer(dim), Standardizer(dim)) for name, dim in dims.items()}  # type: ignore[arg-type]
    for one in (one for features in found.values() for one in features):
        one.observe(3 + 2 * torch.randn(64, one.dim))  # type: ignore[union-attr]
        one.update(1.0)  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_targets_that_are_standardised_in_the_loss_give_the_same_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    dims = {"a": 24, "b": 16}
    raw, known = tokens(5, dims, 9, dtype=dtype), standardizers(dims)
    scales = {name: Features(*(one.scale() for one in both)) for name, both in known.items()}  # type: ignore[misc,union-attr]
    early = {n: Features(*(s.normalise(t) for s, t in zip(known[n], raw[n], strict=True))) for n in dims}  # type: ignore
    said, found = tokens(5, dims, 9), []
    for targets, extra in ((early, {}), (raw, {"scales": scales})):
        answers = wanting(said)
        loss = distil(answers, targets, p=0.5, key=(1, 2), index=torch.arange(5), **extra)
        loss.sum.backward()
        found.append([loss.sum, loss.weight, *loss.terms.values(), *(t.grad for f in answers.values() for t in f)])
    assert len(found[0]) == 2 + 17 + 4
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_only_a_mean_and_a_deviation_can_be_left_to_the_loss() -> None:
    assert Standardizer(8).scale() is not None and Fixed(8).scale() is not None
    assert PhiS(8).scale() is None and Unchanged(8).scale() is None and Cone(8).scale() is None


def test_standardisation_and_loss_of_unic_l_are_at_most_12_kernels() -> None:
    torch.manual_seed(0)
    counted = Counted()
    compare, known = counted.compiled(distances), standardizers(OF_UNIC_L)
    scales = {name: Features(*(one.scale() for one in both)) for name, both in known.items()}  # type: ignore[misc,union-attr]
    said, raw = tokens(4, OF_UNIC_L, 256, dtype=torch.bfloat16), tokens(4, OF_UNIC_L, 256, dtype=torch.bfloat16)
    found = []
    for how in (distances, compare):
        answers = wanting(said)
        loss = distil(answers, raw, scales=scales, index=torch.arange(4), compare=how)
        loss.sum.backward()
        found.append([loss.sum, *loss.terms.values(), *(t.grad for f in answers.values() for t in f)])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager)
    assert len(counted.forward) == len(counted.backward) == 1, "one graph"
    assert counted.forward[0] + counted.backward[0] <= 12, counted.__dict__


def test_statistics_are_one_small_kernel_that_reads_tokens_as_they_come() -> None:
    counted = Counted()
    raw = torch.randn(4 * 256, 1536, dtype=torch.bfloat16)
    with torch.no_grad():
        for one, other in zip(counted.compiled(spread)(raw), spread(raw), strict=True):
            torch.testing.assert_close(one, other)
    assert counted.forward[0] <= 2, "two where a sum over many rows is cut in two"


def test_what_is_measured_of_all_teachers_is_one_graph() -> None:
    counted = Counted()
    torch.manual_seed(0)
    raw = tokens(4, OF_UNIC_L, 256, dtype=torch.bfloat16)
    raw["metaclip"].patches[3, 7, 5] = torch.nan  # type: ignore[index]
    said = [[*features] for features in raw.values()]
    seen = [t for features in said for t in features]
    with torch.no_grad():
        found, wanted = counted.compiled(measured)(said, seen), measured(said, seen)  # type: ignore[arg-type]
    assert found[0].tolist() == wanted[0].tolist() == [True, False]
    for one, other in zip(found[1], wanted[1], strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    assert len(counted.forward) == 1 and counted.forward[0] <= 12, "moments 1 each, numbers or not 2"


def test_the_loss_is_compiled_where_the_engine_is() -> None:
    assert compared(EngineSection()) is distances
    assert compared(EngineSection(compile=True)) is not distances


def test_a_measure_that_changes_is_heard() -> None:
    torch.manual_seed(0)
    answers, targets = tokens(2, {"a": 8}, 4), tokens(2, {"a": 8}, 4)
    kinds = {"a": {"summary": HALF, "patches": HALF}}
    measure = Measure(kinds, {}, 1.0, None)
    half = distances(answers, targets, {}, {}, {}, measure)["a"].total
    twice = distances(answers, targets, {}, {}, {}, measure._replace(weights={"a": {"summary": 2.0, "patches": 2.0}}))
    torch.testing.assert_close(twice["a"].total, 2 * half)
