"""A student in its users' hands: what it takes, when it trains, how it is kept."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from tests.kit import places
from unicscale import Features, load
from unicscale.errors import CheckpointError, DataError, RecipeError, TeacherError
from unicscale.interop.model import Model

OFFICIAL = places.GOLDEN / "unic_official_tiny.pth"


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8))


def test_a_frozen_model_says_so_instead_of_learning_nothing() -> None:
    model = load(OFFICIAL)
    for thaw in (model.train, lambda: model.requires_grad_(True), lambda: nn.Sequential(model).train()):
        with pytest.raises(RecipeError, match=r"this model is frozen: .*\n  `unicscale\.load\(PATH, trainable=True\)`"):
            thaw()
    nn.Sequential(model).requires_grad_(True)  # asks parameters, not modules
    with pytest.raises(RecipeError, match="this model is frozen"):
        model(torch.zeros(1, 3, 56, 56))
    model.requires_grad_(False).train(False)
    assert not model(torch.zeros(1, 3, 56, 56)).summary.requires_grad


def test_a_model_that_was_loaded_to_train_trains_every_parameter_and_drops_by_torchs_generator() -> None:
    model = load(OFFICIAL, trainable=True)
    assert isinstance(model, Model) and not model.training
    model.student.trunk.drop_path_step = 0.2  # the file says nothing of it
    model = Model(model_opened(model), projectors=False, trainable=True).train()
    images = torch.randn(4, 3, 56, 56)
    torch.manual_seed(0)
    first = model(images).summary
    torch.manual_seed(0)
    assert torch.equal(model(images).summary, first)
    assert not torch.equal(model(images).summary, first), "the next draw drops other paths"
    first.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        assert not model(images).summary.requires_grad
    torch.testing.assert_close(model.eval()(images), load(OFFICIAL)(images))


def model_opened(model: Model):
    from unicscale.interop.opened import Opened

    return Opened(model.student, model.size, {}, model.description)


def test_a_teacher_does_not_train() -> None:
    with pytest.raises(RecipeError, match="teacher:scenes: a teacher is frozen"):
        load("teacher:scenes", trainable=True)


def test_a_picture_a_path_a_tensor_and_a_batch_are_understood(tmp_path: Path, picture: Image.Image) -> None:
    model, file = load(OFFICIAL), tmp_path / "one.png"
    picture.save(file)
    pixels = model.transform(picture)
    wanted = model(pixels[None])
    assert wanted.summary.shape == (1, 128)
    for said in (picture, file, str(file), pixels):
        torch.testing.assert_close(model(said), wanted)
    several = model([picture, file, pixels])
    torch.testing.assert_close(several.summary, wanted.summary.expand(3, -1), rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match=r"this is \(90, 70\)"):
        model(torch.zeros(90, 70))
    file.write_text("no picture")
    with pytest.raises(DataError, match=r"one\.png: not an image"):
        model(file)


def test_an_array_is_a_picture_and_other_things_are_named(picture: Image.Image) -> None:
    model = load(OFFICIAL)
    torch.testing.assert_close(model(np.asarray(picture)), model(picture))
    for strange, said in (
        (np.zeros((3, 56, 56), np.float32), r"an array is one picture, .* this is \(3, 56, 56\) of float32"),
        (np.zeros((90, 70, 4), np.uint8), "it has 4 channels; this model sees 3"),
        (
            {"pixel_values": 1},
            "images are tensors, PIL images, arrays, paths or a list of them; this is <class 'dict'>",
        ),
    ):
        with pytest.raises(DataError, match=said):
            model(strange)  # pyright: ignore[reportArgumentType]


def test_a_photograph_is_turned_as_its_exif_says_by_whichever_way_it_comes(
    tmp_path: Path, picture: Image.Image
) -> None:
    model, exif = load(OFFICIAL), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "phone.png", exif=exif)
    torch.testing.assert_close(model(Image.open(tmp_path / "phone.png")), model(tmp_path / "phone.png"))
    assert not torch.equal(model(picture).summary, model(tmp_path / "phone.png").summary)


def test_floats_that_nobody_normalised_are_not_taken_for_others(picture: Image.Image) -> None:
    pixels = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8)
    tiny = {"size": {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 56}}

    def fresh() -> tuple[Any, Any]:
        return load(OFFICIAL), load("teacher:dino", weights="random", options=tiny)

    for many in (pixels.float(), [*pixels.float()]):
        for model in fresh()[: 2 if isinstance(many, torch.Tensor) else 1]:
            with pytest.raises(
                DataError, match=r"floats up to 255: .*white is 2\.64\.\n .*model\(images\.to\(torch\.uint8\)\)"
            ):
                model(many)
    for model in fresh():
        with pytest.warns(UserWarning, match="floats between 0 and 1 are taken as normalised") as told:
            model(pixels / 255)
        assert told[0].filename == __file__
    model, teacher = fresh()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(model.transform(picture)), model(torch.zeros(1, 3, 56, 56)), fresh()[0](pixels)
        teacher(pixels), teacher(model.transform(picture)[None])
    assert model.looked and teacher.looked


def test_the_transform_is_torchvisions_resize_centre_crop_and_normalise(picture: Image.Image) -> None:
    model = load(OFFICIAL)
    assert (model.mean, model.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    steps = [
        v2.Resize(64, v2.InterpolationMode.BICUBIC),
        v2.CenterCrop(56),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(model.mean, model.std),
    ]
    theirs = v2.Compose(steps)
    torch.testing.assert_close(model.transform(picture), theirs(picture), rtol=1e-5, atol=1e-5)


def test_a_frozen_model_whose_student_is_told_to_train_says_so() -> None:
    model = load(OFFICIAL)
    model.student.train()
    with pytest.raises(RecipeError, match="this model is frozen: nothing in it would learn"):
        model(torch.zeros(1, 3, 56, 56))


def test_a_teacher_that_is_shown_a_path_says_what_it_takes() -> None:
    with pytest.raises(TeacherError, match=r"teacher 'scenes' is shown tensors, .*; this is a PosixPath\."):
        load("teacher:scenes", options={"knows": "classes"})(Path("a.jpg"))
    with pytest.raises(TeacherError, match="`unicscale teachers fetch timm model=vit_tiny_patch16_224`"):
        load("timm:vit_tiny_patch16_224")


@pytest.mark.parametrize("projectors", [False, True])
def test_what_save_writes_load_reads_and_copies_are_the_same(tmp_path: Path, projectors: bool) -> None:
    model = load(OFFICIAL, projectors=projectors)
    images = torch.randn(2, 3, 56, 56)
    model.save(tmp_path / "kept.safetensors")
    kept = load(tmp_path / "kept.safetensors", projectors=projectors)
    for other in (kept, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(images), model(images))
    if projectors:
        answer = model(images).answers["dino_vitbase_16"]
        wanted = model.unstandardise("dino_vitbase_16", answer)
        torch.testing.assert_close(kept.unstandardise("dino_vitbase_16", answer), wanted)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.safetensors"]
    with pytest.raises(CheckpointError, match=r"nowhere.kept\.safetensors cannot be written: No such file"):
        model.save(tmp_path / "nowhere" / "kept.safetensors")


def test_a_copy_settles_its_own_statistics_and_not_those_of_the_original() -> None:
    from unicscale.objective.standardize import Standardizer

    original = Standardizer(2)
    clone = copy.deepcopy(original)
    settled = []
    original._arriving = lambda: settled.append("original")
    clone.state_dict()
    assert not settled


def test_timm_ids_and_adapters_of_a_file_open_as_evaluate_opens_them(tmp_path: Path) -> None:
    settings = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 32, "patch_size": 8}
    said = {"weights": "random", "settings": settings}
    assert isinstance(load("timm:vit_tiny_patch16_224", options=said)(torch.zeros(1, 3, 32, 32)), Features)
    source = tmp_path / "mine.py"
    source.write_text("from unicscale_teachers.timm_models import Timm\n\n\nclass Mine(Timm):\n    licence = 'mine'\n")
    tokens = load(f"{source}:Mine", options=said | {"model": "vit_tiny_patch16_224"})(torch.zeros(1, 3, 32, 32))
    assert tokens.patches.shape == (1, 16, 32)
