"""What is asked of the cluster, what would be written, and what is refused before it queues."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from unicscale_launch import checks, sbatch, snapshot
from unicscale_launch import request as requesting
from unicscale_launch.door import spelled
from unicscale_launch.request import request
from unicscale_launch.slurm import next_steps
from unicscale_launch.submission import Variant, plan_submission
from unicscale_launch.sweep import variants

from tests.kit.recipe import write_images, write_recipe
from unicscale.errors import CheckpointError, DataError, RecipeError, TeacherError
from unicscale.recipe import Recipe, load
from unicscale.recipe.sections import Launch
from unicscale.run import launches
from unicscale.run.folder import open_run


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A small one, whose data are there."""
    return load(recipe_file(tmp_path))


def recipe_file(folder: Path, **changes: object) -> Path:
    """The same as a file."""
    return write_recipe(folder / "r.yaml", write_images(folder / "images", 8), folder / "run", **changes)


# --- the request ---------------------------------------------------------------------------------------------------


def test_the_command_line_beats_the_recipe_which_beats_the_site(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requesting, "SITES", (tmp_path,))
    (tmp_path / "here.yaml").write_text("{partition: site, account: site, qos: site, extra: [--mail-type=FAIL]}")
    said = recipe.model_copy(update={"launch": Launch(account="recipe", qos="recipe", extra=["--nice"])})
    asked = request(said, {"site": "here", "qos": "command", "nodes": None})
    assert (asked.partition, asked.account, asked.qos, asked.nodes) == ("site", "recipe", "command", 1)
    assert asked.extra == ["--mail-type=FAIL", "--nice"]


def test_an_unknown_site_names_the_nearest(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"'exampel' is no site. Did you mean 'example'?"):
        request(recipe, {"site": "exampel"})


