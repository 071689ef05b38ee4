"""A dry run shows both stages of a recipe and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit import contract, ranks
from unicscale.assembly import assemble
from unicscale.dry_run.rehearsal import Synthetic, Unsaved, rehearse, shortened
from unicscale.errors import RecipeError
from unicscale.ranks.watchdog import Watchdog
from unicscale.ranks.world import World
from unicscale.recipe import Recipe, load
from unicscale.run.launches import owned_run
from unicscale.run.phases import Phases
from unicscale.train import loop

RECIPE = """
schema: 1
out: {out}
data: {{train: ["${{NOWHERE}}/train.beton"], images_per_step: 64}}
student: {{arch: vit_tiny, patch: 16, options: {{depth: 2}}}}
teachers:
  dinov2: {{plugin: dinov2, size: {{embed_dim: 96, depth: 2, num_heads: 2, patch_size: 14, img_size: 56}}, shard: full}}
  deit3: {{plugin: deit3, size: {{embed_dim: 64, depth: 2, num_heads: 2, patch_size: 16, img_size: 64}}}}
stages:
  - {{name: low, size: 64, epochs: 2, warmup_epochs: 1, lr: {{peak: 1.0e-3}}}}
  - {{name: high, size: 96, epochs: 1, lr: {{peak: 1.0e-3}}, start_from: weights}}
engine: {{kind: fsdp2, dtype: bf16, compile: true, device: cpu}}
"""


def recipe_in(folder: Path, *overrides: str) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.format(out=folder / "run"))
    return load(file, ["dry_run.steps=1", *overrides])  # whatever ${NOWHERE} may be: nobody reads it


def rehearsed(recipe: Recipe) -> str:
    return rehearse(recipe)


@pytest.mark.parametrize("kind", ["fsdp2", "zero3"])
def test_every_stage_is_rehearsed_with_its_times_losses_and_memory(kind: str, tmp_path: Path) -> None:
    page, nothing = ranks.run(2, rehearsed, recipe_in(tmp_path, f"engine.kind={kind}"))
    assert page.startswith(f"dry run: {kind}, bf16, checkpointing none, 2 ranks on cpu, 2 images per step")
    assert "low, 64 px" in page and "high, 96 px" in page and "nan" not in page
    for row in (
        "  teachers",
        "  backward",
        "  dinov2/patch",
        "  planned: teacher deit3",
        "GiB at the peak, rank by rank:",
    ):
        assert any(line.startswith(row) for line in page.splitlines()), row
    assert nothing == ""
    assert not (tmp_path / "run").exists()


def refusal(recipe: Recipe) -> str:
    with pytest.raises(RecipeError) as refused:
        rehearse(recipe)
    return str(refused.value)


def test_images_that_ranks_cannot_share_are_refused(tmp_path: Path) -> None:
    said = ranks.run(2, refusal, recipe_in(tmp_path, "dry_run.images_per_step=3"))
    assert said == ["'dry_run.images_per_step' is 3, which 2 ranks cannot share evenly."] * 2


def test_models_engine_and_loss_stay_those_of_the_recipe(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    short = shortened(recipe, World(), tmp_path / "elsewhere")
    assert (short.student, short.projector, short.loss) == (recipe.student, recipe.projector, recipe.loss)
    assert [stage.steps for stage in short.stages] == [1, 1]
    assert all(teacher.weights == "random" for teacher in short.teachers.values())
    assert contract.World().size == 1 and short.data.images_per_step == 1


def test_the_loop_lets_go_of_a_stage_s_student_before_the_next_is_built(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, "engine.kind=plain", "engine.compile=false", "teachers.dinov2.shard=none")
    world = World()
    short = shortened(recipe, world, tmp_path / "run")
    with owned_run(short, world) as (run, short):
        parts = assemble(short, world, run, loader=Synthetic(short, world), saver=Unsaved())
        overlaps = contract.watch_overlap(parts.engine)
        loop(parts, Phases(world.device, Watchdog(run.logs, rank=0, size=1, timeout=60)))
    assert overlaps == [False]
