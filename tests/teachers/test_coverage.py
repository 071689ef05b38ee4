"""A slice of benchmarks/coverage.py: no traceback, no silent error."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import coverage
from benchmarks.coverage_models import hf_models, timm_models

SMALL = {
    "timm": ("byobnet", "convnext", "efficientnet", "mambaout", "maxxvit", "nfnet", "resnet", "vision_transformer"),
    "hf": ("cvt", "dinov3_vit", "ijepa", "radio", "sam_vision_model", "vitdet"),
}
MODELS: dict[str, dict[str, Any]] = {"timm": timm_models(), "hf": hf_models()}


@pytest.mark.parametrize(("library", "family"), [(name, family) for name, some in SMALL.items() for family in some])
def test_its_tokens_are_the_librarys_own(library: str, family: str) -> None:
    row = coverage.row(library, family, MODELS[library][family])
    assert (row["teacher"], row.get("compared")) == ("yes", "yes"), row


def test_a_wrong_order_of_tokens_is_seen() -> None:
    import torch

    right = torch.zeros(5, 16, 2)
    for number, corner in enumerate((0, 3, 12, 15)):
        right[1 + number, corner] = 1
    assert coverage.out_of_order(right, 4) == []
    assert coverage.out_of_order(right.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2), 4)


def test_the_table_counts_what_went_wrong() -> None:
    rows = [
        {"library": "hf", "family": "a", "model": "a", "teacher": "traceback", "reason": "KeyError: 'b'"},
        {"library": "hf", "family": "c", "model": "c", "teacher": "yes", "summary": 3, "patches": None, "stride": 4,
         "sizes": "any × 4"},
    ]  # fmt: skip
    said = coverage.table(rows)
    assert "### hf: 1 of 2, 1 tracebacks or silent errors" in said
    assert "| `c` |  | yes | 3 |  | 4 | any × 4 |" in said
