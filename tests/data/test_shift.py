"""Windows that move by whole patches: where they lie, who draws them, and that the same pixels meet the same pixels."""

from __future__ import annotations

import torch

from unicscale.data.views.shift import STUDENT, Windows

PATCH, GRID = 4, 5
SIDE = (GRID + 2) * PATCH


def windows(index: torch.Tensor, deviation: float = 0.5, step: int = 3) -> Windows:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1000, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)[index]
    return Windows(images, deviation, PATCH, (22, step), index)


def pooled(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) -> (B, N, 3): a teacher that says each patch's mean colour."""
    return torch.nn.functional.avg_pool2d(images.float(), PATCH).flatten(2).mT


def test_where_two_windows_meet_both_models_see_the_same_pixels() -> None:
    shown = windows(torch.arange(64))
    student, teacher = shown.of(STUDENT), shown.of("t")
    assert student.shape == teacher.shape == (64, 3, GRID * PATCH, GRID * PATCH)
    met, both = shown.meet("t", pooled(teacher)), shown.both["t"]
    assert torch.equal(met[both], pooled(student)[both])
    assert not torch.equal(met, pooled(student)), "some windows moved"
    assert bool((both.sum(1) >= (GRID - 2) ** 2).all())


def test_a_window_is_a_function_of_step_sample_and_model_alone() -> None:
    many, few = windows(torch.arange(64)), windows(torch.arange(32, 64))
    assert torch.equal(many.at("t")[32:], few.at("t")) and torch.equal(many.of("t")[32:], few.of("t"))
    assert not torch.equal(many.at("t"), many.at(STUDENT))
    assert not torch.equal(many.at("t"), windows(torch.arange(64), step=4).at("t"))


def test_two_windows_in_three_stay_where_they_are() -> None:
    drawn = windows(torch.arange(1000)).at("t")
    assert 0.64 < float((drawn == 1).double().mean()) < 0.72, (
        "a normal draw of deviation 0.5 rounds to 0 in 68 % of cases"
    )
    assert abs(float((drawn - 1).double().mean())) < 0.05 and set(drawn.unique().tolist()) == {0, 1, 2}
