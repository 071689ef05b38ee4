"""The families of the paper against tokens that their authors' own files gave, computed with the released code."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.kit import places
from unicscale.teacher.frozen import open_teacher

GOLDEN = places.GOLDEN / "teachers"
CASES = json.loads((GOLDEN / "teachers.json").read_text())
PLUGINS = {"dbot_ft": "dbot", "dinov2_mlp": "dinov2", "dinov2_reg4": "dinov2", "dinov2_reg4_mlp": "dinov2"}


def opened(case: str, **more: object):
    options = {"size": CASES[case]["arch"], **more}
    return open_teacher(PLUGINS.get(case, case), str(GOLDEN / f"{case}.pth"), options)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("case", "size"), [(c, s) for c, facts in CASES.items() for s in facts["sizes"]])
@torch.no_grad()
def test_official_files_give_their_authors_tokens_at_every_size(case: str, size: int) -> None:
    expected = load_file(GOLDEN / f"{case}.expected.safetensors")
    tokens = opened(case)(expected[f"image_{size}"])
    assert_close(tokens.summary, expected[f"cls_{size}"])
    assert_close(tokens.patches, expected[f"patch_{size}"])


@torch.no_grad()
def test_deit3_classifies_as_its_authors_classifier_does() -> None:
    expected = load_file(GOLDEN / "deit3.classifier.safetensors")
    teacher = opened("deit3")
    assert_close(teacher.classify(teacher(expected["image"]).summary), expected["logits"])


@torch.no_grad()
def test_metaclip_embeds_images_and_texts_where_its_authors_do() -> None:
    expected = load_file(GOLDEN / "metaclip.embeddings.safetensors")
    teacher = opened("metaclip", text=True)
    assert_close(teacher.embed(teacher(expected["image"]).summary), expected["image_embedding"])
    assert_close(teacher.embed_text(expected["text_tokens"]), expected["text_embedding"])
