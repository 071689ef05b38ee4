"""timm's and open_clip's own models, given the same weights, give the same tokens at their native size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn

from unicscale.errors import RecipeError, TeacherError
from unicscale.teacher.finding import find
from unicscale.teacher.frozen import open_teacher

NUMBERS = {"embed_dim": 48, "depth": 2, "num_heads": 2}
TEXT = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 2}
TIMM = {
    # plug-in, timm's model, patch, native pixels, what else the shape says
    "dino": ("dino", "vit_base_patch16_224", 16, 64, {}),
    "deit3": ("deit3", "deit3_base_patch16_224", 16, 64, {"num_classes": 10}),
    "dinov2": ("dinov2", "vit_base_patch14_dinov2", 14, 70, {}),
    "dinov2 giant": ("dinov2", "vit_giant_patch14_dinov2", 14, 70, {"ffn": "swiglu"}),
    "dinov2 registers": ("dinov2", "vit_base_patch14_reg4_dinov2", 14, 70, {"reg_tokens": 4}),
    "dinov2 giant registers": ("dinov2", "vit_giant_patch14_reg4_dinov2", 14, 70, {"reg_tokens": 4, "ffn": "swiglu"}),
}


def trained(module: nn.Module) -> nn.Module:
    """Weights that no norm, bias or layer scale can hide behind."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return module.eval()


def saved(state: dict[str, Tensor], folder: Path) -> str:
    torch.save(state, folder / "weights.pth")
    return str(folder / "weights.pth")


@pytest.mark.parametrize("case", TIMM)
@torch.no_grad()
def test_a_family_gives_the_tokens_of_timms_own_model(case: str, tmp_path: Path) -> None:
    plugin, name, patch, side, more = TIMM[case]
    theirs = trained(timm.create_model(name, img_size=side, num_classes=more.get("num_classes", 0), **NUMBERS))
    size = {**NUMBERS, "patch_size": patch, "img_size": side, **more}
    ours = open_teacher(plugin, saved(theirs.state_dict(), tmp_path), {"size": size})
    images = torch.randn(2, 3, side, side)
    expected, found = theirs.forward_features(images), ours(images)
    torch.testing.assert_close(found.summary, expected[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.patches, expected[:, theirs.num_prefix_tokens :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("plugin", "quick_gelu"), [("metaclip", True), ("clip", True), ("clip", False)])
@torch.no_grad()
def test_a_clip_gives_the_embeddings_of_open_clips_own_model(plugin: str, quick_gelu: bool, tmp_path: Path) -> None:
    vision = {"image_size": 24, "layers": 2, "width": 48, "head_width": 24, "patch_size": 6}
    theirs = trained(open_clip.CLIP(40, vision, TEXT, quick_gelu=quick_gelu))  # type: ignore[arg-type]
    size = {**NUMBERS, "patch_size": 6, "img_size": 24, "clip_embed_dim": 40, "text": TEXT}
    options: dict[str, Any] = {"size": size, "text": True}
    if plugin == "clip":
        options["activation"] = "quick_gelu" if quick_gelu else "gelu"
    ours = open_teacher(plugin, saved(theirs.state_dict(), tmp_path), options)
    images, texts = torch.randn(2, 3, 24, 24), torch.randint(1, 99, (3, 16))
    torch.testing.assert_close(ours.embed(ours(images).summary), theirs.encode_image(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.embed_text(texts), theirs.encode_text(texts), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_open_clip_interpolates_positions_as_this_clip_does(tmp_path: Path) -> None:
    def build(side: int) -> open_clip.CLIP:
        vision = {"image_size": side, "layers": 1, "width": 48, "head_width": 24, "patch_size": 6}
        return open_clip.CLIP(40, vision, TEXT, quick_gelu=True)  # type: ignore[arg-type]

    state = trained(build(24)).state_dict()
    file, size = saved(dict(state), tmp_path), {**NUMBERS, "depth": 1, "patch_size": 6, "img_size": 24}
    larger = build(36).eval()
    open_clip.factory.resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    ours = open_teacher("metaclip", file, {"size": {**size, "clip_embed_dim": 40, "text": TEXT}})
    images = torch.randn(2, 3, 36, 36)
    torch.testing.assert_close(ours.embed(ours(images).summary), larger.encode_image(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dinov3", "siglip2"])
@torch.no_grad()
def test_timm_families_accept_timms_files(name: str, tmp_path: Path) -> None:
    model = {"dinov3": "vit_small_patch16_dinov3", "siglip2": "vit_base_patch16_siglip_224"}[name]
    settings = {**NUMBERS, "embed_dim": 64, "img_size": 64}
    theirs = trained(timm.create_model(model, num_classes=0, **settings))
    size = {"dinov3": "small", "siglip2": "base"}[name]
    ours = open_teacher(name, saved(theirs.state_dict(), tmp_path), {"size": size, "settings": settings})
    images = torch.randn(2, 3, 64, 64)
    expected = theirs.forward_features(images)
    torch.testing.assert_close(ours(images).patches, expected[:, theirs.num_prefix_tokens :], rtol=1e-5, atol=1e-5)
    if not theirs.num_prefix_tokens:
        torch.testing.assert_close(ours(images).summary, theirs(images), rtol=1e-5, atol=1e-5)


def test_texts_are_tokenized_to_the_length_of_the_text_tower() -> None:
    size = {**NUMBERS, "patch_size": 6, "img_size": 24, "clip_embed_dim": 40, "text": TEXT | {"vocab_size": 49408}}
    teacher = open_teacher("metaclip", "random", {"size": size, "text": True})
    tokens = teacher.tokenize(["a photo of a cat", "a dog"])
    assert tokens.shape == (2, 16)
    assert teacher.embed_text(tokens).shape == (2, 40)
    without = open_teacher("metaclip", "random", {"size": size})
    with pytest.raises(TeacherError, match="the text tower was not loaded"):
        without.embed_text(tokens)


def test_the_wrong_activation_is_an_error_and_not_a_warning() -> None:
    with pytest.raises(RecipeError, match="'openai-b16' was trained with quick_gelu; with gelu its tokens are wrong"):
        open_teacher("clip", "random", {"size": "openai-b16", "activation": "gelu"})


def test_dimensions_stated_by_hand_are_those_of_timms_models() -> None:
    from unicscale.teacher.finding import find

    for name in ("dinov3", "siglip2"):
        plugin = find(name)
        for size in plugin.files:
            spec = plugin.spec(plugin.Options(size=size))
            with torch.device("meta"):
                module = timm.create_model(plugin.files[size].removeprefix("timm:").partition(".")[0], num_classes=0)
            config = timm.get_pretrained_cfg(plugin.files[size].removeprefix("timm:"))
            step = max(info["reduction"] for info in module.feature_info)
            assert (spec.dim, spec.patch) == (module.num_features, step)
            assert (spec.size, spec.mean, spec.std) == (config.input_size[1], config.mean, config.std)


@pytest.mark.parametrize("plugin", ["metaclip", "clip"])
def test_a_compiled_clip_block_has_no_batched_products_but_those_of_attention(plugin: str) -> None:
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    seen: list[str] = []

    def look(graph: Any, inputs: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    block = open_teacher(plugin, "random", find(plugin).small).module.visual.transformer.resblocks[0]
    backend = aot_autograd(fw_compiler=look, decompositions=select_decomp_table())
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    x = torch.randn(2, 17, len(block.ln_1.weight))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), block(x))
    assert "aten.mm.default" in seen or "aten.addmm.default" in seen
    assert not [name for name in seen if "bmm" in name]
