"""The command line as a person meets it: text, exit codes, speed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.recipe import write_images, write_recipe
from unicscale import __version__
from unicscale.commands.seen import verdict
from unicscale.errors import UserError
from unicscale.evaluate.results.compare import summary
from unicscale.recipe import load


def unicscale(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "80"}
    command = [sys.executable, "-m", "unicscale", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=120)


def test_help_lists_every_command() -> None:
    said = unicscale("--help").stdout
    names = "init launch demo check explain plan train pack teachers features evaluate look report jobs"
    names += " watch logs stop doctor"
    for name in names.split():
        assert f" {name} " in said, name


QUICK = [
    "--help",
    "check recipes/unic_l.yaml",
    "check recipes/demo.yaml",
    "explain save.keep",
    "teachers list",
    "jobs",
    "watch --once RUN",
    "report RUN",
]


def a_tiny_run(folder: Path, recipe: Path) -> Path:
    """A run that ended, with two records and one table of results: as much as `jobs` and `report` read."""
    (folder / "evaluation").mkdir(parents=True)
    shutil.copy(recipe, folder / "recipe.yaml")
    launch = {"host": "n1", "ranks": 1, "step": 0, "time": 1.0, "ended": {"exit": 0, "reason": "finished", "time": 9.0}}
    (folder / "run.json").write_text(json.dumps({"launches": [launch], "steps": 2}))
    records = [{"step": n, "images": 8 * n, "stage": 0, "launch": 1, "loss": 1.0 / n, "time": n} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    score = {"name": "knn", "value": 80.0, "low": 79.0, "high": 81.0, "higher_is_better": True}
    measured = {"model": "student", "sha256": "0", "teacher": False, "scores": [score]}
    (folder / "evaluation" / "quick.json").write_text(json.dumps(summary([measured])))
    return folder


@pytest.mark.parametrize("words", QUICK)
def test_quick_commands_do_not_import_torch(words: str, repository: Path, tmp_path: Path) -> None:
    run = a_tiny_run(tmp_path / "run", repository / "recipes" / "unic_l.yaml")
    given = [str(run) if word == "RUN" else word for word in words.split()]
    script = f"import sys; sys.argv = ['unicscale', *{given!r}]\nfrom unicscale.cli import main\ncode = 0\n"
    script += "try: main()\nexcept SystemExit as left: code = left.code\nsys.exit(code or 'torch' in sys.modules)"
    environment = os.environ | {"IMAGENET": "/data", "XDG_STATE_HOME": str(tmp_path)}
    begun = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=repository, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    if not words.startswith("report"):  # which waits for matplotlib
        assert time.monotonic() - begun < 3  # 1 s on a quiet machine; the tests' own machine is not


def test_the_version_is_one_line() -> None:
    ran = unicscale("--version")
    assert (ran.returncode, ran.stdout) == (0, f"unicscale {__version__}\n")


@pytest.mark.parametrize("door", ["slurm", "local"])
def test_the_front_doors_have_a_second_name(door: str, tmp_path: Path) -> None:
    helped = unicscale("launch", door, "--help")
    assert helped.returncode == 0 and "--sweep" in helped.stdout, helped.stderr
    refused = unicscale("launch", door, "no.yaml", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.partition(".")[0]) == (2, "no")


def test_a_missing_recipe_is_one_line_and_exit_2(tmp_path: Path) -> None:
    ran = unicscale("check", str(tmp_path / "no.yaml"))
    assert ran.returncode == 2
    assert "does not exist" in ran.stderr and "Traceback" not in ran.stderr


def test_nothing_is_left_behind_by_a_recipe_that_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("schema: 1\nout: run\n")
    assert unicscale("train", str(recipe), cwd=tmp_path).returncode == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.yaml"]


def test_an_unknown_command_is_exit_2() -> None:
    ran = unicscale("trian")
    assert ran.returncode == 2 and "Traceback" not in ran.stderr


def test_check_ends_with_a_verdict_that_says_what_it_did_not_see(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 8)
    recipe = str(write_recipe(tmp_path / "r.yaml", images, tmp_path / "run"))
    ran = unicscale("check", recipe)
    assert ran.returncode == 0 and ran.stdout.startswith("schema: 1"), ran.stderr
    assert ran.stderr.splitlines()[-1] == "valid; not looked at: weights"
    quiet = unicscale("check", "--quiet", recipe, f"data.train=[{tmp_path}/none]", "standardize={kind: file, path: s}")
    seen = f"data ({tmp_path}/none is not on this machine), standardize.path (s), weights"
    assert (quiet.stdout, quiet.stderr) == ("", f"valid; not looked at: {seen}\n")


def test_check_says_what_auto_becomes_and_full_everything_else(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 16)
    tree = write_recipe(tmp_path / "r.yaml", images, tmp_path / "run", steps=400)
    short = ["data.workers=auto", "stages.0.warmup_steps=null", "track.wandb={project: p}"]
    said = unicscale("check", str(tree), *short).stdout
    for line in (
        "#   data.reader         folder",
        "#   data.resize         area",
        "#   teachers.one.dtype  engine.dtype",
        "#   engine.dtype        bf16 on GPUs that have it, fp32 elsewhere; a run keeps what it began with",
        "#   engine.compile      true on GPUs with a C compiler, false elsewhere",
        "#   track.wandb.mode    online where an account is known, else offline",
        "#   stages.0.warmup     5%, as nobody said another",
    ):
        assert line in said.splitlines(), said
    ran = unicscale("check", "--full", str(tree), *short, "data.train=[IMAGES.beton]".replace("IMAGES", str(images)))
    assert "data (" in ran.stderr, "a beton that is not here was not looked at"
    full = unicscale("check", "--full", str(tree), *short)
    assert full.returncode == 0, full.stderr
    for line in (
        "# this machine  cpu: fp32, not compiled",
        "# an epoch      16 images, 2 steps of 8",
        "# ranks         1, 8 at once on each",
        "# stage low     200 steps of 32 px, 10 of them warm-up (5%, as nobody said another), rate 0 to 0.001 to 1e-06",
        "# in all        400 steps, 3,200 images",
        "# student       0.1 M parameters",
        "# teacher one   0.0 M parameters, whole on every rank",
    ):
        assert line in full.stdout.splitlines(), full.stdout
    refused = unicscale("check", "--full", str(tree), "teachers.one.resolution=33")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr, refused.stderr


def test_an_unknown_plug_in_is_said_where_it_was_said(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 8)
    recipe = write_recipe(tmp_path / "r.yaml", images, tmp_path / "run", teachers__one={"plugin": "dyno"})
    line = recipe.read_text().splitlines().index("  one:") + 2
    by_file = unicscale("check", str(recipe))
    assert by_file.stderr.startswith(f"{recipe}:{line}: no teacher plug-in is called 'dyno'. Did you mean 'dino'?")
    by_word = unicscale("check", str(recipe), "teachers.one.plugin=dinov9")
    assert by_word.stderr.startswith("'teachers.one.plugin=dinov9': no teacher plug-in is called 'dinov9'.")


UNSEEN = {
    "data.images_per_step=9": "an epoch has 8 images, fewer than one step takes (9).",
    "stages.0.warmup_steps=8": "stages[0]: a warm-up of 8 steps leaves nothing of the stage's 8.",
    "launch.gpus_per_node=3": "data.images_per_step: 8 images do not divide over 3 ranks.",
    "student.arch=vit_smal": "'vit_smal' is neither vit_tiny, vit_small, vit_base, vit_large nor a model of timm.",
    "student.arch=resnet50": "student: timm cannot build 'resnet50'",
    "student.options.in_chans=4": "student.options.in_chans: 4, and images have 3: data.channels says which.",
    "student.options.depth=0": "student.options.depth: a student has at least one block.",
    "evaluate={every_steps: 4, tasks: [knn]}": "evaluate: no images to measure on: name evaluate.data or data.val",
    "evaluate={every_steps: 4, tasks: [miou], data: IMAGES}": "'miou' cannot be measured while training",
}


@pytest.mark.parametrize("change", UNSEEN)
def test_check_refuses_what_train_would_refuse(tmp_path: Path, change: str) -> None:
    images = write_images(tmp_path / "images", 8)
    recipe = load(
        str(write_recipe(tmp_path / "r.yaml", images, tmp_path / "run")), [change.replace("IMAGES", str(images))]
    )
    with pytest.raises(UserError) as error:
        verdict(recipe)
    assert UNSEEN[change] in str(error.value)


def test_the_schema_is_json() -> None:
    assert json.loads(unicscale("check", "--schema").stdout)["title"] == "Recipe"


def test_doctor_prints_what_works_here() -> None:
    ran = unicscale("doctor")
    assert ran.returncode == 0
    assert "torch" in ran.stdout and "FFCV" in ran.stdout and "Slurm" in ran.stdout
