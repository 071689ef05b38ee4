"""The data sets of this paper and of others: where they are looked for, what they look like, how to get them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unicscale.errors import DataError, nearest
from unicscale.evaluate.sets import layouts, own


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set."""

    folder: str  # below --data
    read: Callable[[Path, str], Any]
    tree: tuple[str, ...]  # what must be there, and is shown when it is not
    how: str  # where it comes from
    title: str = ""
    also: tuple[str, ...] = ()  # other folders it may be in
    test_only: bool = False

    def root(self, data: Path) -> Path:
        """Its folder, which need not exist."""
        for name in (self.folder, *self.also):
            if all(_there(data / name, item) for item in self.tree):
                return data / name
        return data / self.folder

    def missing(self, data: Path) -> list[str]:
        """What its layout lacks."""
        root = self.root(data)
        return [item for item in self.tree if not _there(root, item)]


def _there(root: Path, item: str) -> bool:
    return any((root / one.strip().rstrip("/")).exists() for one in item.split(" or "))


OWN: dict[str, Callable[[Path, str], Any]] = {
    "own-labelled": own.labelled,
    "own-masks": partial(own.dense, "masks"),
    "own-depth": partial(own.dense, "depth"),
}
PYTHON = "python -c \"from torchvision.datasets import {0}; {0}('{1}', download=True)\""
COG_TREE = ("cog_levels_mapping_file.pkl", "cog_concepts_split_file.pkl", "images/")
COG_HOW = (
    "the two list files: github.com/naver/cog; images/ is the Winter 2021 release of ImageNet, a folder per synset"
)


def _ready(name: str, folder: str) -> str:
    return PYTHON.format(name, f"DIR/{folder}")


