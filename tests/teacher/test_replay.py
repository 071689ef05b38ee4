"""Recordings of a teacher's forward: one for each shape, and what they said is the caller's. The host plays the GPU."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.teacher.test_targets import pixels, section, teachers
from unicscale.contracts import Features
from unicscale.errors import RecipeError
from unicscale.recipe.sections import EngineSection
from unicscale.teacher.replay import Encode, Recording, Replayed, refuse_unrecordable
from unicscale.teacher.targets import Teachers


class Host:
    """As a CUDA graph does: it reads and writes the same memory at every replay."""

    def __init__(self) -> None:
        self.recorded: list[tuple[str, tuple[int, ...]]] = []

    def __call__(self, name: str, encode: Encode, given: Tensor) -> Recording:
        self.recorded.append((name, tuple(given.shape)))
        with torch.inference_mode(False), torch.no_grad():
            given = given.clone()
            said = encode(given).each(torch.clone)

        def play() -> None:
            for held, new in zip(said, encode(given), strict=True):
                if held is not None and new is not None:
                    held.copy_(new)

        return Recording(given, play, said)


def replayed(made: Teachers, host: Host) -> Teachers:
    """The device is what `replay` refuses a host by; everything else is the host's."""
    made._encode = {name: Replayed(name, encode, host) for name, encode in made.placed.items()}
    return made


SECTIONS = {"one": section(), "two": section(resolution="native"), "three": section(resolution="student")}


def test_a_shape_is_recorded_when_it_is_first_met_and_never_again() -> None:
    host = Host()
    made = replayed(teachers(SECTIONS), host)
    for count, side in ((2, 32), (2, 32), (3, 32), (2, 64), (2, 32)):
        made(pixels(count, side))
    of_one = [shape for name, shape in host.recorded if name == "one"]
    assert of_one == [(2, 3, 64, 64), (3, 3, 64, 64), (2, 3, 128, 128)]
    assert [shape for name, shape in host.recorded if name == "two"] == [(2, 3, 32, 32), (3, 3, 32, 32)]


@pytest.mark.parametrize("late", [False, True])
def test_tokens_are_those_of_a_forward_and_stay_when_the_next_images_come(late: bool) -> None:
    plain, recorded = teachers(SECTIONS), replayed(teachers(SECTIONS), Host())
    batches = [pixels(), pixels().flip(-1), pixels().flip(0)]
    wanted = [plain(batch, late=late) for batch in batches]
    found = [recorded(batch, late=late) for batch in batches]  # all are kept, as micro-batches' are by a backward
    for one, other in zip(wanted, found, strict=True):
        for name in SECTIONS:
            for a, b in zip(one[name], other[name], strict=True):
                assert torch.equal(a, b)


def test_training_and_evaluation_play_the_same_recording() -> None:
    host = Host()
    made = replayed(teachers(SECTIONS), host)
    made(pixels(), late=True)
    made(pixels(), observe=False)  # teachers speak in inference mode here
    said = made(pixels().flip(-1), late=True)["one"].summary
    assert len(host.recorded) == len(SECTIONS)
    answer = torch.zeros_like(said, requires_grad=True)
    torch.nn.functional.smooth_l1_loss(answer, said).backward()
    assert answer.grad is not None


def test_what_a_caller_does_to_its_tokens_is_no_other_callers_affair() -> None:
    def encode(images: Tensor) -> Features:
        return Features(images.mean((1, 2, 3))[:, None], None)

    one = Replayed("one", encode, Host())
    first = one(torch.ones(2, 3, 4, 4)).summary
    assert first is not None
    first.zero_()
    assert one(torch.ones(2, 3, 4, 4)).summary.tolist() == [[1.0], [1.0]]  # type: ignore[union-attr]


def test_what_cannot_be_recorded_is_refused_in_words() -> None:
    with pytest.raises(RecipeError, match="this run is on the CPU"):
        refuse_unrecordable(torch.device("cpu"), sharded=False)
    with pytest.raises(RecipeError, match="Set `shard: none` for every teacher"):
        refuse_unrecordable(torch.device("cuda"), sharded=True)
    refuse_unrecordable(torch.device("cuda"), sharded=False)
    with pytest.raises(RecipeError, match="this run is on the CPU"):
        teachers({"one": section()}).replay(Host())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"cuda_graphs": True, "device": "cpu"}, "engine.device is cpu"),
        ({"cuda_graphs": True, "remember": 1}, "engine.remember for CPUs"),
        ({"attention": "cudnn", "deterministic": True}, "engine.attention: cudnn"),
    ],
)
def test_keys_that_exclude_each_other(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        EngineSection.model_validate(keys)
