"""An evaluation that is asked to stop leaves at the first signal, with what it has finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evaluate.test_own import scenes
from tests.kit import measured, tiny_sets


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_the_first_signal_ends_an_evaluation_and_what_was_finished_is_kept(
    tmp_path: Path, asked: signal.Signals
) -> None:
    student, data, out = measured.student(tmp_path / "student"), tmp_path / "mine", tmp_path / "t.json"
    tiny_sets.folders(data / "photos", ["a", "b"], 12)
    scenes(data / "street", "masks", range(6), "train")
    scenes(data / "street", "masks", range(6, 9), "val")
    words = ["evaluate", str(student), "--data", str(data), "--suite", "knn:photos,segment:street", "--out", str(out)]
    words += ["--dense-size", "32", "--dense-steps", "1000000", "--batch", "4", "--device", "cpu"]
    command = [sys.executable, "-m", "unicscale", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None and running.stdout is not None
        heard = []
        for line in running.stderr:
            heard.append(line)
            if "segment:street ..." in line:
                break
        time.sleep(1)
        running.send_signal(asked)
        begun = time.monotonic()
        said, shown = "".join(heard) + running.stderr.read(), running.stdout.read()
        assert running.wait(60) == 75, said
    assert time.monotonic() - begun < 30
    assert f"stopped ({asked.name}): 1 of its results are kept; the same command measures the rest." in said
    assert "Traceback" not in said and "saving at the end of this step" not in said
    assert {name.partition("/")[0] for name in json.loads(out.read_text())["scores"]} == {"knn:photos"}
    assert "knn:photos" in shown
    assert not [path for path in tmp_path.rglob("*.tmp")]
