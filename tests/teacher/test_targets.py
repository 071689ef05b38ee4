"""What teachers say reaches the student on its own grid, standardised, whoever holds the teachers' weights."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kit import places
from tests.kit.programs import program
from unicscale.contracts import CLIP_MEAN, CLIP_STD, Features, TeacherSpec, normalise
from unicscale.engine import build_engine
from unicscale.errors import RecipeError, TeacherError
from unicscale.objective.grid import on_grid
from unicscale.ranks.rendezvous import free_port
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.recipe.sections import EngineSection, Ladder, Standardize, Student, TeacherSection
from unicscale.student.model import build_student
from unicscale.teacher.finding import find, listing
from unicscale.teacher.frozen import open_frozen
from unicscale.teacher.grid import input_size
from unicscale.teacher.targets import Teachers

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
STUDENT = Student(options={"embed_dim": 16, "depth": 1, "num_heads": 2}, patch=4)


def section(plugin: str = "dino", **more: Any) -> TeacherSection:
    return TeacherSection.model_validate({"plugin": plugin, "size": TINY, "weights": "random", **more})


def teachers(
    sections: dict[str, TeacherSection],
    world: World | None = None,
    kind: str = "plain",
    standardize: Standardize | None = None,
) -> Teachers:
    world = world or World()
    engine_section = EngineSection(kind=kind, device="cpu")  # type: ignore[arg-type]
    student = build_student(STUDENT, Ladder(), {name: 32 for name in sections}, 32)
    engine = build_engine(engine_section, student, seed=0, world=world, micro_batches=1, size=32)
    return Teachers.build(
        sections,
        standardize or Standardize(),
        student_patch=4,
        engine=engine,
        engine_section=engine_section,
        world=world,
    )


def pixels(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_teacher_with_larger_patches_is_shown_more_pixels_for_the_same_grid() -> None:
    targets = teachers({"a": section(), "b": section(resolution="native")})(pixels())
    alone = open_frozen("a", section())
    shown = torch.nn.functional.interpolate(
        normalise(pixels(), alone.spec.mean, alone.spec.std), (64, 64), mode="bicubic", antialias=True
    )
    with torch.no_grad():
        torch.testing.assert_close(targets["a"].patches, alone(shown).patches / (1 + 1e-6))
    assert targets["a"].patches.shape == targets["b"].patches.shape == (2, 64, 32)


def test_a_patch_map_on_another_grid_keeps_its_rows_and_columns() -> None:
    ramp = torch.arange(4.0).repeat(4, 1).flatten()[None, :, None]  # column numbers, row by row
    larger = on_grid(ramp, 8).view(8, 8)
    assert torch.equal(larger, larger[:1].expand(8, 8))
    assert bool((larger[0].diff() >= 0).all())


def test_each_teacher_gets_pixels_in_its_own_normalisation() -> None:
    spec = TeacherSpec(32, 8, 32, CLIP_MEAN, CLIP_STD, "none")
    expected = (pixels() / 255 - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    torch.testing.assert_close(normalise(pixels(), spec.mean, spec.std), expected)


@pytest.mark.parametrize(
    ("policy", "fixed", "expected"),
    [("same_grid", False, 64), ("native", False, 48), ("student", False, 32), (40, False, 40), ("same_grid", True, 48)],
)
def test_every_resolution_policy_gives_its_size(policy: str | int, fixed: bool, expected: int) -> None:
    spec = TeacherSpec(32, 8, 48, CLIP_MEAN, CLIP_STD, "none", fixed_size=fixed)
    assert input_size(spec, policy, size=32, student_patch=4, name="a") == expected


def test_a_resolution_that_cannot_be_is_refused_before_anything_is_loaded() -> None:
    spec = TeacherSpec(32, 8, 48, CLIP_MEAN, CLIP_STD, "none")
    with pytest.raises(RecipeError, match=r"'teachers\.a\.resolution': 36 pixels are no multiple of its patch of 8"):
        input_size(spec, 36, size=32, student_patch=4, name="a")


def test_targets_can_be_learned_from_and_carry_no_graph() -> None:
    targets = teachers({"a": section()})(pixels())["a"]
    answer = torch.zeros_like(targets.summary, requires_grad=True)
    torch.nn.functional.smooth_l1_loss(answer, targets.summary).backward()
    assert answer.grad is not None and not targets.summary.requires_grad


def test_statistics_move_once_a_step_and_are_all_that_a_checkpoint_gets() -> None:
    runtime = teachers({"a": section()})
    before = {n: t.clone() for n, t in runtime.state_dict().items()}
    assert sum(t.numel() for t in before.values()) == 2 * 2 * 32
    first = runtime(pixels())["a"].summary
    assert torch.equal(first, runtime(pixels())["a"].summary)
    runtime.update(1.0)
    assert not torch.equal(runtime(pixels())["a"].summary, first)
    runtime.load_state_dict(before)
    assert torch.equal(runtime(pixels())["a"].summary, first)


def test_a_teacher_that_gives_nan_is_named() -> None:
    runtime = teachers({"good": section(), "bad": section()})
    with torch.no_grad():
        runtime.frozen["bad"].module.get_parameter("norm.weight").fill_(torch.nan)
    runtime(pixels())
    assert {name: bool(flag) for name, flag in runtime.broken().items()} == {"good": False, "bad": True}


class Heard(logging.Handler):
    """What was said, once each; caplog hears a logger that a run has made its own twice."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def test_what_is_odd_about_a_teacher_is_said_once() -> None:
    heard = Heard()
    say.addHandler(heard)
    runtime = teachers({"flat": section()})
    with torch.no_grad():
        for name in ("norm.weight", "norm.bias"):
            runtime.frozen["flat"].module.get_parameter(name).zero_()
    for _ in range(3):
        runtime(pixels())
        runtime.update(1.0)
        runtime.remark()
    said = [text for text in heard.texts if "the same for every image" in text]
    assert [text.split(":")[0] for text in said] == ["teacher flat, summary", "teacher flat, patches"]


