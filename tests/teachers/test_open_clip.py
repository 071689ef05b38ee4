"""Every image tower of open_clip teaches, and what it embeds is what open_clip embeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from unicscale.errors import TeacherError
from unicscale.teacher.finding import find
from unicscale.teacher.frozen import open_teacher

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
COCA = {**VIT, "attentional_pool": True, "attn_pooler_heads": 4}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
TIMM = {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear"}


def refusal(**options: Any) -> str:
    with pytest.raises(TeacherError) as caught:
        open_teacher("open_clip", "random", options)
    return str(caught.value)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of configurations of our own, which open_clip learns of."""
    for name, vision in {"tiny-vit": VIT, "tiny-coca": COCA, "tiny-resnet": RESNET, "tiny-timm": TIMM}.items():
        for custom in (False, True):
            config = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": TEXT} | (
                {"custom_text": True} if custom else {}
            )
            (tmp_path / f"{name}{'-custom' if custom else ''}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    return tmp_path


@pytest.mark.parametrize("custom", ["", "-custom"])
@pytest.mark.parametrize("name", ["tiny-vit", "tiny-coca", "tiny-resnet", "tiny-timm"])
@torch.no_grad()
def test_embeddings_are_open_clips_own(models: Path, name: str, custom: str, tmp_path: Path) -> None:
    theirs: Any = open_clip.create_model(name + custom).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    torch.save(theirs.state_dict(), tmp_path / "clip.pt")
    ours = open_teacher("open_clip", str(tmp_path / "clip.pt"), {"model": name + custom, "text": True})
    side = ours.spec.size
    images, texts = torch.randn(2, 3, side, side), ours.tokenize(["a cat", "a dog on a mat"])
    found = ours(images)
    assert found.patches is not None and found.patches.shape[1] == (side // ours.spec.patch) ** 2
    torch.testing.assert_close(ours.embed(found.summary), theirs.encode_image(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.embed_text(texts), theirs.encode_text(texts), rtol=1e-4, atol=1e-5)
    alone = open_teacher("open_clip", str(tmp_path / "clip.pt"), {"model": name + custom})
    torch.testing.assert_close(alone(images).summary, found.summary)


def test_a_tag_says_where_its_file_lies_and_how_its_pixels_are_normalised() -> None:
    plugin = find("open_clip")
    spec = plugin.spec(plugin.Options(model="ViT-B-16-SigLIP", pretrained="webli"))
    assert spec.weights is not None and spec.weights.url == "hf:timm/ViT-B-16-SigLIP/open_clip_model.safetensors"
    assert spec.mean == (0.5, 0.5, 0.5)
    assert plugin.spec(plugin.Options(model="ViT-B-16-SigLIP")).mean == (0.5, 0.5, 0.5)


def test_a_file_whose_tag_nobody_named_is_asked_about_where_tags_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = {"settings": {"width": 64, "layers": 2, "image_size": 32, "patch_size": 8}}
    for model, tag, asked in (("ViT-L-14", None, True), ("ViT-L-14", "openai", False), ("ViT-S-16", None, False)):
        options = tiny | {"model": model} | ({"pretrained": tag} if tag else {})
        state = open_teacher("open_clip", "random", options).module.state_dict()
        torch.save({name: t + 0.01 for name, t in state.items()}, tmp_path / "clip.pt")
        assert not caplog.text, "random weights are nobody's"
        open_teacher("open_clip", str(tmp_path / "clip.pt"), options)
        said = (
            "weights of 'ViT-L-14' are of 3 kinds, and nothing in a file says of which it is. Taken: mean 0.481, GELU."
        )
        assert (said in caplog.text and "mean 0.500, GELU: laion2b_s32b_b82k" in caplog.text) == asked
        caplog.clear()


def test_what_open_clip_does_not_have_is_refused_in_words() -> None:
    assert "open_clip has no model 'ViT-B-17'. Did you mean" in refusal(model="ViT-B-17")
    assert "open_clip has no weights 'webly' of 'ViT-B-16-SigLIP'. Did you mean 'webli'?" in refusal(
        model="ViT-B-16-SigLIP", pretrained="webly"
    )
    assert "is of transformers (roberta-base), and not built here" in refusal(model="roberta-ViT-B-32", text=True)
    assert "open_clip cannot build 'ViT-B-32'" in refusal(model="ViT-B-32", settings={"no_such": 1})


def test_the_last_pixels_may_belong_to_no_cell() -> None:
    plugin = find("open_clip")
    spec = plugin.spec(plugin.Options(model="ViT-SO400M-14-SigLIP-384"))  # type: ignore[call-arg]
    assert (spec.size, spec.patch, spec.multiple, spec.fixed_size) == (384, 14, 384, True)
