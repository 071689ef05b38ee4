"""What the paper printed was read twice, by two who did not see each other's list: second_reading.json is the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

READ = json.loads(Path(__file__).with_name("second_reading.json").read_text())


def held() -> dict[tuple[str, str, bool], float]:
    """Row, metric, whether it is a gain -> what stands beside runs."""
    import unicscale.evaluate.results as results

    data: dict[str, Any] = json.loads(Path(results.__file__).with_name("published.json").read_text())
    scores = {(row, m, False): v for row, model in data["models"].items() for m, v in model["scores"].items()}
    gains = {(row, m, True): v for row, model in data["gains"].items() for m, v in model["gain"].items()}
    moves = {
        (f"{table}:{end}", m, False): v[end]
        for table, model in data["moves"].items() for m, v in model.items() if m != "source" for end in (0, 1)
    }  # fmt: skip
    return scores | gains | moves


def test_both_readings_hold_the_same_numbers() -> None:
    ours = held()
    for one in READ:
        key = (one["row"], one["metric"], one.get("gain", False))
        assert ours.get(key) == one["value"], f"{key}: {ours.get(key)} here, {one['value']} in the second reading"


def test_the_second_reader_found_everything_that_stands_here() -> None:
    assert held().keys() == {(one["row"], one["metric"], one.get("gain", False)) for one in READ}
