"""What `unicscale jobs`, `logs` and `stop` say of a run, from its folder alone; tests/slurm asks a real queue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner
from unicscale_launch import after
from unicscale_launch.after import requeue, why_not

from unicscale.cli import app
from unicscale.errors import CheckpointError, RunError
from unicscale.ranks.scheduler import Entry, Phase
from unicscale.ranks.stop import seconds_left
from unicscale.run import status
from unicscale.run.folder import RunFolder
from unicscale.run.follow import follow
from unicscale.run.launches import PATIENCE, note_launch
from unicscale.run.lock import Holder, Lock
from unicscale.run.states import State

OUTSIDE = {"job": "3", "submission": "slurm-3.0", "restart": 0, "host": "n1", "pid": 1}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No queue, no runs of this user's own."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def a_run(folder: Path, *launches: dict, **facts: object) -> RunFolder:
    """A run folder with those launches."""
    for name in ("checkpoints", "logs"):
        (folder / name).mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"launches": list(launches), **facts}))
    return RunFolder(folder)


def ended(code: int, **more: object) -> dict:
    """A launch that ended with this code."""
    return OUTSIDE | {"ended": {"exit": code, "reason": "because", **more}}


@pytest.mark.parametrize(
    ("launches", "queue", "state"),
    [
        ([], {"3": Entry(Phase.WAITING)}, "queued"),
        ([], {"3": Entry(Phase.RUNNING, "n1")}, "starting"),
        ([ended(75)], {"3": Entry(Phase.WAITING)}, "requeued"),
        ([ended(0)], {"3": Entry(Phase.GONE)}, "finished"),
        ([ended(0)], {}, "finished"),
        ([ended(75)], {}, "stopped"),
        ([ended(75)], None, "unknown"),  # or requeued
        ([ended(6)], None, "failed"),
        ([OUTSIDE], {}, "died"),
        ([OUTSIDE], None, "unknown"),
        ([], None, "unknown"),
        ([ended(6) | {"job": "2"}], None, "unknown"),  # submitted again
        ([OUTSIDE], {"3": Entry(Phase.CANCELLED)}, "cancelled"),
        ([ended(0)], {"3": Entry(Phase.RUNNING, "n1")}, "ending"),
        ([], {}, "gone"),
    ],
)
def test_the_state_follows_from_queue_and_folder(
    tmp_path: Path, launches: list, queue: dict | None, state: str
) -> None:
    assert status.status(a_run(tmp_path / "run", *launches, queued="3"), queue).state is State(state)


@pytest.mark.parametrize(("launch", "state"), [(ended(75), "stopped"), (OUTSIDE, "died")])
def test_a_run_that_slurm_never_had_needs_no_answer_from_it(tmp_path: Path, launch: dict, state: str) -> None:
    assert status.status(a_run(tmp_path / "run", launch), None).state == state


def test_every_state_is_documented_with_its_sentence(repository: Path) -> None:
    rows = [f"| `{state}` | {state.says} |" for state in State]
    said = (repository / "docs" / "launch.md").read_text().splitlines()
    assert [line for line in said if line in rows] == rows


def test_a_state_is_its_word_wherever_it_is_written(tmp_path: Path) -> None:
    a_run(tmp_path / "run", ended(0))
    said = CliRunner().invoke(app, ["jobs", "run", "--json"], catch_exceptions=False)
    assert json.loads(said.output)["state"] == "finished" == f"{State.FINISHED}"


def test_stop_does_not_say_nothing_to_stop_while_slurm_does_not_answer(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", queued="3")
    with pytest.raises(RunError, match=r"Slurm does not answer, so nobody can say whether job 3 waits or runs"):
        status.stop(run, "me")


@pytest.mark.parametrize(("words", "said"), [("echo 'Access denied' >&2", "Access denied"), (":", "exit 1")])
def test_a_scancel_that_fails_is_said_with_its_words(tmp_path: Path, words: str, said: str) -> None:
    says = {"squeue": "echo '3|PENDING|'", "scancel": f"{words}; exit 1"}
    for name, does in says.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(RunError, match=f"scancel 3 failed: {said}"):
        status.stop(a_run(tmp_path / "run", queued="3"), "me")


def test_one_question_to_the_queue_answers_for_all_runs(tmp_path: Path) -> None:
    (tmp_path / "squeue").write_text(f"#!/bin/bash\necho asked >> {tmp_path}/asked\necho '3|RUNNING|n1'\n")
    (tmp_path / "squeue").chmod(0o755)
    runs = [a_run(tmp_path / name, OUTSIDE) for name in ("a", "b")]
    for run in runs:
        (run.root / "lock").write_text(json.dumps(asdict(Holder(host="elsewhere", job="3"))))
    assert [one.state for one in status.statuses(runs)] == ["running"] * 2
    assert (tmp_path / "asked").read_text() == "asked\n"


@pytest.mark.parametrize("text", ["", "[]", '{"launches": [7]}', None])
def test_a_run_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path, text: str | None) -> None:
    bad, good = a_run(tmp_path / "runs" / "bad"), a_run(tmp_path / "runs" / "good", ended(0))
    bad.facts.unlink()
    bad.facts.write_text(text) if text is not None else bad.facts.symlink_to("run.json")  # which leads nowhere
    said = CliRunner().invoke(app, ["jobs", "runs/bad", "runs/good"])
    assert said.exit_code == 0, said.output
    bad_line, why, good_line = said.output.splitlines()[1:]
    assert bad_line.split()[:2] == ["runs/bad", "damaged"] and "run.json" in why
    assert good_line.split()[:2] == [f"runs/{good.root.name}", "finished"]


def test_what_a_fresh_start_set_aside_is_no_run_of_its_own(tmp_path: Path) -> None:
    a_run(tmp_path / "runs" / "a", ended(0))
    a_run(tmp_path / "runs" / "a" / "before-1", ended(0))
    assert [str(run.root) for run in status.find([])] == ["runs/a"]


def test_following_a_log_survives_its_truncation_and_its_replacement(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a\nb\nc\n")
    lines = follow(log, 2, forever=True, patience=0.01)
    assert [next(lines), next(lines)] == ["b\n", "c\n"]
    log.write_text("d\n")
    assert next(lines) == "d\n"
    (tmp_path / "new").write_text("e\nf, longer than what was read\n")
    (tmp_path / "new").rename(log)
    assert [next(lines), next(lines)] == ["e\n", "f, longer than what was read\n"]
    with log.open("a") as stream:
        stream.write("é\n")
    assert next(lines) == "é\n"


def test_no_lines_means_none(tmp_path: Path) -> None:
    a_run(tmp_path / "run", ended(0)).log_of(0).write_text("a\nb\n")
    assert CliRunner().invoke(app, ["logs", "run", "-n", "0"]).output == ""


def test_a_user_whom_no_passwd_knows_can_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    run = a_run(tmp_path / "run", OUTSIDE)
    lock = Lock(run.root)
    lock.take()
    said = CliRunner().invoke(app, ["stop", str(run.root)])
    lock.release()
    assert "asked to stop" in said.output
    assert json.loads(run.stop_request.read_text())["by"].startswith(f"user {os.getuid()}@")


def test_a_held_lock_means_running_whatever_the_queue_says(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", OUTSIDE)
    lock = Lock(run.root)
    lock.take()
    assert status.status(run, {}).state == "running"
    lock.release()
    assert status.status(run, {}).state == "died"


def test_the_time_left_is_that_of_this_launchs_pace(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", OUTSIDE, steps=100)
    old = [{"step": step, "loss": 1.0, "time": 100.0 * step, "launch": 1} for step in range(1, 11)]
    new = [{"step": step, "loss": 0.5, "time": 5000.0 + 2 * step, "launch": 2} for step in range(11, 21)]
    run.metrics.write_text("".join(json.dumps(record) + "\n" for record in old + new) + '{"step": 21, "lo')
    lock = Lock(run.root)
    lock.take()
    seen = status.status(run, None)
    lock.release()
    assert (seen.step, seen.steps, seen.loss, seen.eta) == (20, 100, 0.5, 160.0)


def test_jobs_finds_runs_below_runs_and_those_started_elsewhere(tmp_path: Path) -> None:
    a_run(tmp_path / "runs" / "a", ended(0))
    elsewhere = a_run(tmp_path / "far" / "b", ended(75))
    jobs_index = tmp_path / "state" / "unicscale" / "runs"
    jobs_index.parent.mkdir(parents=True)
    jobs_index.write_text(f"{elsewhere.root}\n{tmp_path}/deleted\n")
    said = CliRunner().invoke(app, ["jobs"]).output.splitlines()
    assert said[0].split() == ["run", "state", "job", "step", "loss", "left", "where"]
    assert [line.split()[:2] for line in said[1:3]] == [["runs/a", "finished"], [str(elsewhere.root), "stopped"]]


def test_an_unknown_run_names_the_nearest(tmp_path: Path) -> None:
    a_run(tmp_path / "runs" / "unic_l", ended(0))
    with pytest.raises(CheckpointError, match=r"runs/unicl is not there. Did you mean"):
        status.open_existing("runs/unicl")


def test_logs_prints_the_last_lines_of_one_rank(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", ended(0))
    run.log_of(1).write_text("a\nb\nc\n")
    assert CliRunner().invoke(app, ["logs", "run", "--rank", "1", "-n", "2"]).output == "b\nc\n"
    with pytest.raises(CheckpointError, match=r"rank 7 has no log in run/logs: ranks 1 to 1 have one"):
        CliRunner().invoke(app, ["logs", "run", "--rank", "7"], catch_exceptions=False)


def test_stop_writes_a_request_for_the_launch_that_runs_and_no_other(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", OUTSIDE)
    assert status.stop(run, "me") == f"{run.root}: nothing to stop, it is died."
    lock = Lock(run.root)
    lock.take()
    assert "asked to stop" in status.stop(run, "me")
    lock.release()
    assert json.loads(run.stop_request.read_text()) == {"launch": 1, "by": "me"}


def test_a_fourth_launch_in_vain_is_refused_but_a_new_command_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path / "run")
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    for _ in range(PATIENCE):
        note_launch(run, 2)
    with pytest.raises(RunError, match=r"3 launches in a row made no progress beyond step 0; not trying again"):
        note_launch(run, 2)
    monkeypatch.setenv("SLURM_JOB_ID", "4")
    note_launch(run, 2)


def test_progress_starts_the_count_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "run")
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    for step in range(6):
        note_launch(run, 2)
        if step % 2:
            (run.checkpoints / f"step-{step:08d}").mkdir()
            (run.checkpoints / f"step-{step:08d}" / "manifest.json").touch()


@pytest.mark.parametrize(
    ("launch", "code", "state", "answer"),
    [
        (ended(0), 0, "RUNNING", "finished"),
        (ended(75, asked="SIGUSR2 on rank 1"), 75, "RUNNING", None),
        (ended(75, asked="SIGTERM on rank 0"), 143, "RUNNING", None),
        (ended(75, asked="SIGINT on rank 0"), 75, "RUNNING", "SIGINT asked for it"),
        (ended(75, asked="SIGTERM on rank 0"), 75, "CANCELLED", "Slurm says CANCELLED"),
        (OUTSIDE, 137, "RUNNING", None),
        (ended(6, kind="RankLost"), 137, "RUNNING", None),
        (ended(6), 6, "RUNNING", "because"),
        (ended(2), 2, "RUNNING", "because"),
        (ended(1), 1, "RUNNING", "because"),
    ],
)
def test_what_goes_to_the_queue_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: dict, code: int, state: str, answer: str | None
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    assert why_not(a_run(tmp_path / "run", launch | {"step": 0}), code, 50, state) == answer


def test_max_requeues_and_a_stop_request_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "5")
    run = a_run(tmp_path / "run", ended(75) | {"step": 0, "restart": 5})
    assert why_not(run, 75, 6, "RUNNING") is None
    assert why_not(run, 75, 5, "RUNNING") == "it was requeued max_requeues=5 times"
    run.stop_request.write_text('{"launch": 1}')
    assert "`unicscale stop` asked for it" in str(why_not(run, 75, 6, "RUNNING"))


YESTERDAY = {"submission": "slurm-2.0", "job": "2", "step": 0}
NEVER = "it ended before it began; the logs say why"


@pytest.mark.parametrize(
    ("launches", "code", "restart", "answer"),
    [
        ([ended(75)], 3, 1, NEVER),  # the data vanished between two launches
        ([ended(75)], 2, 1, NEVER),
        ([ended(75)], 5, 1, NEVER),  # somebody trains in the folder
        ([], 1, 0, NEVER),
        ([], 143, 0, None),  # ended during the first imports
        ([ended(75) | YESTERDAY], 1, 0, NEVER),
        ([ended(75, asked="SIGINT on rank 0") | YESTERDAY], 143, 0, None),
        ([ended(6) | YESTERDAY], 137, 0, None),
        ([ended(0) | YESTERDAY], 130, 0, "SIGINT asked for it"),
        ([ended(75)], 1, 1, None),  # it has begun before: perhaps a file server that was away
        ([ended(75)], 1, 2, None),
        ([ended(75)], 1, 3, "3 launches in a row did not even begin; the logs say why"),
        ([], 143, 2, "3 launches in a row did not even begin; the logs say why"),
    ],
)
def test_a_launch_that_never_began_is_not_judged_by_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launches: list, code: int, restart: int, answer: str | None
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
    assert why_not(a_run(tmp_path / "run", *launches), code, 50, "RUNNING") == answer


@pytest.mark.parametrize(("meant", "refused"), [(1, False), (2, True)])
def test_a_stop_request_counts_for_the_launch_it_was_meant_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meant: int, refused: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    run = a_run(tmp_path / "run", ended(75, asked="unicscale stop") | YESTERDAY)
    run.stop_request.write_text(json.dumps({"launch": meant}))
    assert ("`unicscale stop` asked for it" in str(why_not(run, 143, 50, "RUNNING"))) is refused


@pytest.mark.parametrize(("failures", "goes_on"), [(2, True), (9, False)])
def test_a_requeue_that_fails_is_asked_again_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failures: int, goes_on: bool
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"""#!/bin/bash
echo "$@" >> {tmp_path}/asked
[ $(/usr/bin/wc -l < {tmp_path}/asked) -gt {failures} ] || {{ echo "Unable to contact slurm controller" >&2; exit 1; }}
""")
    scontrol.chmod(0o755)
    assert requeue("7_1", tries=3, pause=0.01) is goes_on
    assert (tmp_path / "asked").read_text() == "requeue 7_1\n" * 3
    assert "requeue 7_1 failed: Unable to contact slurm controller" in capsys.readouterr().out
    scontrol.unlink()
    assert not requeue("7_1", tries=2, pause=0.01)


def test_a_task_of_an_array_is_never_called_by_the_name_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SLURM_JOB_ID", "7"), ("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "1")):
        monkeypatch.setenv(name, value)
    for command in ("squeue", "scontrol"):
        (tmp_path / command).write_text(f'#!/bin/bash\necho {command} "$@" >> {tmp_path}/asked\necho 1:00\n')
        (tmp_path / command).chmod(0o755)
    (tmp_path / "runs.txt").write_text(f"{tmp_path}/other\n{a_run(tmp_path / 'run').root}\n")
    monkeypatch.setattr(sys, "argv", ["after", str(tmp_path / "runs.txt"), "143"])
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    after.main()
    seconds_left()
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[:2] for line in asked] == [["scontrol", "-o"], ["scontrol", "requeue"], ["squeue", "-h"]]
    assert all("7_1" in line.split() and "7" not in line.split() for line in asked)
    assert Holder().job == "7_1"


def test_every_srun_in_one_allocation_starts_a_count_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path / "run")
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    for step in range(PATIENCE + 1):
        monkeypatch.setenv("SLURM_STEP_ID", str(step))
        note_launch(run, 2)
    for number in range(PATIENCE + 1):
        monkeypatch.setenv("UNICSCALE_SUBMISSION", f"local-{number}")
        note_launch(run, 2)


def test_jobs_answers_without_torch() -> None:
    see = "import sys; from unicscale.run import status as s; s.statuses(s.find([])); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", see], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "False", done.stderr
