"""metrics.jsonl is the truth; wandb mirrors it, offline too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from unicscale.contracts import Progress
from unicscale.errors import CheckpointError
from unicscale.recipe.sections import Track
from unicscale.run.metrics import Log, to_numbers
from unicscale.run.mirrors import Tracked, open_mirrors


def test_terms_become_numbers_in_one_transfer() -> None:
    assert to_numbers({"loss": torch.tensor(0.5), "lr": 0.25}) == {"lr": 0.25, "loss": 0.5}


def test_a_record_says_where_the_run_is_and_how_fast(tmp_path: Path) -> None:
    log = Log(tmp_path / "m.jsonl", [], launch=2)
    log.write(Progress(step=1, images=8), {"loss": torch.tensor(1.0)})
    log.write(Progress(stage=1, step=2, images=16), {"loss": torch.tensor(0.5)})
    log.close()
    first, second = (json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines())
    assert (second["stage"], second["step"], second["images"], second["loss"]) == (1, 2, 16, 0.5)
    assert first["images_per_second"] is None and second["images_per_second"] > 0
    assert second["launch"] == 2


def test_half_a_line_of_a_killed_launch_costs_the_next_one_nothing(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    for left in ('{"step": 1}\n', '{"step": 1}\n{"st'):
        file.write_text(left)
        log = Log(file, [])
        log.write(Progress(step=2), {})
        log.close()
        lines = file.read_text().splitlines()
        assert lines[:-1] == left.splitlines() and json.loads(lines[-1])["step"] == 2


def test_a_full_disk_ends_the_run_in_words_and_its_checkpoint_is_intact() -> None:
    log = Log(Path("/dev/full"), [])
    with pytest.raises(CheckpointError, match=r"/dev/full cannot be written: No space left on device\.\n  The last"):
        log.event({"step": 1})
    log.close()


def test_a_log_without_a_file_swallows_everything() -> None:
    Log(None, []).write(Progress(), {"loss": torch.tensor(1.0)})


def test_wandb_offline_keeps_the_run_id_and_needs_no_account(tmp_path: Path) -> None:
    track = Track.model_validate({"wandb": {"mode": "offline"}})
    for _ in range(2):  # a second launch goes on under the same id
        mirrors = open_mirrors(track, Tracked(tmp_path, "abc123", {"seed": 0}))
        log = Log(tmp_path / "m.jsonl", mirrors)
        log.write(Progress(step=1, images=8), {"loss": torch.tensor(1.0)})
        log.close()
    folders = list((tmp_path / "wandb").glob("offline-run-*-abc123"))
    assert folders and all(list(f.glob("run-abc123.wandb")) for f in folders)