SETS: dict[str, DataSet] = {
    "imagenet": DataSet(
        "imagenet",
        layouts.imagenet,
        ("train/ or train.beton", "val/ or val.beton or test/ or test.beton"),
        "image-net.org/download-images.php (ILSVRC2012), a folder per class in train/ and val/;\n"
        "  images of your own, however they are split: --suite own",
        "ImageNet",
        also=("ILSVRC2012", "."),
    ),
    "imagenet_v2": DataSet(
        "imagenetv2-matched-frequency-format-val",
        layouts.shifted(numbered=True),
        ("0/",),
        "huggingface.co/datasets/vaishaal/ImageNetV2, imagenetv2-matched-frequency.tar.gz",
        "ImageNet-v2",
        also=("imagenetv2",),
        test_only=True,
    ),
    "imagenet_r": DataSet(
        "imagenet-r",
        layouts.shifted("n*"),
        (".",),
        "github.com/hendrycks/imagenet-r, imagenet-r.tar",
        "ImageNet-R",
        test_only=True,
    ),
    "imagenet_sketch": DataSet(
        "sketch",
        layouts.shifted("n*"),
        (".",),
        "github.com/HaohanWang/ImageNet-Sketch",
        "ImageNet-Sketch",
        also=("imagenet-sketch",),
        test_only=True,
    ),
    **{
        f"cog_l{level}": DataSet("cog", layouts.cog(level), COG_TREE, COG_HOW, f"CoG L{level}") for level in range(1, 6)
    },
    "aircraft": DataSet(
        "aircraft",
        layouts.torchvision(layouts.aircraft),
        ("fgvc-aircraft-2013b/data/images/", "fgvc-aircraft-2013b/data/variants.txt"),
        _ready("FGVCAircraft", "aircraft"),
        "Aircraft",
        also=(".",),
    ),
    "cars196": DataSet(
        "cars196",
        layouts.torchvision(layouts.cars),
        ("stanford_cars/devkit/", "stanford_cars/cars_train/", "stanford_cars/cars_test/"),
        "kaggle.com/datasets/jessicali9530/stanford-cars-dataset, with cars_test_annos_withlabels.mat",
        "Cars196",
        also=(".",),
    ),
    "dtd": DataSet("dtd", layouts.torchvision(layouts.dtd), ("dtd/dtd/images/",), _ready("DTD", "dtd"), "DTD", (".",)),
    "eurosat": DataSet("eurosat", layouts.eurosat, ("eurosat/2750/",), _ready("EuroSAT", "eurosat"), "EuroSAT", (".",)),
    "flowers": DataSet(
        "flowers",
        layouts.flowers,
        ("flowers-102/jpg/", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        _ready("Flowers102", "flowers"),
        "Flowers",
        also=(".",),
    ),
    "pets": DataSet(
        "pets",
        layouts.torchvision(layouts.pets),
        ("oxford-iiit-pet/images/", "oxford-iiit-pet/annotations/"),
        _ready("OxfordIIITPet", "pets"),
        "Pets",
        also=(".",),
    ),
    "food101": DataSet(
        "food101",
        layouts.torchvision(layouts.food),
        ("food-101/images/", "food-101/meta/train.json", "food-101/meta/test.json"),
        _ready("Food101", "food101"),
        "Food101",
        also=(".",),
    ),
    "sun397": DataSet(
        "SUN397",
        layouts.sun397,
        ("ClassName.txt", "Training_01.txt", "Testing_01.txt"),
        "vision.princeton.edu/projects/2010/SUN: SUN397.tar.gz and Partitions.zip, unpacked into one folder",
        "SUN397",
    ),
    **{
        f"inat{year}": DataSet(
            f"inat{year}",
            layouts.inat(year),
            (f"train{year}.json", f"val{year}.json", f"train_val{year}/"),
            f"github.com/visipedia/inat_comp/tree/master/{year}",
            f"iNat {year}",
        )
        for year in (2018, 2019)
    },
    "ade20k": DataSet(
        "ADEChallengeData2016",
        layouts.ade20k,
        ("images/training/", "images/validation/", "annotations/training/", "annotations/validation/"),
        "data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        "ADE20K",
        also=("ade20k",),
    ),
    "nyud": DataSet(
        "nyu",
        layouts.nyud,
        ("nyu_train.txt", "nyu_test.txt"),
        "the NYU Depth v2 folder of github.com/zhyever/Monocular-Depth-Estimation-Toolbox",
        "NYUd",
        also=("nyud",),
    ),
    "voc": DataSet(
        "VOCdevkit/VOC2012",
        layouts.voc,
        ("JPEGImages/", "SegmentationClass/", "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"),
        "host.robots.ox.ac.uk/pascal/VOC/voc2012, VOCtrainval_11-May-2012.tar; for the 10,582 training images of\n"
        "  papers also SegmentationClassAug/ and ImageSets/Segmentation/trainaug.txt (SBD's masks)",
        "VOC2012",
        also=("VOC2012", "voc"),
    ),
    "spair": DataSet(
        "SPair-71k",
        layouts.spair,
        ("JPEGImages/", "PairAnnotation/test/", "Layout/large/test.txt"),
        "cvlab.postech.ac.kr/research/SPair-71k, SPair-71k.tar.gz",
        "SPair-71k",
        also=("spair",),
        test_only=True,
    ),
}


def find(name: str) -> DataSet:
    """A data set by the name that tasks use; `own-masks:FOLDER` and the like are a user's."""
    kind, colon, folder = name.partition(":")
    if colon and kind in OWN:
        return DataSet(folder, OWN[kind], (".",), "you: docs/evaluate.md has the layouts", f"your {folder}")
    if name not in SETS:
        raise DataError(f"'{name}' is no data set of the paper.{nearest(name, SETS)}\n  known: {', '.join(SETS)}")
    return SETS[name]


def there(data: Path, name: str) -> bool:
    """Whether a set is where it should be."""
    return not find(name).missing(data)


def open_split(data: Path, name: str, split: str) -> Any:
    """A split of a set; DataError shows the tree that was expected."""
    found = find(name)
    if found.missing(data):
        raise DataError(expected(data, name))
    try:
        return found.read(found.root(data), split)
    except DataError as problem:
        raise DataError(f"{problem}\n{expected(data, name)}") from None
    except Exception as problem:  # what is written in damaged lists, torchvision's readers do not expect
        reason = f"{type(problem).__name__}: {problem}"
        raise DataError(
            f"{found.title} in {found.root(data)} cannot be read: {reason}\n{expected(data, name)}"
        ) from None


def expected(data: Path, name: str) -> str:
    """Where a set should be, what it should look like, how to get it."""
    found = find(name)
    root = found.root(data)
    lacks = found.missing(data)
    lines = [f"{found.title}: {'expected' if lacks else 'the layout is'}", f"  {root}/"]
    lines += [f"    {item}{'   <- missing' if item in lacks else ''}" for item in found.tree]
    return "\n".join([*lines, f"  from {found.how}"])
