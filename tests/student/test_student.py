"""The student against the authors' numbers, and what it starts from and drops."""

from __future__ import annotations

import re

import pytest
import timm
import torch

from tests.kit.golden_method import assert_near, method
from unicscale.contracts import normalise
from unicscale.errors import RecipeError
from unicscale.objective.loss import distil
from unicscale.recipe import sections
from unicscale.recipe.plan import decays
from unicscale.student.model import Student, build_student, frozen, initial
from unicscale.student.trunk import build_trunk

TINY = {"embed_dim": 16, "depth": 3, "num_heads": 2}


def tiny(drop_path: float = 0.0, **section: object) -> Student:
    chosen = {"arch": "vit_tiny", "patch": 4, "drop_path": drop_path, "options": TINY} | section
    student = build_student(sections.Student.model_validate(chosen), sections.Ladder(), {"a": 8, "b": 12}, 16)
    student.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            parameter.copy_(student.initial(name, parameter.shape, 3))
    return student


@pytest.mark.parametrize("letter", ["a", "b"])
def test_features_and_answers_are_those_of_the_released_code(letter: str) -> None:
    golden = method(letter)
    student = golden.student().eval()
    with torch.no_grad():
        seen = student(golden.tensors["step0.image"])
        larger = student(golden.tensors["encoder.image_larger"]).features
    assert_near(seen.features.summary, golden.tensors["encoder.cls"])
    assert_near(seen.features.patches, golden.tensors["encoder.patch"])
    assert_near(larger.summary, golden.tensors["encoder.cls_larger"])
    assert_near(larger.patches, golden.tensors["encoder.patch_larger"])
    for step in range(len(golden.facts["steps"])):
        with torch.no_grad():
            answers = student(golden.tensors[f"step{step}.image"]).answers
        for name, wanted in golden.answers(step).items():
            assert_near(answers[name].summary, wanted.summary)
            assert_near(answers[name].patches, wanted.patches)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dropping", [0, 1])
@pytest.mark.parametrize("letter", ["a", "b"])
def test_every_gradient_is_that_of_the_released_code(letter: str, dropping: int, fused: bool) -> None:
    golden = method(letter)
    student = golden.student()
    student.projector.fused = fused
    answers = student(golden.tensors["step0.image"]).answers
    distil(answers, golden.targets(0), p=dropping).total.backward()
    wanted = golden.gradients(dropping)
    trained = {name: p.grad for name, p in student.named_parameters() if p.requires_grad}
    assert trained.keys() == {name for name in wanted if not frozen(name)}
    for name, gradient in trained.items():
        assert_near(gradient, wanted[name], 1e-4)


@pytest.mark.parametrize("letter", ["a", "b"])
def test_weight_decay_falls_on_the_same_parameters_as_in_the_released_code(letter: str) -> None:
    golden = method(letter)
    for group, decaying in (("weight_decay", True), ("no_weight_decay", False)):
        for name in golden.facts[group]:
            assert decays(name, golden.tensors[f"student.{name}"].shape) is decaying, name


def test_positions_resized_once_give_what_resizing_in_every_forward_gave() -> None:
    student = tiny().eval()
    images = torch.randn(2, 3, 24, 24)
    before = student(images).features
    held = student.trunk.pos_embed
    student.resize_positions(24)
    assert student.trunk.pos_embed is held and held.shape == (1, 1 + 36, 16)
    after = student(images).features
    torch.testing.assert_close(after, before)


def test_the_final_norm_is_frozen_and_everything_else_is_trained() -> None:
    student = tiny()
    fixed = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert fixed == {"trunk.norm.weight", "trunk.norm.bias"}
    distil(student(torch.randn(2, 3, 16, 16)).answers, tiny()(torch.randn(2, 3, 16, 16)).answers).total.backward()
    assert {name for name, p in student.named_parameters() if p.grad is None} == fixed


def test_initial_values_have_the_spread_that_the_method_asks_for() -> None:
    big = {name: initial(name, shape, 1) for name, shape in [
        ("trunk.blocks.0.attn.qkv.weight", (300, 100)), ("trunk.pos_embed", (1, 197, 100)),
        ("projector.rungs.0.heads.a.cls.fc1.weight", (300, 100)),
    ]}  # fmt: skip
    for name, value in big.items():
        assert abs(value.std() - 0.02) < 5e-4 and value.abs().max() <= 2, name
    convolution = initial("trunk.patch_embed.proj.weight", (64, 3, 14, 14), 1)
    bound = (3 * 14 * 14) ** -0.5
    assert convolution.abs().max() <= bound and abs(convolution.std() - bound / 3**0.5) < 1e-3
    bias = initial("trunk.patch_embed.proj.bias", (4096,), 1, patch=14)
    assert 0.99 * bound < bias.abs().max() <= bound
    assert 0 < initial("trunk.cls_token", (1, 1, 512), 1).abs().max() < 1e-5
    assert torch.equal(initial("trunk.blocks.0.norm1.weight", (8,), 1), torch.ones(8))
    assert torch.equal(initial("trunk.blocks.0.mlp.fc1.bias", (8,), 1), torch.zeros(8))
    assert torch.equal(initial("trunk.blocks.0.ls1.gamma", (2,), 1, layer_scale=1e-5), torch.full((2,), 1e-5))


def test_initial_values_depend_on_name_and_seed_only() -> None:
    name, shape = "trunk.blocks.0.mlp.fc1.weight", (8, 4)
    first = initial(name, shape, 5)
    torch.manual_seed(99)
    assert torch.equal(initial(name, shape, 5), first)
    assert not torch.equal(initial(name, shape, 6), first)
    assert not torch.equal(initial(name.replace("0", "1"), shape, 5), first)