def test_a_wrong_key_of_a_site_is_an_error_that_names_the_file(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requesting, "SITES", (tmp_path,))
    (tmp_path / "here.yaml").write_text("partitoin: gpu")
    with pytest.raises(RecipeError) as error:
        request(recipe, {"site": "here"})
    assert str(error.value) == (f"{tmp_path}/here.yaml: 'partitoin' is not a key of launch. Did you mean 'partition'?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "one day"}, "the command line: launch.time: 'one day' is no time limit: minutes, HH:MM:SS"),
        ({"memory": "lots"}, "the command line: launch.memory: 'lots' is no amount of memory: 200G"),
        ({"extra": ["mail-type=END"]}, "'mail-type=END' is no sbatch option: write it as '--mail-type=END'"),
        ({"comment": "a\nb"}, r"the command line: launch.comment: 'a\nb' holds a line break or another character"),
        ({"extra": ["--mail-type=END\ntouch x"]}, r"'--mail-type=END\ntouch x' holds a line break"),
        ({"nodes": 0}, "the command line: launch.nodes: Input should be greater than or equal to 1"),
    ],
)
def test_options_that_slurm_would_refuse_are_refused_here(
    recipe: Recipe, options: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        request(recipe, options)
    assert message in str(error.value)


# --- the sbatch file -----------------------------------------------------------------------------------------------


def test_the_script_asks_for_what_was_asked() -> None:
    launch = Launch(
        nodes=4, gpus_per_node=8, cpus_per_task=16, time="24:00:00", partition="gpu", account="vision", memory="0",
        exclude="n[7-9]", comment="UNIC-L", setup=["module load cuda"],
        extra=["--mail-type=END", "#SBATCH --exclusive"],
    )  # fmt: skip
    lines = sbatch.script(launch, Path("/runs/a/launch/x"), "a").splitlines()
    assert {
        "#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=8", "#SBATCH --gpus-per-node=8", "#SBATCH --cpus-per-task=16",
        "#SBATCH --time=24:00:00", "#SBATCH --partition=gpu", "#SBATCH --account=vision", "#SBATCH --mem=0",
        "#SBATCH --exclude='n[7-9]'", "#SBATCH --comment=UNIC-L", "#SBATCH --mail-type=END", "#SBATCH --exclusive",
        "#SBATCH --requeue", "#SBATCH --signal=USR2@120", "#SBATCH --open-mode=append", "module load cuda",
    } <= set(lines)  # fmt: skip
    srun_line = next(line for line in lines if line.startswith("srun"))
    assert "--kill-on-bad-exit=1" in srun_line
    assert "--cpus-per-task=16" in srun_line
    assert not any("wckey" in line for line in lines)


def test_a_job_without_a_time_gets_that_of_its_partition_and_one_without_cores_gets_eight() -> None:
    lines = sbatch.script(Launch(gpus_per_node=2), Path("/x"), "a").splitlines()
    assert not any("--time" in line for line in lines), "submitit's own default is five minutes"
    assert "#SBATCH --cpus-per-task=8" in lines
    assert "--cpus-per-task=8" in next(line for line in lines if line.startswith("srun"))
    text = sbatch.script(Launch(gpus_per_node=0), Path("/x"), "a")
    assert "cpus-per-task" not in text, "a CPU job is the cluster's to size"
    own = sbatch.script(Launch(extra=["--cpus-per-gpu=12"]), Path("/x"), "a")
    assert "cpus-per-task" not in own


def test_a_comment_written_as_a_block_is_one_line_of_the_script() -> None:
    assert "#SBATCH --comment='UNIC L'" in sbatch.script(Launch(comment="UNIC L\n"), Path("/x"), "a").splitlines()


def test_a_line_break_in_the_run_folder_is_no_command(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'out'.* holds a line break"):
        load(recipe_file(tmp_path), ['out="runs/x\\ntouch pwned #"'])


def test_the_sites_own_shell_lines_neither_end_the_script_nor_hide_it_from_the_ranks(tmp_path: Path) -> None:
    text = sbatch.script(Launch(setup=["set -e", "unset UNICSCALE_SUBMISSION"]), tmp_path / "x", "a")
    script, said = tmp_path / "script.sh", tmp_path / "said"
    (tmp_path / "srun").write_text(f'#!/bin/bash\necho "$*" "$UNICSCALE_SUBMISSION" > {said}\nexit 75\n')
    (tmp_path / "srun").chmod(0o755)
    lines = [line for line in text.splitlines() if not line.endswith("&")]
    script.write_text("\n".join("echo after $code" if "unicscale_launch.after" in line else line for line in lines))
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", str(script)], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (75, "after 75\n"), done.stderr
    assert "--export=ALL" in said.read_text().split() and said.read_text().endswith("slurm-7\n")


def test_a_function_of_the_setup_puts_the_ranks_into_a_container_as_the_page_says(tmp_path: Path) -> None:
    page = Path("docs/launch.md").read_text()
    line = next(line.removeprefix("  - ") for line in page.splitlines() if line.startswith("  - srun() {"))
    (tmp_path / "srun").write_text('#!/bin/bash\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    lines = sbatch.script(Launch(setup=[line]), tmp_path / "x", "a").splitlines()
    (tmp_path / "script.sh").write_text("\n".join(line for line in lines if "unicscale_launch" not in line))
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(tmp_path / "script.sh")], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("--container-image=/images/cuda.sqsh"), done.stderr
    assert "--kill-on-bad-exit=1" in done.stdout and "submitit.core._submit" in done.stdout


def test_a_site_that_calls_gpus_gres_gets_gres() -> None:
    lines = sbatch.script(Launch(gpus_per_node=4, gpus_as="gres"), Path("/x"), "a").splitlines()
    assert "#SBATCH --gres=gpu:4" in lines


def test_a_short_job_is_warned_early_enough_to_have_run_at_all() -> None:
    assert "#SBATCH --signal=USR2@15" in sbatch.script(Launch(time="00:01:00"), Path("/x"), "a").splitlines()


def test_printing_and_dry_runs_write_nothing(tmp_path: Path) -> None:
    file = recipe_file(tmp_path)
    for option in ("--print-sbatch", "--dry-run"):
        done = subprocess.run(
            [sys.executable, "launch/slurm.py", str(file), option, "--gpus-per-node", "0"],
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "#!/bin/bash" in done.stdout
        assert "srun --unbuffered" in done.stdout
    assert not (tmp_path / "run").exists()


def test_without_srun_the_message_points_to_the_local_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match=r"srun is not on this machine's PATH: .* or run here with launch/local.py"):
        sbatch.executor(Launch(), Path("/x"), "a")


# --- refused before the queue --------------------------------------------------------------------------------------


def test_a_step_that_cannot_be_shared_is_refused_with_the_numbers(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"'data.images_per_step' is 8, which 3 nodes × 1 ranks cannot share evenly"):
        checks.check(recipe, Launch(nodes=3, gpus_per_node=0))


def test_data_that_are_not_there_are_refused(tmp_path: Path) -> None:
    gone = load(recipe_file(tmp_path), [f"data.train=[{tmp_path}/gone.beton]"])
    with pytest.raises(DataError, match=r"gone.beton does not exist here"):
        checks.check(gone, Launch(gpus_per_node=0))
    checks.check(gone, Launch(gpus_per_node=0), paths=False)


def test_missing_teacher_weights_are_refused(tmp_path: Path) -> None:
    without = load(recipe_file(tmp_path), [f"teachers.one.weights={tmp_path}/no.pth"])
    with pytest.raises(TeacherError, match=r"teacher 'one': 'weights: .*no.pth' does not exist"):
        checks.check(without, Launch(gpus_per_node=0))


def test_a_plan_that_does_not_fit_the_gpu_is_refused_with_the_cure(tmp_path: Path) -> None:
    large = load(recipe_file(tmp_path), ["student.options.embed_dim=512", "engine.device=auto"])
    with pytest.raises(RecipeError, match=r"a rank needs 0\.\d GiB by plan, and 'launch.gpu_gib' is 0.01: set engine"):
        checks.check(large, Launch(gpus_per_node=1, gpu_gib=0.01))


def test_a_key_from_the_environment_may_not_stand_in_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    file = recipe_file(tmp_path)
    leaky = load(file, ["track.wandb.entity=${WANDB_API_KEY}"])
    with pytest.raises(RecipeError) as error:
        checks.check(leaky, Launch(gpus_per_node=0))
    assert str(error.value).startswith("the value of $WANDB_API_KEY stands in the recipe")
    assert "0123456789abcdef" not in str(error.value)
    with pytest.raises(RecipeError, match="WANDB_API_KEY"):
        checks.check(load(file), Launch(gpus_per_node=0, comment="0123456789abcdef"))


def test_a_secret_is_found_however_yaml_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_KEY", "it's: 0123 'quoted'")
    with pytest.raises(RecipeError, match="WANDB_KEY"):
        checks.check(load(recipe_file(tmp_path)), Launch(gpus_per_node=0, setup=["export X=it's: 0123 'quoted'"]))


def test_what_a_job_does_not_ask_for_is_said_where_it_is_submitted_and_in_its_script(recipe: Recipe) -> None:
    time = "no launch.time: the job gets the time limit that its partition has by default"
    cores = "no launch.cpus_per_task: 8 cores are asked for each rank, which decode its images"
    submission = plan_submission([Variant(recipe)], {"gpus_per_node": 0})
    assert time in submission.check() and f"# {time}" in submission.script().splitlines()
    assert sbatch.unsaid(Launch(gpus_per_node=1)) == [time, cores]
    assert sbatch.unsaid(Launch(gpus_per_node=1, cpus_per_task=8, time="60")) == []
    assert sbatch.unsaid(Launch(gpus_per_node=1, extra=["--cpus-per-gpu=12", "--time=60"])) == []


def test_a_folder_whose_name_would_run_in_the_batch_script_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here\ntouch owned #").mkdir()
    recipe = load(recipe_file(tmp_path), ["out=runs/x"])
    monkeypatch.chdir(tmp_path / "here\ntouch owned #")
    with pytest.raises(RecipeError, match="what stands behind a line break would be a command there"):
        plan_submission([Variant(recipe)], {})


def test_a_folder_of_something_else_is_refused_before_the_queue(tmp_path: Path) -> None:
    recipe = load(recipe_file(tmp_path), [f"out={tmp_path / 'images'}"])
    with pytest.raises(CheckpointError, match="images holds all, and is no run folder"):
        checks.check(recipe, Launch(gpus_per_node=0))


# --- sweeps --------------------------------------------------------------------------------------------------------


def test_a_sweep_gives_every_combination_its_own_folder(tmp_path: Path) -> None:
    file = recipe_file(tmp_path)
    runs = variants(str(file), [], ["seed=1,2", "stages.0.lr.peak=1e-3,5e-4"])
    assert [run.recipe.out.removeprefix(str(tmp_path)) for run in runs] == [
        "/run-sweep/seed1-peak1e-3", "/run-sweep/seed1-peak5e-4",
        "/run-sweep/seed2-peak1e-3", "/run-sweep/seed2-peak5e-4",
    ]  # fmt: skip
    assert [run.recipe.seed for run in runs] == [1, 1, 2, 2]
    assert runs[1].recipe.stages[0].lr.peak == 5e-4


def test_a_sweep_is_one_array_with_its_parallelism(tmp_path: Path) -> None:
    file = recipe_file(tmp_path)
    submission = plan_submission(variants(str(file), [], ["seed=1,2,3"]), {"array": 2, "gpus_per_node": 0})
    assert "#SBATCH --array=0-2%2" in submission.script().splitlines()
    assert submission.name == "run-sweep"


def test_a_folder_of_recipes_is_one_run_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tree = yaml.safe_load(recipe_file(tmp_path).read_text()) | {"out": str(tmp_path / "runs" / name)}
        (tmp_path / "all").mkdir(exist_ok=True)
        (tmp_path / "all" / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    assert [Path(run.recipe.out).name for run in variants(str(tmp_path / "all"), [], [])] == ["a", "b"]


def test_a_bare_sweep_is_said_of_a_folder_and_of_nothing_else(tmp_path: Path) -> None:
    assert spelled(["all", "--sweep"]) == ["all", "--sweep="]
    assert spelled(["all", "--sweep", "--array", "2"]) == ["all", "--sweep=", "--array", "2"]
    assert spelled(["r.yaml", "--sweep", "seed=1,2"]) == ["r.yaml", "--sweep", "seed=1,2"]
    file = recipe_file(tmp_path)
    (tmp_path / "all").mkdir()
    file.rename(tmp_path / "all" / "r.yaml")
    assert [run.label for run in variants(str(tmp_path / "all"), [], [""])] == [""]
    with pytest.raises(RecipeError, match=r"--sweep '': write KEY=VALUE,VALUE"):
        variants(str(tmp_path / "all" / "r.yaml"), [], [""])


def test_two_runs_of_one_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    for name in ("a", "b"):
        recipe_file(tmp_path).rename(tmp_path / "all" / f"{name}.yaml")
    with pytest.raises(RecipeError, match=r"several runs would share .*/run: give each recipe its own 'out'"):
        variants(str(tmp_path / "all"), [], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [("seed=[1,2", r"--sweep 'seed=\[1,2' is no YAML list"), ("seed=[]", r"--sweep 'seed=\[\]' names no value")],
)
def test_a_sweep_whose_list_cannot_be_read_says_so(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        variants(str(recipe_file(tmp_path)), [], [text])


def test_a_slash_behind_the_folder_does_not_change_where_a_sweep_goes(tmp_path: Path) -> None:
    [run] = variants(str(recipe_file(tmp_path)), ["out=runs/a/"], ["seed=1"])
    assert run.recipe.out == "runs/a-sweep/seed1"


@pytest.mark.parametrize("text", ["loss.balance.p", "loss.balance.p="])
def test_a_sweep_without_values_shows_how_it_is_written(recipe: Recipe, tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"write KEY=VALUE,VALUE,... for example loss.balance.p=0.0,0.5,1.0"):
        variants(str(tmp_path / "r.yaml"), [], [text])


# --- the snapshot --------------------------------------------------------------------------------------------------


def test_what_is_written_for_a_job_is_private_and_whole(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine: ...\n")
    plain = load(recipe_file(tmp_path), [f"teachers.one.adapter={tmp_path}/mine.py:Mine"])
    submission = plan_submission([Variant(plain)], {"gpus_per_node": 0})
    submission._write()
    assert submission.folder.parent == tmp_path / "run" / "launch"
    for path in (submission.folder, submission.folder.parent):
        assert path.stat().st_mode & 0o777 == 0o700
    resolved = submission.recipe_file(submission.runs[0])
    assert resolved.stat().st_mode & 0o777 == 0o600
    (tmp_path / "mine.py").unlink()
    adapter = load(resolved).teachers["one"].adapter
    assert adapter is not None
    assert Path(adapter.partition(":")[0]).read_text() == "class Mine: ...\n"
    code = submission.folder / "code"
    assert {"unicscale", "unicscale_teachers", "unicscale_launch", "GIT"} <= {path.name for path in code.iterdir()}
    see = "import unicscale as u, unicscale_launch.job as j, unicscale_teachers.dino as d; "
    see += "print(u.__file__, j.__file__, d.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", see],
        env=os.environ | {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [word.startswith(str(code)) for word in done.stdout.split()] == [True] * 3, done.stdout


def test_code_too_large_to_copy_is_refused_with_the_file_that_makes_it_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, data = tmp_path / "code" / "large", tmp_path / "data"
    for folder in (package, data):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    (package / "lost.py").symlink_to(tmp_path / "nowhere.py")
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setattr(snapshot, "PACKAGES", ("large",))
    snapshot.copy_code(tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy" / "large").iterdir()) == ["__init__.py"]
    (data / "all.beton").write_bytes(b"")
    os.truncate(data / "all.beton", 200_000_000)
    (package / "images").symlink_to(data)
    with pytest.raises(RecipeError, match=r"holds more than 100 MB(.|\n)*large/images/all.beton \(200 MB\)"):
        snapshot.copy_code(tmp_path / "again")
    assert not (tmp_path / "again").exists()


# --- the submission ------------------------------------------------------------------------------------------------


def a_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An sbatch that notes its environment, in a folder that is the PATH; returns the note."""
    (folder / "bin").mkdir()
    for name, does in (
        ("srun", ""),
        ("squeue", "exit 1"),
        ("sbatch", f"/usr/bin/env > {folder}/environment\necho Submitted batch job 12"),
    ):
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    return folder / "environment"


def test_a_job_submitted_from_inside_a_job_inherits_nothing_of_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = a_slurm(tmp_path, monkeypatch)
    leaks = ("SLURM_JOB_ID", "SLURM_CPU_BIND_LIST", "SLURM_MEM_PER_CPU", "SLURM_RESTART_COUNT", "SLURM_ARRAY_TASK_ID",
             "SLURMD_NODENAME", "SRUN_DEBUG", "SUBMITIT_EXECUTOR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT",
             "UNICSCALE_SUBMISSION", "UNICSCALE_SECONDS")  # fmt: skip
    stays = ("SLURM_CONF", "SBATCH_ACCOUNT", "WANDB_API_KEY", "LOCAL_SCRATCH")
    for name in (*leaks, *stays):
        monkeypatch.setenv(name, "7")
    assert plan_submission([Variant(recipe)], {"gpus_per_node": 0}).submit() == "12"
    inherited = {line.partition("=")[0] for line in note.read_text().splitlines()}
    assert not inherited & set(leaks)
    assert set(stays) <= inherited
    assert os.environ["SLURM_JOB_ID"] == "7"  # ours again


def test_a_user_without_a_home_submits_all_the_same(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_slurm(tmp_path, monkeypatch)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME", raising=False)

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert plan_submission([Variant(recipe)], {"gpus_per_node": 0}).submit() == "12"
    assert launches.known_runs() == []
    importlib.reload(requesting)


def test_runs_that_ask_for_different_things_are_not_made_one_array(recipe: Recipe) -> None:
    large = recipe.model_copy(update={"launch": Launch(nodes=4, time="60"), "out": "runs/large"})
    runs = [Variant(recipe), Variant(large, "large")]
    with pytest.raises(RecipeError) as error:
        plan_submission(runs, {"time": "30"})
    assert f"{recipe.out} and runs/large ask for different things" in str(error.value)
    assert "launch.nodes: 1 and 4\n" in str(error.value) and "launch.time" not in str(error.value)
    assert plan_submission(runs, {"time": "30", "nodes": 2}).launch.nodes == 2


def test_a_folder_whose_name_slurm_would_change_is_refused(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"Slurm replaces '%' in the names of its logs(.|\n)*out=FOLDER"):
        plan_submission([Variant(recipe.model_copy(update={"out": "runs/50%j"}))], {})


def test_the_next_steps_are_said_of_relative_and_absolute_folders_alike(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [Variant(recipe.model_copy(update={"out": out})) for out in ("runs/a", f"{tmp_path}/runs/b")]
    said = next_steps(plan_submission(runs, {}), "12")
    assert said.splitlines()[-1].split() == ["unicscale", "report", "runs"]


def test_a_folder_without_write_permission_is_refused_and_untouched(recipe: Recipe) -> None:
    with pytest.raises(CheckpointError, match=r"the run folder /proc/run cannot be written"):
        open_run(recipe.model_copy(update={"out": "/proc/run"}))
