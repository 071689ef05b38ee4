"""A slice of benchmarks/encoders.py: no traceback, no silent error."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from benchmarks import encoders, encoders_students, encoders_teachers
from benchmarks.encoders_models import hf_models, timm_models

SMALL = {
    "timm": ("byobnet", "convnext", "efficientnet", "mambaout", "maxxvit", "nfnet", "resnet", "vision_transformer"),
    "hf": ("cvt", "dinov3_vit", "ijepa", "radio", "sam_vision_model", "vitdet"),
}
MODELS: dict[str, dict[str, Any]] = {"timm": timm_models(), "hf": hf_models()}


@pytest.mark.parametrize(("library", "family"), [(name, family) for name, some in SMALL.items() for family in some])
def test_its_tokens_are_the_librarys_own(library: str, family: str) -> None:
    row = encoders_teachers.judged(library, MODELS[library][family], encoders.SMALL)
    assert (row["verdict"], row.get("compared")) == ("yes", "yes"), row


@pytest.mark.parametrize("arch", ["test_convnext", "test_efficientnet"])
def test_it_learns(arch: str) -> None:
    assert encoders_students.judged(arch)["verdict"] == "yes"


def test_a_wrong_order_of_tokens_is_seen() -> None:
    right = torch.zeros(5, 16, 2)
    for number, corner in enumerate((0, 3, 12, 15)):
        right[1 + number, corner] = 1
    assert encoders_teachers.out_of_order(right, 4) == []
    assert encoders_teachers.out_of_order(right.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2), 4)


def test_a_model_that_takes_all_memory_or_time_costs_a_row() -> None:
    def hungry() -> dict[str, Any]:
        return {"verdict": "yes", "sum": float(torch.ones(2**30).sum())}

    assert encoders.apart(hungry, gib=1)["reason"] == "more than 1 GiB"
    assert encoders.apart(lambda: time.sleep(60) or {}, patience=0.5)["reason"] == "longer than 0 s"
    broken = encoders.apart(lambda: {"a": {}["b"]})
    assert (broken["verdict"], broken["reason"]) == ("traceback", "KeyError: 'b'")


def test_the_table_counts_what_went_wrong() -> None:
    rows = [
        {"library": "hf", "family": "a", "verdict": "traceback", "reason": "KeyError: 'b'"},
        {
            "library": "hf",
            "family": "c",
            "verdict": "yes",
            "summary": 3,
            "patches": None,
            "stride": 4,
            "sizes": "any × 4",
        },
    ]
    said = encoders.teachers_table(rows)
    assert "### hf: 1 of 2 asked, 1 tracebacks or silent errors" in said
    assert "| `c` |  | yes | 3 |  | 4 | any × 4 |  |" in said