def test_dropped_paths_belong_to_the_sample_not_to_its_place_in_the_batch() -> None:
    student = tiny(drop_path=0.5).train()
    images, index = torch.randn(6, 3, 16, 16), torch.tensor([7, 900, 3, 3, 12, 5])
    student.set_draws((1, 40), index)
    together = student(images).features.summary
    for part in (slice(0, 2), slice(2, 6)):
        student.set_draws((1, 40), index[part])
        torch.testing.assert_close(student(images[part]).features.summary, together[part])
    student.set_draws((1, 41), index)
    assert not torch.allclose(student(images).features.summary, together)


def test_paths_are_dropped_as_often_as_asked_and_the_rest_is_scaled_up() -> None:
    student = tiny(drop_path=0.4)
    student.set_draws((0, 0), torch.arange(20_000))
    for block, p in enumerate((0.0, 0.2, 0.4)):
        path = student.trunk.blocks[block].drop_path2
        if p == 0.0:
            assert torch.equal(path.factor, torch.ones(20_000))  # compiled it is multiplied with, eager it is not
            assert path(images := torch.ones(20_000, 1)) is images
            continue
        assert abs((path.factor == 0).double().mean() - p) < 4 * (p * (1 - p) / 20_000) ** 0.5
        assert abs(path.factor.double().mean() - 1) < 0.02
    student.eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(student(images).features.summary, student(images).features.summary)


def test_uint8_images_are_normalised_inside() -> None:
    student = tiny().eval()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normalise(images, mean, std), wanted)
    torch.testing.assert_close(student(images).features, student(wanted).features)


def test_layer_scale_of_a_timm_architecture_starts_as_timm_says() -> None:
    section = sections.Student(arch="vit_small_patch14_dinov2", options={"depth": 1})
    student = build_student(section, sections.Ladder(), {"a": 8}, 28)
    gamma = student.initial("trunk.blocks.0.ls1.gamma", (384,), 0)
    assert torch.equal(gamma, torch.full((384,), 1e-5))


# timm makes the second for sizes that change, and keeps a map between patches and positions
@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "test_vit"])
def test_a_timm_model_by_name_gives_timms_features_from_timms_weights(arch: str) -> None:
    model = timm.create_model(arch, num_classes=0, img_size=32).eval()
    trunk = build_trunk(sections.Student(arch=arch), 32).to_empty(device="cpu").eval()
    trunk.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        blocks, features = trunk(images)
        tokens = model.forward_features(images)
    torch.testing.assert_close(features.summary, tokens[:, 0])
    torch.testing.assert_close(features.patches, tokens[:, 1:])
    assert len(blocks) == len(model.blocks) and not torch.allclose(blocks[-1][:, 0], features.summary)


def test_registers_and_layer_scale_are_options_of_the_student() -> None:
    student = tiny(registers=4, layer_scale=1e-5).eval()
    seen = student(torch.randn(2, 3, 24, 24))
    assert student.trunk.prefix == 5 and student.trunk.reg_token.shape == (1, 4, 16)
    assert seen.features.patches.shape == (2, 36, 16) and seen.answers["b"].patches.shape == (2, 36, 12)
    assert torch.all(student.trunk.blocks[0].ls1.gamma == 1e-5)


def test_a_stem_of_convolutions_gives_the_same_grid_and_starts_as_torch_fills_convolutions() -> None:
    student = tiny(patch=8, stem="convolutions").eval()
    assert student(torch.randn(2, 3, 24, 24)).features.patches.shape == (2, 9, 16)
    weights = [p.detach() for p in student.trunk.patch_embed.parameters() if p.ndim == 4]
    assert [tuple(w.shape) for w in weights] == [(4, 3, 3, 3), (8, 4, 3, 3), (16, 8, 3, 3), (16, 16, 1, 1)]
    for weight in weights:
        bound = weight[0].numel() ** -0.5
        assert 0.7 * bound < weight.abs().max() <= bound and weight.std() == pytest.approx(bound / 3**0.5, rel=0.15)


@pytest.mark.parametrize(
    ("section", "size", "text"),
    [
        (
            {"arch": "vit_small", "patch": 14, "stem": "convolutions"},
            28,
            "cannot build .*patch 14 is not a power of two",
        ),
        ({"arch": "vit_bose"}, 32, "'vit_bose' is neither vit_tiny, .* Did you mean 'vit_base'?"),
        ({"arch": "resnet18", "registers": 4}, 32, "student.registers is for ViTs; 'resnet18'"),
        ({"arch": "vit_small", "patch": 14}, 225, "225 is not a multiple of the patch, 14. .* 224 or 238"),
        ({"arch": "vit_small", "options": {"width": 4}}, 32, "student: timm cannot build 'vit_small' .*width"),
        ({"arch": "vit_small", "options": {"num_heads": 7}}, 32, "student: timm cannot build 'vit_small'"),
    ],
)
def test_a_student_that_cannot_be_is_refused_by_its_key(section: dict, size: int, text: str) -> None:
    with pytest.raises(RecipeError, match=re.compile(text, re.DOTALL)):
        build_trunk(sections.Student.model_validate(section), size)


def test_images_that_the_patch_does_not_divide_are_refused_with_the_nearest_sizes() -> None:
    with pytest.raises(
        RecipeError, match=r"size 18 is not a multiple of the patch, 4\. The nearest sizes are 16 or 20"
    ):
        tiny()(torch.randn(1, 3, 16, 18))
