"""What evaluation reads: each image once, whatever the world, as torchvision's Resize and CenterCrop would cut it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.kit.pictures import READERS, beton, picture, tree
from unicscale.data.once import open_eval, whole
from unicscale.errors import DataError


@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (61, 250), (32, 32), (20, 17)])
def test_the_centre_is_torchvisions(shape):
    image = picture(1, *shape)
    size = 32
    theirs = v2.Compose([v2.Resize(round(size * 256 / 224), v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)])
    assert np.array_equal(whole(image, size, crop=True), np.asarray(theirs(Image.fromarray(image))))


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("reader", READERS)
def test_every_image_comes_once_with_its_label(tmp_path, world, reader):
    path = str(tree(tmp_path / "tree", 22))
    if reader != "folder":
        path = beton(tmp_path, tmp_path / "tree")
    seen, labels = [], []
    for rank in range(world):
        for images, label, index in open_eval(path, size=32, rank=rank, world=world, batch=4, reader=reader):
            assert images.dtype == torch.uint8 and images.shape[1:] == (3, 32, 32)
            seen += index.tolist()
            labels += label.tolist()
    assert seen == list(range(22))
    assert labels == [0] * 8 + [1] * 7 + [2] * 7


def test_a_set_without_labels_says_minus_one(tmp_path):
    tree(tmp_path / "tree", 3, classes=1)
    _, labels, _ = next(iter(open_eval(str(tmp_path / "tree" / "class0"), size=16)))
    assert labels.tolist() == [-1, -1, -1]


def test_evaluation_replaces_no_image(tmp_path):
    tree(tmp_path / "tree", 6)
    (tmp_path / "tree" / "class1" / "0001.jpg").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"image 2 \(.*class1/0001.jpg\): not an image\n  Evaluation replaces no image"):
        list(open_eval(str(tmp_path / "tree"), size=16))