def test_nothing_is_observed_where_nothing_will_move() -> None:
    runtime = teachers({"a": section()})
    runtime(pixels(), observe=False)
    assert all(standardizer._seen is None for standardizer in runtime.statistics.values())


@pytest.mark.slow
def test_a_compiled_teacher_gives_the_same_tokens() -> None:
    plain, compiled = (teachers({"a": section(compile=c)})(pixels())["a"] for c in (False, True))
    torch.testing.assert_close(compiled.patches, plain.patches, rtol=1e-5, atol=1e-5)


def test_fp8_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(TeacherError, match=r"teacher 'a': 'dtype: fp8' needs (torchao|a device)"):
        teachers({"a": section(dtype="fp8")})


# --- two ranks ------------------------------------------------------------------------------------


def everyone(shard: str) -> dict[str, TeacherSection]:
    """Every installed teacher, as small as it can be."""
    own = {"unicscale": {"run": str(places.GOLDEN / "unic_official_tiny.pth"), "weights": "auto"}}
    own["file"] = program() | {"weights": "auto"}
    every = {name: own.get(name, find(name).small | {"weights": "random"}) for name in (x.name for x in listing())}
    more = {"shard": shard, "resolution": "native"}
    return {n: TeacherSection.model_validate({"plugin": n, **said, **more}) for n, said in every.items()}


def flat(said: dict[str, Features]) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{kind}": t.contiguous()
        for name, both in said.items()
        for kind, t in both._asdict().items()
        if t is not None
    }


def _rank(rank: int, kinds: tuple[str, ...], folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    world = World.start(EngineSection(kind=kinds[0], device="cpu"))  # type: ignore[arg-type]
    for kind in kinds:
        said = teachers(everyone("none" if kind == "plain" else "full"), world, kind)(pixels())
        save_file(flat(said), Path(folder, f"{kind}-{rank}.safetensors"))
    try:
        teachers({"a": section(weights=f"{folder}/page.pth")}, world, "plain")
    except TeacherError as refusal:
        Path(folder, f"refused-{rank}.txt").write_text(str(refusal))
    world.close()


def assert_two_ranks_say_what_one_process_says(kinds: tuple[str, ...], folder: Path) -> None:
    (folder / "page.pth").write_text("<html>")
    mp.spawn(_rank, (kinds, str(folder), free_port()), nprocs=2)
    expected = flat(teachers(everyone("none"))(pixels()))
    for found in (load_file(folder / f"{kind}-{rank}.safetensors") for kind in kinds for rank in range(2)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    refusals = [(folder / f"refused-{rank}.txt").read_text() for rank in range(2)]
    assert refusals[0] == refusals[1], "what rank 0 refuses, every rank refuses"
    assert "this is a web page" in refusals[0]


def test_sharded_and_whole_teachers_give_every_rank_the_same_tokens(tmp_path: Path) -> None:
    assert_two_ranks_say_what_one_process_says(("fsdp2", "plain"), tmp_path)


@pytest.mark.slow
def test_teachers_sliced_by_zero3_give_every_rank_the_same_tokens(tmp_path: Path) -> None:
    assert_two_ranks_say_what_one_process_says(("zero3",), tmp_path)


def test_targets_that_the_loss_will_standardise_come_as_the_teacher_said_them_and_are_observed_alike() -> None:
    early, late = teachers({"a": section(dtype="bf16")}), teachers({"a": section(dtype="bf16")})
    for seed in range(2):
        images = pixels() ^ seed
        ready, raw, scales = early(images)["a"], late(images, late=True)["a"], late.scales()["a"]
        assert raw.patches.dtype == torch.bfloat16 and ready.patches.dtype == torch.float32
        assert not raw.patches.is_inference() and not raw.patches.requires_grad
        assert all(torch.equal(scale(r), t) for scale, r, t in zip(scales, raw, ready, strict=True))
        early.update(0.5)
        late.update(0.5)
        assert all(torch.equal(early.state_dict()[name], one) for name, one in late.state_dict().items())


class Doubles(TorchDispatchMode):
    """Notes what computes in fp64."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            self.seen.append(str(function))
        return found


def test_a_rotation_that_is_frozen_takes_no_more_products_in_double_precision() -> None:
    found = teachers({"a": section()}, standardize=Standardize(kind="phi_s", freeze_after="1 steps"))
    with Doubles() as counted:
        found(pixels())
        found.update(1.0)
    assert counted.seen
    found.update(0.0)
    with Doubles() as counted:
        found(pixels(), observe=False)
        found.update(0.0)
    assert not counted.seen
