"""The official on-disk layouts, each read into lists of files and labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unicscale.errors import DataError
from unicscale.evaluate.sets import own
from unicscale.evaluate.sets.files import Files
from unicscale.evaluate.sets.lists import read_json, read_mat, read_pickle
from unicscale.evaluate.sets.pairs import Matches, Pairs, Points, mask, metres

# --- ImageNet and its relatives -------------------------------------------------------------------


def imagenet(root: Path, split: str) -> Any:
    """train/ and val/ (or test/) with a folder per class, or train.beton and val.beton."""
    return own.labelled(root, split)


def shifted(pattern: str = "*", *, numbered: bool = False) -> Callable[[Path, str], Files]:
    """A test-only set with ImageNet's classes: labels are places in ImageNet's own sorted list of wnids."""

    def read(root: Path, split: str) -> Files:
        folders = sorted(p for p in root.glob(pattern) if p.is_dir())
        place = {} if numbered else {wnid: n for n, wnid in enumerate(imagenet_classes(root.parent))}
        files, labels = [], []
        for folder in folders:
            if not numbered and folder.name not in place:
                raise DataError(
                    f"{folder}: '{folder.name}' is not among ImageNet's {len(place)} classes in {root.parent}"
                )
            label = int(folder.name) if numbered else place[folder.name]
            here = sorted(p for p in folder.iterdir() if p.is_file())
            files += here
            labels += [label] * len(here)
        return Files(root, files, labels)

    return read


def imagenet_classes(data: Path) -> list[str]:
    """The wnids of ImageNet in order: the folder names of a split, or what `unicscale pack` noted beside a beton."""
    root = next((data / name for name in ("imagenet", "ILSVRC2012") if (data / name).is_dir()), data)
    for split in ("val", "train"):
        if (root / split).is_dir():
            return sorted(p.name for p in (root / split).iterdir() if p.is_dir())
        note = root / f"{split}.beton.json"
        if note.is_file() and (classes := read_json(note).get("classes")):
            return list(classes)
    listed = root / "classes.txt"
    if listed.is_file():
        return listed.read_text().split()
    raise DataError(
        f"{root}: ImageNet's class names are needed to number the classes of its relatives.\n"
        f"  Beside betons that `unicscale pack` did not make, list the 1000 wnids in order, one per line, in {listed}."
    )


def cog(level: int) -> Callable[[Path, str], Files]:
    """A level of CoG by its two official list files (pickles that may hold nothing but lists, texts and arrays)."""

    def read(root: Path, split: str) -> Files:
        concepts = sorted(read_pickle(root / "cog_levels_mapping_file.pkl")[level - 1])
        lists = read_pickle(root / "cog_concepts_split_file.pkl")
        files, labels = [], []
        for number, concept in enumerate(concepts):
            here = sorted(str(name).strip("/\\") for name in lists[concept]["train" if split == "train" else "test"])
            files += [root / "images" / name for name in here]
            labels += [number] * len(here)
        return Files(root / "images", files, labels, concepts)

    return read


# --- transfer: through torchvision where it knows the set -----------------------------------------


def torchvision(make: Callable[[Path, str], Any]) -> Callable[[Path, str], Files]:
    """A torchvision data set read for its lists; our own loader decodes."""

    def read(root: Path, split: str) -> Files:
        found = make(root, split)
        parts = found.datasets if hasattr(found, "datasets") else [found]  # train + val
        files, labels = [], []
        for part in parts:
            if hasattr(part, "samples") or hasattr(part, "_samples"):
                pairs = part.samples if hasattr(part, "samples") else part._samples
                files += [file for file, _ in pairs]
                labels += [label for _, label in pairs]
            else:
                files += part._images if hasattr(part, "_images") else part._image_files
                labels += part._labels
        return Files(root, files, labels, getattr(parts[0], "classes", ()))

    return read


def aircraft(root: Path, split: str) -> Any:
    from torchvision.datasets import FGVCAircraft

    return FGVCAircraft(str(root), "trainval" if split == "train" else "test")


def cars(root: Path, split: str) -> Any:
    from torchvision.datasets import StanfordCars

    here = root / "stanford_cars"
    read_mat(here / "devkit" / "cars_meta.mat")  # first by ourselves: within bounds, and a damaged one is named
    read_mat(here / ("devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"))
    return StanfordCars(str(root), split)


def dtd(root: Path, split: str) -> Any:
    from torch.utils.data import ConcatDataset
    from torchvision.datasets import DTD

    return ConcatDataset([DTD(str(root), s) for s in (("train", "val") if split == "train" else ("test",))])


def flowers(root: Path, split: str) -> Files:
    """By its two lists; train and valid are one."""
    here = root / "flowers-102"
    labels = read_mat(here / "imagelabels.mat")["labels"][0] - 1
    held = read_mat(here / "setid.mat")
    names = ("trnid", "valid") if split == "train" else ("tstid",)
    numbers = np.concatenate([held[name][0] for name in names])
    return Files(root, [here / "jpg" / f"image_{n:05d}.jpg" for n in numbers], labels[numbers - 1])


def pets(root: Path, split: str) -> Any:
    from torchvision.datasets import OxfordIIITPet

    return OxfordIIITPet(str(root), "trainval" if split == "train" else "test")


def food(root: Path, split: str) -> Any:
    from torchvision.datasets import Food101

    read_json(root / "food-101" / "meta" / f"{split}.json")  # first by ourselves: a damaged one is named
    return Food101(str(root), split)


def eurosat(root: Path, split: str) -> Files:
    """No official split: 30 % of each class, drawn once for ever, are the test set, as many as in the paper."""
    from torchvision.datasets import EuroSAT

    found = EuroSAT(str(root))
    labels = np.array([label for _, label in found.samples])
    generator = np.random.Generator(np.random.Philox(22))
    test = np.zeros(len(labels), dtype=bool)
    for c in range(len(found.classes)):
        rows = np.flatnonzero(labels == c)
        test[generator.permutation(rows)[: round(0.3 * len(rows))]] = True
    rows = np.flatnonzero(test if split == "test" else ~test)
    return Files(root, [found.samples[row][0] for row in rows], labels[rows], found.classes)


def sun397(root: Path, split: str) -> Files:
    """The first official partition: ClassName.txt, Training_01.txt, Testing_01.txt beside the images."""
    classes = sorted(line.strip().strip("/") for line in (root / "ClassName.txt").read_text().split())
    number = {name: n for n, name in enumerate(classes)}
    listed = (root / ("Training_01.txt" if split == "train" else "Testing_01.txt")).read_text().split()
    names = [line.strip("/") for line in listed]
    return Files(root, [root / name for name in names], [number[n.rpartition("/")[0]] for n in names], classes)


def inat(year: int) -> Callable[[Path, str], Files]:
    """The official annotation files; the validation set is the test set, as in the paper."""

    def read(root: Path, split: str) -> Files:
        held = read_json(root / f"{'train' if split == 'train' else 'val'}{year}.json")
        files = {image["id"]: root / image["file_name"] for image in held["images"]}
        pairs = [(files[one["image_id"]], one["category_id"]) for one in held["annotations"]]
        names = [str(c["name"]) for c in sorted(held.get("categories", []), key=lambda c: c["id"])]
        return Files(root, [file for file, _ in pairs], [label for _, label in pairs], names)

    return read


# --- dense ----------------------------------------------------------------------------------------


def ade20k(root: Path, split: str) -> Pairs:
    """images/ and annotations/ with training/ and validation/ below each; 0 is everything else and ignored."""
    name = "training" if split == "train" else "validation"
    images = sorted((root / "images" / name).glob("*.jpg"))
    pairs = [(image, root / "annotations" / name / f"{image.stem}.png") for image in images]
    return Pairs(str(root), _whole(root, pairs), partial(mask, first=1), classes=150)


def nyud(root: Path, split: str) -> Pairs:
    """Lines of `rgb depth focal` in nyu_train.txt and nyu_test.txt; 16-bit millimetres."""
    lines = (root / f"nyu_{split}.txt").read_text().splitlines()
    parts = [line.split() for line in lines if line.strip()]
    pairs = [(root / p[0].strip("/"), root / p[1].strip("/")) for p in parts if p[1] != "None"]
    return Pairs(str(root), _whole(root, pairs), metres, far=10.0)


def voc(root: Path, split: str) -> Pairs:
    """VOC2012's segmentation lists: train with the additional masks where they are, val; 0 is a class, 255 is none."""
    lists, more = root / "ImageSets" / "Segmentation", root / "SegmentationClassAug"
    name, masks = ("train" if split == "train" else "val"), "SegmentationClass"
    if split == "train" and more.is_dir():
        found = next((n for n in ("trainaug", "train_aug") if (lists / f"{n}.txt").is_file()), None)
        if found is None:
            raise DataError(f"{lists}: trainaug.txt is missing, which lists what {more.name} has masks of")
        name, masks = found, more.name
    # lists of the additional masks come as names, and as `/JPEGImages/x.jpg /SegmentationClassAug/x.png`
    names = [Path(line.split()[0]).stem for line in (lists / f"{name}.txt").read_text().splitlines() if line.strip()]
    pairs = [(root / "JPEGImages" / f"{n}.jpg", root / masks / f"{n}.png") for n in names]
    return Pairs(str(root), _whole(root, pairs), mask, classes=21)


