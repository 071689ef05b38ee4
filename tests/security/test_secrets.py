"""What is the user's alone stays in the environment, and what others named is not obeyed by a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.test_files import GOOD
from unicscale.errors import RecipeError
from unicscale.recipe import load
from unicscale.recipe.secrets import is_secret, refuse_secrets, without_secrets
from unicscale.report import read, write
from unicscale.run.folder import RunFolder
from unicscale.run.status import statuses

NAMES = [
    "MY_PASS", "AUTH", "MY_BEARER", "SLACK_WEBHOOK", "COOKIE", "MYKEY", "AZURE_STORAGE_CONNECTION_STRING",
    "WANDB_API_KEY", "GITHUB_TOKEN", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "GOOGLE_CREDENTIALS", "HTTP_AUTHORIZATION",
]  # fmt: skip


def unicscale(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command, said = [sys.executable, "-m", "unicscale", *words], os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=said, timeout=120)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_these_names_may_stand_in_no_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    monkeypatch.setenv(name, "hunter2-hunter2")
    for change in (
        "out=runs/hunter2-hunter2",
        "teachers.a.note=x hunter2-hunter2",
        "track.wandb.entity=hunter2-hunter2",
    ):
        with pytest.raises(RecipeError, match=rf"the value of \${name} stands in the recipe") as refused:
            refuse_secrets(load(tmp_path / "r.yaml", [change]))
        assert "hunter2" not in str(refused.value)


def test_an_address_with_a_password_is_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    monkeypatch.setenv("DATABASE_URL", "postgres://anna:hunter2@host/runs")
    with pytest.raises(RecipeError, match=r"the value of \$DATABASE_URL stands in"):
        refuse_secrets(load(tmp_path / "r.yaml", ["track.wandb.project='${DATABASE_URL}'"]))
    with pytest.raises(RecipeError, match=r"'https://host/w\.pth' stands in the recipe with a password") as refused:
        refuse_secrets(load(tmp_path / "r.yaml", ["teachers.a.weights=https://anna:hunter2@host/w.pth"]))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("GIT_AUTHOR_NAME", "Anna Schmidt"), ("XAUTHORITY", "nothing-there"), ("SSH_AUTH_SOCK", "/tmp"),
     ("MY_KEY", "short"), ("DATA", "/data/imagenet"), ("HOME", "/root/anybody"), ("KEYTIMEOUT", "123456789")],
)  # fmt: skip
def test_other_values_are_no_secrets(name: str, value: str) -> None:
    assert not is_secret(name, value)


def test_training_refuses_what_the_front_doors_refuse_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    ran = unicscale("train", "r.yaml", "out=runs/${MY_PASS}", cwd=tmp_path, MY_PASS="hunter2-hunter2")
    assert ran.returncode == 2 and "the value of $MY_PASS stands in the recipe" in ran.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["r.yaml"]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://a:b@host/x?token=1&v=2#f", "https://host/x?v=2#f"),
        ("https://host/x?X-Amz-Signature=1&X-Amz-Credential=2", "https://host/x"),
        ("hf:org/repo", "hf:org/repo"),
        ("https://host/a%20b", "https://host/a%20b"),
    ],
)
def test_an_address_is_shown_without_what_proves_a_login(address: str, shown: str) -> None:
    assert without_secrets(address) == shown


def test_names_and_logs_that_a_terminal_would_obey_are_written_out(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a\x1b]0;owned\x07"
    (run / "logs").mkdir(parents=True)
    (run / "logs" / "rank-0000.log").write_bytes(b"one\r\ntwo\rthree\x1b[2J\n\xff\n")
    ended = {"exit": 2, "reason": "because \x1b[31m of it"}
    (run / "run.json").write_text(json.dumps({"launches": [{"host": "h\x9b1m", "step": 0, "time": 1, "ended": ended}]}))
    listed = unicscale("jobs", cwd=tmp_path, XDG_STATE_HOME=str(tmp_path))
    logged = unicscale("logs", str(run), cwd=tmp_path)
    assert listed.returncode == logged.returncode == 0, listed.stderr + logged.stderr
    assert "\x1b" not in listed.stdout + logged.stdout and "\x9b" not in listed.stdout
    assert "a\\x1b]0;owned\\x07" in listed.stdout and "because \\x1b[31m of it" in listed.stdout
    assert logged.stdout.startswith("one\ntwo\nthree\\x1b[2J\n")
    folder = RunFolder(run)
    page = write([read(folder, status) for status in statuses([folder])], tmp_path / "report").read_text()
    assert "\x1b" not in page and "h\\x9b1m" in page
