"""Students that are no plain ViTs: timm's own numbers behind one face, and what is refused."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn

from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.student.model import Student, build_student, in_memory
from unicscale.student.trunk import build_trunk
from unicscale.student.trunk.batch_norm import refuse_lone_images
from unicscale.student.trunk.grids import onto, tokens_of

TINY = {
    "convolutions": ({"arch": "convnext_atto", "options": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 24]}}, 64),
    "batch norms": ({"arch": "test_efficientnet"}, 64),
    "more behind the last stage": ({"arch": "fastvit_t8", "options": {"layers": [1, 1, 1, 1]}}, 64),
    "windows": ({"arch": "swin_tiny_patch4_window7_224", "options": {"embed_dim": 24, "depths": [1, 1, 1, 1]}}, 64),
    "tables where parameters lie": (
        {"arch": "swinv2_tiny_window8_256", "options": {"embed_dim": 24, "depths": [1, 1, 1, 1]}},
        64,
    ),
    "a CLS behind convolutions": ({"arch": "vit_tiny_r_s16_p8_224", "options": {"embed_dim": 24, "depth": 2}}, 64),
    "a table": ({"arch": "hiera_tiny_224", "options": {"embed_dim": 24, "stages": [1, 1, 1, 1]}}, 64),
    "no CLS": ({"arch": "vit_base_patch16_siglip_gap_224", "options": {"embed_dim": 24, "depth": 2}}, 64),
    "a CLS": ({"arch": "beit_base_patch16_224", "options": {"embed_dim": 24, "depth": 2}}, 64),
    "angles": ({"arch": "vit_tiny_patch16_dinov3_qkvb", "options": {"embed_dim": 24, "depth": 2, "num_heads": 2}}, 64),
    "angles and a table": ({"arch": "eva02_tiny_patch14_224", "options": {"embed_dim": 24, "depth": 2}}, 56),
}


def filled(section: dict, size: int, seed: int = 3, **more: object) -> Student:
    student = build_student(sections.Student.model_validate(section | more), sections.Ladder(hidden=4), {"a": 6}, size)
    in_memory(student, "cpu")
    first = student.initial_values(seed)
    held = dict(student.named_parameters())
    held |= {n: b for n, b in student.named_buffers() if n.endswith(("running_mean", "running_var"))}
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.copy_(first(name, tuple(tensor.shape)))
    return student


@pytest.mark.parametrize("kind", TINY)
def test_every_stage_gives_its_tokens_on_one_grid_and_every_trained_parameter_learns(kind: str) -> None:
    section, size = TINY[kind]
    student = filled(section, size, drop_path=0.5).train()
    trunk, images = student.trunk, torch.randn(2, 3, size, size)
    student.set_draws((1, 2), torch.arange(2))
    blocks, features = trunk(images)
    cells = (size // trunk.patch) ** 2
    assert [tuple(block.shape) for block in blocks] == [(2, trunk.prefix + cells, width) for width in trunk.widths]
    assert features.summary.shape == (2, trunk.width) and features.patches.shape == (2, cells, trunk.width)
    answer = student(images).answers["a"]
    (answer.summary.sum() + answer.patches.sum()).backward()
    assert {n for n, p in student.named_parameters() if p.requires_grad} == {
        n for n, p in student.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("kind", [kind for kind in TINY if "CLS" not in kind and "angles" not in kind])
def test_weights_have_timms_names_and_features_are_timms(kind: str) -> None:
    section, size = TINY[kind]
    student = filled(section, size).eval()
    wanted = student.trunk.wish.create().eval()  # type: ignore[union-attr]
    found = wanted.load_state_dict(dict(student.trunk.state_dict()), strict=False)
    assert not found.unexpected_keys and not [name for name in found.missing_keys if "num_batches" not in name]
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features, final = student(images).features, wanted.forward_features(images)
        summary = wanted.forward_head(final, pre_logits=True)
        _, stages = wanted.forward_intermediates(images)
        blocks, _ = student.trunk(images)
    torch.testing.assert_close(features.summary, summary)
    for block, stage in zip(blocks[:-1], stages[:-1], strict=True):
        torch.testing.assert_close(block, tokens_of(stage, student.trunk.grid))


def test_a_vit_that_turns_gives_timms_tokens() -> None:
    section, size = TINY["angles"]
    student = filled(section, size).eval()
    wanted = timm.create_model(section["arch"], num_classes=0, img_size=size, **section["options"]).eval()
    wanted.load_state_dict(dict(student.trunk.state_dict()))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        tokens, features = wanted.forward_features(images), student(images).features
    torch.testing.assert_close(features.summary, tokens[:, 0])
    torch.testing.assert_close(features.patches, tokens[:, 5:])
    assert not student.trunk.tables, "nothing to resize between stages"
    assert student(torch.randn(1, 3, 96, 96)).features.patches.shape[1] == 36


def test_initial_values_are_timms_and_belong_to_the_seed() -> None:
    one, same, other = (filled(*TINY["convolutions"], seed=seed) for seed in (3, 3, 4))  # type: ignore[arg-type]
    name = "trunk.stages.0.blocks.0.mlp.fc1.weight"
    assert torch.equal(one.get_parameter(name), same.get_parameter(name))
    assert not torch.equal(one.get_parameter(name), other.get_parameter(name))
    assert torch.equal(one.get_parameter("trunk.stages.0.blocks.0.gamma"), torch.full((8,), 1e-6))


@pytest.mark.parametrize("kind", ["convolutions", "windows", "a table", "no CLS", "angles and a table"])
def test_another_size_keeps_the_parameters_and_resizes_tables(kind: str) -> None:
    section, size = TINY[kind]
    student = filled(section, size).eval()
    held = {name: (parameter, parameter.shape) for name, parameter in student.named_parameters()}
    student.resize_positions(2 * size)
    assert (
        student(torch.randn(1, 3, 2 * size, 2 * size)).features.patches.shape[1]
        == (2 * size // student.trunk.patch) ** 2
    )
    changed = {name for name, p in student.named_parameters() if p.shape != held[name][1]}
    assert changed <= {f"trunk.{name}" for name in student.trunk.tables}
    assert all(p is held[name][0] for name, p in student.named_parameters())


def test_dropped_paths_of_convolutions_belong_to_the_sample() -> None:
    student = filled(*TINY["convolutions"], drop_path=0.5).train()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(1.0)
    images, index = torch.randn(6, 3, 64, 64), torch.tensor([7, 900, 3, 3, 12, 5])
    student.set_draws((1, 40), index)
    together = student(images).features.summary
    for part in (slice(0, 2), slice(2, 6)):
        student.set_draws((1, 40), index[part])
        torch.testing.assert_close(student(images[part]).features.summary, together[part])
    student.set_draws((1, 41), index)
    assert not torch.allclose(student(images).features.summary, together)


def test_maps_come_onto_a_grid_by_area_and_by_interpolation() -> None:
    maps = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(onto(maps, (4, 4)), nn.functional.avg_pool2d(maps, 3))
    torch.testing.assert_close(onto(maps, (17, 17)), nn.functional.interpolate(maps, (17, 17), mode="bilinear"))
    assert onto(maps, (12, 12)) is maps
    uneven = onto(maps, (5, 5))
    torch.testing.assert_close(uneven.mean((2, 3)), maps.mean((2, 3)))  # no pixel counts more than another


def test_the_grid_of_a_convolutional_student_is_its_patch() -> None:
    section, size = TINY["convolutions"]
    student = filled(section, size, patch=16).eval()
    assert student.trunk.patch == 16 and student(torch.randn(1, 3, size, size)).answers["a"].patches.shape[1] == 16


@pytest.mark.parametrize(
    ("section", "size", "text"),
    [
        (
            {"arch": "vit_tiny", "options": {"in_chans": 4}},
            64,
            "student.options.in_chans: 4, and images have 3: data.channels says which.",
        ),
        ({"arch": "convnext_atto", "stem": "convolutions"}, 64, "student.stem 'convolutions' is for plain ViTs"),
        ({"arch": "convnext_atto"}, 80, "size 80 is not a multiple of the patch, 32. The nearest sizes are 64 or 96"),
        (
            {"arch": "swin_tiny_patch4_window7_224"},
            62,
            "'swin_tiny_patch4_window7_224' cannot learn at 62 pixels|62 is",
        ),
        ({"arch": "gemma4_vit_167m"}, 224, "'gemma4_vit_167m' cannot learn at 224 pixels: "),
        ({"arch": "convnext_ato"}, 64, "'convnext_ato' is neither .* Did you mean 'convnext_atto'?"),
        ({"arch": "convnext_atto", "options": {"depth": 4}}, 64, "student: timm cannot build 'convnext_atto' .*depth"),
        ({"arch": "vit_small", "options": {"proj_drop_rate": 0.1}}, 32, "student.options.proj_drop_rate: 0.1 is drawn"),
        (
            {"arch": "beit_base_patch16_224", "patch": 14},
            112,
            "student.patch: 'beit_base_patch16_224' gives tokens of 16",
        ),
    ],
)
def test_what_cannot_learn_is_refused_in_words(section: dict, size: int, text: str) -> None:
    with pytest.raises(RecipeError, match=re.compile(text, re.DOTALL)):
        build_trunk(sections.Student.model_validate(section), size)


def test_sizes_that_a_table_cannot_follow_are_refused_before_the_run() -> None:
    mixer = {"arch": "gmixer_12_224"}
    trunk = build_trunk(sections.Student.model_validate(mixer), 64)
    with pytest.raises(RecipeError, match=r"blocks\.0\.mlp_tokens\.fc1\.weight is .* Give all stages one size"):
        trunk.check_stages([[64], [96]])


def test_one_image_has_no_statistics() -> None:
    trunk = build_trunk(sections.Student.model_validate(TINY["batch norms"][0]), 64)
    refuse_lone_images(trunk, 2)
    with pytest.raises(RecipeError, match="a micro-batch of one image has no statistics"):
        refuse_lone_images(trunk, 1)
