"""What `unicscale plan` says, held against what torch counts and keeps."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.kit import contract, ranks
from tests.kit.peak import Alive
from tests.kit.recipe import write_images, write_recipe
from unicscale.contracts import Features
from unicscale.cost import costs, flops, memory, named, report
from unicscale.cost.shapes import Shapes
from unicscale.engine import Engine, build_engine
from unicscale.errors import RecipeError
from unicscale.objective.loss import distil
from unicscale.ranks.device import slow_in
from unicscale.ranks.world import World
from unicscale.recipe import Recipe, dump, load
from unicscale.recipe.sections import EngineSection
from unicscale.student.model import build_student
from unicscale.teacher.targets import Teachers

SIZE, BATCH = 112, 4
SHAPE = {"embed_dim": 192, "depth": 2, "num_heads": 3, "patch_size": 16, "img_size": 112}
TEACHERS = {
    "a": {"plugin": "dinov2", "size": SHAPE | {"patch_size": 14, "ffn": "swiglu"}},
    "b": {"plugin": "deit3", "size": SHAPE},
}


def small(projector: dict | None = None, stem: str = "patch", **engine: object) -> Recipe:
    return Recipe.model_validate(
        {
            "schema": 1,
            "out": "runs/nowhere",
            "data": {"train": ["nowhere"], "images_per_step": 8},
            "student": {"arch": "vit_small", "patch": 16, "stem": stem, "options": {"depth": 3}},
            "teachers": TEACHERS,
            "projector": projector or {"kind": "ladder"},
            "stages": [{"name": "one", "size": SIZE, "steps": 10, "lr": {"peak": 1e-3}}],
            "engine": {"device": "cpu", **engine},
        }
    )


def engine_of(recipe: Recipe, world: World) -> Engine:
    dims = {name: one.spec.dim for name, one in Shapes.of(recipe).teachers.items()}
    student = build_student(recipe.student, recipe.projector, dims, SIZE)
    return build_engine(recipe.engine, student, seed=0, world=world, micro_batches=1, size=SIZE)


def targets(dims: dict[str, int], batch: int) -> dict[str, Features]:
    patches = (SIZE // 16) ** 2
    return {n: Features(torch.randn(batch, d), torch.randn(batch, patches, d)) for n, d in dims.items()}


def test_unic_l_costs_what_the_arithmetic_says(repository: Path) -> None:
    found = costs(load(repository / "recipes" / "unic_l.yaml", unset="keep"), None, 80.0)
    low, high = found.stages
    for stage, student, ladder, teachers, total in ((low, 486, 207, 933, 1627), (high, 1145, 466, 2171, 3782)):
        assert stage.flops["student"] / 1e9 == pytest.approx(student, rel=5e-3)
        assert stage.flops["projector"] / 1e9 == pytest.approx(ladder, rel=5e-3)
        assert sum(n for part, n in stage.flops.items() if "teacher" in part) / 1e9 == pytest.approx(teachers, rel=5e-3)
        assert stage.total / 1e9 == pytest.approx(total, rel=5e-3)
    assert found.total == pytest.approx(0.90e21, rel=5e-3)
    assert found.hours == pytest.approx(528, rel=5e-3)
    assert found.parameters["projector"] / 1e6 == pytest.approx(269, rel=5e-3)


@pytest.mark.parametrize(
    ("projector", "stem"),
    [
        ({"kind": "ladder"}, "patch"),
        ({"kind": "ladder"}, "convolutions"),
        ({"kind": "mlp", "layers": 2}, "patch"),
        ({"kind": "ladder", "shared": True}, "patch"),
        ({"kind": "transformer"}, "patch"),
    ],
)
def test_formulas_agree_with_what_torch_counts(projector: dict, stem: str) -> None:
    recipe = small(projector, stem)
    predicted = costs(recipe, 1, 80.0).stages[0].flops
    engine, shapes = engine_of(recipe, World()), Shapes.of(recipe)
    engine.student.set_draws((0, 0), torch.arange(1))
    with FlopCounterMode(display=False) as counter:
        answers = engine.student(torch.zeros(1, 3, SIZE, SIZE)).answers
        sum(token.sum() for answer in answers.values() for token in answer).backward()
    assert predicted["student"] + predicted["projector"] == pytest.approx(counter.get_total_flops(), rel=5e-3)
    for name, one in shapes.teachers.items():
        side = 98 if name == "a" else SIZE  # patch 14 beside 16: the same grid
        assert predicted[f"teacher {name}"] == pytest.approx(
            flops.counted(one, torch.empty(1, 3, side, side, device="meta")), rel=5e-3
        )


def kept(recipe: Recipe, batch: int) -> int:
    """Bytes of all storages that autograd saves in one forward, beside parameters and their rounded copies."""
    engine = engine_of(recipe, World())
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    engine.student.set_draws((0, 0), torch.arange(batch))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answers = engine.student(torch.zeros(batch, 3, SIZE, SIZE)).answers
        distil(answers, targets({n: f.summary.shape[-1] for n, f in answers.items()}, batch))
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", ["none", "ladder", "blocks", "full"])
def test_activations_are_what_autograd_keeps(dtype: str, checkpointing: str) -> None:
    recipe = small(dtype=dtype, checkpointing=checkpointing)
    measured = (kept(recipe, 2 * BATCH) - kept(recipe, BATCH)) / BATCH  # whatever does not grow with images cancels out
    predicted = memory.activations(Shapes.of(recipe), SIZE, checkpointing)
    if checkpointing in ("blocks", "full"):  # one block is recomputed at a time, in backward
        predicted["activations, student"] -= memory.BLOCK * 384 * 50 * (4 if dtype == "fp32" else 2)
    if checkpointing in ("ladder", "full"):
        predicted["activations, ladder"] = 0
    assert sum(predicted.values()) == pytest.approx(measured, rel=0.15)


IMITATES = pytest.mark.skipif(bool(slow_in("bf16", torch.device("cpu"))), reason="minutes, where bf16 is imitated")


@pytest.mark.parametrize(("dtype", "batch"), [("bf16", 4), pytest.param("bf16", 64, marks=IMITATES), ("fp32", 32)])
def test_the_most_that_a_step_holds_is_what_is_planned(dtype: str, batch: int) -> None:
    """Few images: gradients outweigh what they replace; many: they fit into the place of activations."""
    recipe = small(dtype=dtype)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"images_per_step": batch})})
    engine, world = engine_of(recipe, World()), World()
    made: dict = {"engine": engine, "engine_section": recipe.engine, "world": world}
    random = {name: one.model_copy(update={"weights": "random"}) for name, one in recipe.teachers.items()}
    asked = Teachers.build(random, recipe.standardize, student_patch=16, **made)

    def step(number: int) -> None:
        images, index = torch.zeros(batch, 3, SIZE, SIZE, dtype=torch.uint8), torch.arange(batch)
        engine.student.set_draws((0, number), index)
        raw, late = asked(images, late=recipe.compares_late), recipe.compares_late
        loss = distil(engine.student(images).answers, raw, index=index, **asked.known(late=late))
        engine.backward(loss.sum, last=True)
        engine.step(1e-3, loss.weight)

    step(0)
    there = [*(piece.flat for piece in engine.pieces().values()), *engine.student.buffers()]
    with Alive([*there, *(t for one in asked.placed.values() for t in (*one.parameters(), *one.buffers()))]) as alive:
        step(1)
    (stage,) = costs(recipe, 1, None).stages
    assert alive.peak == pytest.approx(sum(stage.memory.values()), rel=0.05)


def held(world: World, kinds: list[str]) -> list[tuple[int, int]]:
    found = []
    for kind in kinds:
        recipe = small(kind=kind, dtype="bf16", ema=0.99)
        own = sum(p.flat.numel() * p.flat.element_size() for p in engine_of(recipe, world).pieces().values())
        parts = memory.weights(Shapes.of(recipe), recipe.engine, world.size, None, accumulates=False)
        found.append((max(world.gather_objects(own)), sum(parts[p] for p in ("weights, fp32", "optimiser", "average"))))
    return found


@pytest.mark.parametrize("size", [1, 2])
def test_weights_and_moments_take_what_is_predicted(size: int) -> None:
    for measured, predicted in ranks.run(size, contract.in_group, held, ["plain", "fsdp2", "zero3"])[0]:
        assert predicted == pytest.approx(measured, rel=0.15)


def test_a_recipe_that_does_not_fit_is_told_what_to_change(repository: Path) -> None:
    recipe = load(repository / "recipes" / "unic_l.yaml", unset="keep")
    page = report(recipe, 8, 24.0)
    assert "does not fit 24 GiB:\n  set engine.checkpointing to ladder or full, or lower data.micro_batch." in page
    assert "teacher dinov2: sharded over all ranks" in page
    assert "teacher dinov2: whole on every rank" in report(recipe, 8, 80.0)
    assert "Counted as ImageNet-1K's 1,281,167 images." in page
    assert all(len(line) <= 80 for line in page.splitlines() if "IMAGENET" not in line)


def test_a_plan_ends_with_a_verdict_and_counts_the_hours_of_the_gpu_that_was_named(repository: Path) -> None:
    recipe = load(repository / "recipes" / "unic_l.yaml", unset="keep")
    page = report(recipe, 8, 40.0, named("NVIDIA a100"))
    assert "0.90 ZFLOP, 1,674 A100-hours at 48% of 312 TFLOP/s;\n209 hours on 8 of them" in page
    assert "fits: 38.7 of 40 GiB, barely" in page
    roomy = report(recipe, 8, 141.0)
    assert "H200-hours" in roomy and "of 141 GiB\n" in roomy and "barely" not in roomy
    with pytest.raises(RecipeError, match=r"--gpu H20O is not known. Did you mean 'H200'\? There are: A100, H100"):
        named("H20O")


def test_the_plan_of_a_small_recipe_has_figures_not_zeros(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 8)
    page = report(load(write_recipe(tmp_path / "r.yaml", images, tmp_path / "run")), None, 80.0)
    assert "  images                                       64             64" in page
    assert "GFLOP" in page and "H200-minutes" in page and "1 rank of 80 GiB" in page and "of them" not in page
    lines = [line.split() for line in page.splitlines()]
    assert not [words for words in lines if {"0.0", "0.00", "0.000"} & set(words)]


def test_copies_of_a_sharded_teacher_take_more_room_than_one() -> None:
    shapes = Shapes.of(small())
    section = EngineSection(kind="fsdp2", replicate=2)
    full = {name: one.model_copy(update={"shard": "full"}) for name, one in small().teachers.items()}
    held = memory.teachers(shapes, full, section, 8, None)[1]
    spread = memory.teachers(shapes, full, section.model_copy(update={"replicate": 1}), 4, None)[1]
    assert held == spread, "eight ranks in two copies hold what four ranks in one do"


def test_ranks_of_one_host_share_its_memory_so_nothing_lies_there_whole(repository: Path) -> None:
    recipe = load(repository / "recipes" / "unic_l.yaml", unset="keep")
    assert set(costs(recipe, 8, None).placement.values()) == {"full"}
    assert set(costs(recipe, 8, 80.0).placement.values()) == {"none"}


REFUSED = {
    "ranks that do not divide a step": (
        [], 3, "data.images_per_step: 8 images do not divide over 3 ranks. The nearest numbers that do are 6 or 9.",
    ),
    "a micro-batch that does not divide a share": (
        ["data.micro_batch=3"], 2, "data.micro_batch: 3 does not divide a rank's 4 images. These do: [1, 2, 4].",
    ),
    "copies that ranks cannot share": (
        ["engine.kind=fsdp2", "engine.replicate=3"], 4, "'engine.replicate' is 3, which does not divide 4 ranks.",
    ),
    "blocks that nobody reads": (
        ["projector.blocks=[0]"], 1, "projector.blocks stops at block 0: those after it would never be trained.",
    ),
    "a sharded teacher without an engine for it": (
        ["teachers.a.shard=full"], 1, "'shard: full' needs a sharding engine.",
    ),
    "the smaller of two sizes": (
        ["teachers.a.resolution=student", "stages.0.size=[96, 112]"], 1,
        "'teachers.a.resolution': 96 pixels are no multiple of its patch of 14.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_plan_refuses_what_training_refuses_in_the_same_words(tmp_path: Path, case: str) -> None:
    overrides, count, said = REFUSED[case]
    (tmp_path / "r.yaml").write_text(dump(small()))
    with pytest.raises(RecipeError) as refused:
        costs(load(tmp_path / "r.yaml", overrides), count, 80.0)
    assert str(refused.value).startswith(said)


def test_the_plan_of_unic_l_takes_less_than_twenty_seconds(repository: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "unicscale", "plan", str(repository / "recipes" / "unic_l.yaml"), "--gpus", "8"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "0.90 ZFLOP, 528 H200-hours" in said.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20  # 15 seen; wanted: 10
