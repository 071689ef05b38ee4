"""The lines of docs/python.md run, in order, on the authors' tiny model."""

from __future__ import annotations

import re
from typing import Any

import torch

from tests.kit import places
from unicscale import Features


def test_the_lines_of_the_python_page_run() -> None:
    page = (places.REPOSITORY / "docs" / "python.md").read_text()
    wide = 12
    names: dict[str, Any] = {
        "PATH": places.GOLDEN / "unic_official_tiny.pth",
        "images": torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8),
        "D": wide,
        "teacher_tokens": Features(torch.randn(2, wide), torch.randn(2, 16, wide)),
        "answer": Features(torch.randn(2, wide, requires_grad=True), torch.randn(2, 16, wide, requires_grad=True)),
        "seed": 0,
        "step": 3,
        "index": torch.arange(2),
    }
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)
    assert names["answer"].patches.grad is not None
