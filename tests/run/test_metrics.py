"""metrics.jsonl is the truth; wandb mirrors it, offline too."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def test_trackers_hear_of_a_run_that_was_resumed_under_one_id_and_of_each_step_once(tmp_path: Path) -> None:
    track = Track.model_validate({"wandb": {"mode": "offline", "project": "mine"}, "tensorboard": True})
    for launch, steps in enumerate((range(1, 7), range(4, 10)), start=1):  # killed at 6, goes on from a checkpoint at 3
        log = Log(tmp_path / "metrics.jsonl", open_mirrors(track, Tracked(tmp_path, "abc123", {"seed": 7})), launch)
        for step in steps:
            log.write(Progress(step=step, images=8 * step), {"loss": torch.tensor(1.0 / step)})
            if step % 3 == 0:
                log.event({"step": step, "images": 8 * step, "stage": 0, "val/knn": 10.0 * step})
        log.close()
    told = [one for file in told_in(tmp_path) for one in wandb_of(file)]
    assert {one["id"] for one in told if "id" in one} == {"abc123"}
    assert {one["project"] for one in told if "project" in one} == {"mine"}
    assert any(one.get("seed") == "7" for one in told), "the recipe is its config"
    assert {"step", "*"} <= {one["metric"] for one in told if "metric" in one}
    assert [int(one["step"]) for one in told if "loss" in one] == list(range(1, 10))
    assert [int(one["step"]) for one in told if "val/knn" in one] == [3, 6, 9]
    assert sorted(_tensorboard(tmp_path / "events", "loss")) == [
        (step, pytest.approx(1 / step)) for step in range(1, 10)
    ]


def told_in(run: Path) -> list[Path]:
    """wandb's files in the order they were begun, once its own process, which outlives `finish`, has written them."""
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.parent.name)
    for _ in range(60):
        if all("exit" in one for file in files if (one := kinds_of(file))):
            return files
        time.sleep(0.5)
    return files


def kinds_of(file: Path) -> set[str | None]:
    from wandb.proto import wandb_internal_pb2

    return {wandb_internal_pb2.Record.FromString(data).WhichOneof("record_type") for data in _pieces(file.read_bytes())}


def wandb_of(file: Path) -> list[dict[str, Any]]:
    """What a file of wandb's holds, by wandb's own messages."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for data in _pieces(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            items = record.history.item
            found.append({item.key or "/".join(item.nested_key): item.value_json for item in items})
        elif kind == "run":
            config = {item.key: item.value_json for item in record.run.config.update}
            found.append(config | {"id": record.run.run_id, "project": record.run.project})
        elif kind == "metric":
            found.append({"metric": record.metric.name or record.metric.glob_name})
    return found


def _pieces(data: bytes) -> Iterator[bytes]:
    """A log of LevelDB's form: blocks of 32 KB, records cut at their ends (1 whole, 2 first, 3 middle, 4 last)."""
    at, held = 7, b""  # behind wandb's own head
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        held += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield held
            held = b""


def _tensorboard(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(one.step, one.value) for one in events.Scalars(tag)]
