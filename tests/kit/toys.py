"""A recipe at toy size: its teachers, student and images small, all that it says of methods as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unicscale.recipe import Recipe, dump
from unicscale.teacher.finding import find

STUDENT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
PATCH = 8
OWN = ("plugin", "tokens", "weight", "loss", "mosaic", "resolution")  # what a teacher's section says of the method


def toy(recipe: Recipe, folder: Path, proxy: Recipe | None = None) -> Recipe:
    """`proxy`: the recipe of the run that is its teacher, which is small then too."""
    tree: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    sizes = sorted({size for stage in recipe.stages for size in stage.size_list})
    place = {size: PATCH * (4 + number) for number, size in enumerate(sizes)}
    for stage, section in zip(tree["stages"], recipe.stages, strict=True):
        small = [place[size] for size in section.size_list]
        stage["size"] = small if len(small) > 1 else small[0]
        stage["freeze_trunk"] = "1 steps" if section.freeze_trunk else None
        stage["start_from"] = "weights"
    tree["teachers"] = {name: _teacher(section, folder, proxy) for name, section in tree["teachers"].items()}
    tree["student"] |= {"patch": PATCH, "init": None, "options": STUDENT}
    tree["projector"] |= {key: 16 for key in ("hidden",) if key in tree["projector"]}
    tree["projector"] |= {key: 2 for key in ("heads",) if key in tree["projector"]}
    if recipe.standardize.freeze_after is not None:
        tree["standardize"]["freeze_after"] = "1 steps"
    tree["engine"] |= {"kind": "plain", "dtype": "fp32", "compile": False, "device": "cpu", "checkpointing": "none"}
    tree["data"]["augment"]["blur_kernel"] = 9
    tree |= {"out": str(folder / "run"), "dry_run": {"steps": 2, "images_per_step": 4}}
    return Recipe.model_validate(tree)


def _teacher(section: dict[str, Any], folder: Path, proxy: Recipe | None) -> dict[str, Any]:
    kept = {key: section[key] for key in OWN if key in section}
    if section["plugin"] == "unicscale":
        assert proxy is not None
        small = folder / "proxy.yaml"
        small.write_text(dump(proxy))
        own: dict[str, Any] = {"run": "runs/nowhere", "recipe": str(small)}
        cell = PATCH
    else:
        plugin = find(section["plugin"])
        own = dict(plugin.small)
        cell = plugin.spec(plugin.Options.model_validate(own)).patch
    if isinstance(section["resolution"], list):
        kept["resolution"] = [cell * (3 + number) for number in range(len(section["resolution"]))]
    elif isinstance(section["resolution"], int):
        kept["resolution"] = 4 * cell
    return kept | own | {"weights": "random", "shard": "auto"}