# --- points ---------------------------------------------------------------------------------------


def spair(root: Path, split: str) -> Matches:
    """Layout/large/{trn,test}.txt name PairAnnotation's files, `000001-SOURCE-TARGET:CATEGORY`."""
    part = "trn" if split == "train" else "test"
    files = []
    for line in (root / "Layout" / "large" / f"{part}.txt").read_text().split():
        _, source, target = line.partition(":")[0].split("-")
        images = root / "JPEGImages" / line.partition(":")[2]
        # some unpack the archive where names must not have a colon
        names = (root / "PairAnnotation" / part / f"{line.replace(':', sign)}.json" for sign in (":", "_"))
        points = next((name for name in names if name.is_file()), None)
        if points is None:
            raise DataError(f"{root}: PairAnnotation/{part} has nothing for {line}")
        files.append((images / f"{source}.jpg", images / f"{target}.jpg", points))
    if not files:
        raise DataError(f"{root}: no pairs are listed")
    return Matches(str(root), files, spair_points)


def spair_points(path: Path) -> Points:
    """Keypoints of both images; the object's box in the target is x, y of two corners."""
    held = read_json(path)
    source, target = (np.asarray(held[key], dtype=np.float64).reshape(-1, 2) for key in ("src_kps", "trg_kps"))
    left, top, right, bottom = (float(side) for side in held["trg_bndbox"])
    if not len(source) or len(source) != len(target):
        raise DataError(f"{path}: {len(source)} points in the source and {len(target)} in the target")
    return Points(source, target, max(right - left, bottom - top), str(held["category"]))


def _whole(root: Path, pairs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    if not pairs:
        raise DataError(f"{root}: no images found")
    missing = next((target for image, target in pairs if not target.is_file() or not image.is_file()), None)
    if missing is not None:
        raise DataError(f"{root}: {missing} is missing or belongs to no image")
    return pairs
