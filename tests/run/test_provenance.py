"""run.json says of every launch what was started, on which code, when and on what."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unicscale.ranks.device import called
from unicscale.run import provenance
from unicscale.run.folder import RunFolder, facts_of
from unicscale.run.launches import note_end, note_launch
from unicscale.run.status import status


def test_a_launch_notes_command_commit_device_and_a_date_that_people_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for part in (folder.checkpoints, folder.evaluation, folder.logs):
        part.mkdir()
    note_launch(folder, 1, called(torch.device("cpu")))
    note_end(folder, {"exit": 0, "reason": "finished"})
    launch = facts_of(folder)["launches"][0]
    assert launch["device"] == "cpu" and sys.orig_argv[0] in launch["command"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", launch["date"])
    assert launch["ended"]["date"] >= launch["date"]
    assert status(folder, None).state == "finished"


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_the_commit_is_that_of_the_code_and_says_whether_it_was_changed(tmp_path: Path) -> None:
    package = tmp_path / "unicscale"
    package.mkdir()
    assert provenance.commit(package) is None
    git(tmp_path, "init", "-q")
    (package / "x.py").write_text("1")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v9")
    clean = provenance.commit(package)
    assert clean is not None and re.fullmatch(r"[0-9a-f]{40}", clean)
    (package / "x.py").write_text("2")
    assert provenance.commit(package) == f"{clean}-dirty"


@pytest.mark.parametrize(("text", "said"), [("abc\n\n\n", "abc"), ("abc\n\n M x.py\n", "abc-dirty"), ("", None)])
def test_a_jobs_copy_of_the_code_names_the_commit_that_it_was_copied_from(
    tmp_path: Path, text: str, said: str | None
) -> None:
    (tmp_path / "GIT").write_text(text)
    assert provenance.commit(tmp_path / "unicscale") == said
