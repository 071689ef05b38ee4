"""Tiny data sets in the official on-disk layouts: every class has a colour, so there is something to find."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = [f"n{1440000 + i:08d}" for i in range(10)]
WORDS = ["tench", "goldfish", "shark", "ray", "cock", "hen", "ostrich", "finch", "junco", "robin"]
SIDE = 40


def picture(path: Path, label: int, number: int, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """An image in the colour of its class, with noise that differs from image to image."""
    generator = np.random.default_rng([label, number])
    colour = np.random.default_rng(label).integers(40, 215, 3)
    pixels = (colour + generator.normal(0, 25, (size[1], size[0], 3))).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=92)
    return path


def folders(root: Path, names: list[str], each: int, first: int = 0, suffix: str = ".JPEG") -> None:
    for label, name in enumerate(names):
        for number in range(first, first + each):
            picture(root / name / f"{name}_{number}{suffix}", label, number)


def imagenet(data: Path) -> None:
    folders(data / "imagenet" / "train", WNIDS, 4)
    folders(data / "imagenet" / "val", WNIDS, 2, first=100)
    (data / "imagenet" / "classnames.txt").write_text("\n".join(WORDS))


def relatives(data: Path) -> None:
    folders(data / "imagenetv2-matched-frequency-format-val", [str(n) for n in range(10)], 1, first=200, suffix=".jpeg")
    folders(data / "sketch", WNIDS, 1, first=300)
    for label in (1, 5, 7):
        picture(data / "imagenet-r" / WNIDS[label] / f"art_{label}.jpg", label, 400)


def cog(data: Path) -> None:
    root, levels, lists = data / "cog", [], {}
    for level in range(5):
        names = [f"n9{level}{i:06d}" for i in range(3)]
        levels.append(names)
        for label, name in enumerate(names):
            files = [f"{name}/{name}_{n}.JPEG" for n in range(6)]
            for number, file in enumerate(files):
                picture(root / "images" / file, label, number)
            lists[name] = {"train": np.array(files[:4]), "test": np.array(files[4:])}
    (root / "cog_levels_mapping_file.pkl").write_bytes(pickle.dumps(levels))
    (root / "cog_concepts_split_file.pkl").write_bytes(pickle.dumps(lists))


def aircraft(data: Path) -> None:
    root = data / "aircraft" / "fgvc-aircraft-2013b" / "data"
    names = ["707-320", "A300B4"]
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for label, name in enumerate(names):
        for number in range(6):
            file = f"{label}{number:06d}"
            picture(root / "images" / f"{file}.jpg", label, number)
            lines["trainval" if number < 4 else "test"].append(f"{file} {name}")
    (root / "variants.txt").write_text("\n".join(names) + "\n")
    for split, some in lines.items():
        (root / f"images_variant_{split}.txt").write_text("\n".join(some) + "\n")


def cars196(data: Path) -> None:
    from scipy.io import savemat

    root = data / "cars196" / "stanford_cars"
    (root / "devkit").mkdir(parents=True)
    names = np.array(["AM General", "Acura"], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names[None]})
    kind = [("fname", object), ("class", int)]
    for split, path, first in (
        ("train", root / "devkit" / "cars_train_annos.mat", 0),
        ("test", root / "cars_test_annos_withlabels.mat", 50),
    ):
        rows = []
        for label in range(2):
            for number in range(first, first + 3):
                name = f"{label}{number:04d}.jpg"
                picture(root / f"cars_{split}" / name, label, number)
                rows.append((name, label + 1))
        savemat(path, {"annotations": np.array(rows, dtype=kind)[None]})


def dtd(data: Path) -> None:
    root = data / "dtd" / "dtd" / "dtd"
    for split, first in (("train", 0), ("val", 2), ("test", 4)):
        lines = []
        for label, name in enumerate(["banded", "dotted"]):
            for number in range(first, first + 2):
                picture(root / "images" / name / f"{name}_{number}.jpg", label, number)
                lines.append(f"{name}/{name}_{number}.jpg")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{split}1.txt").write_text("\n".join(lines) + "\n")


def eurosat(data: Path) -> None:
    folders(data / "eurosat" / "eurosat" / "2750", ["AnnualCrop", "Forest"], 6, suffix=".jpg")


def flowers(data: Path) -> None:
    from scipy.io import savemat

    root = data / "flowers" / "flowers-102"
    for number in range(12):
        picture(root / "jpg" / f"image_{number + 1:05d}.jpg", number % 2, number)
    savemat(root / "imagelabels.mat", {"labels": np.array([[n % 2 + 1 for n in range(12)]])})
    savemat(
        root / "setid.mat",
        {"trnid": np.array([range(1, 5)]), "valid": np.array([range(5, 9)]), "tstid": np.array([range(9, 13)])},
    )


def pets(data: Path) -> None:
    root = data / "pets" / "oxford-iiit-pet"
    (root / "annotations").mkdir(parents=True)
    for split, first in (("trainval", 0), ("test", 50)):
        lines = []
        for label, name in enumerate(["Abyssinian", "american_bulldog"]):
            for number in range(first, first + 3):
                picture(root / "images" / f"{name}_{number}.jpg", label, number)
                lines.append(f"{name}_{number} {label + 1} {label + 1} 1")
        (root / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")


def food101(data: Path) -> None:
    root = data / "food101" / "food-101"
    (root / "meta").mkdir(parents=True)
    for split, first in (("train", 0), ("test", 50)):
        held = {name: [f"{name}/{n}" for n in range(first, first + 3)] for name in ("apple_pie", "waffles")}
        for label, files in enumerate(held.values()):
            for file in files:
                picture(root / "images" / f"{file}.jpg", label, int(file.split("/")[1]))
        (root / "meta" / f"{split}.json").write_text(json.dumps(held))


def sun397(data: Path) -> None:
    root, names = data / "SUN397", ["/a/abbey", "/c/church/indoor"]
    for split, first in (("Training", 0), ("Testing", 50)):
        lines = []
        for label, name in enumerate(names):
            for number in range(first, first + 3):
                picture(root / name.strip("/") / f"sun_{number}.jpg", label, number)
                lines.append(f"{name}/sun_{number}.jpg")
        (root / f"{split}_01.txt").write_text("\n".join(lines) + "\n")
    (root / "ClassName.txt").write_text("\n".join(names) + "\n")


def inat(data: Path) -> None:
    for year in (2018, 2019):
        root, image_id = data / f"inat{year}", 0
        for split, first in (("train", 0), ("val", 50)):
            images, annotations = [], []
            for label in range(2):
                for number in range(first, first + 3):
                    image_id += 1
                    name = f"train_val{year}/Aves/{label}/{number}.jpg"
                    picture(root / name, label, number)
                    images.append({"id": image_id, "file_name": name})
                    annotations.append({"image_id": image_id, "category_id": label})
            categories = [{"id": 0, "name": "Corvus"}, {"id": 1, "name": "Pica"}]
            held = {"images": images, "annotations": annotations, "categories": categories}
            (root / f"{split}{year}.json").write_text(json.dumps(held))


def ade20k(data: Path) -> None:
    root = data / "ADEChallengeData2016"
    for split, count in (("training", 4), ("validation", 2)):
        for number in range(count):
            generator = np.random.default_rng([number, len(split)])
            mask = generator.integers(0, 4, (3, 4)).repeat(20, 0).repeat(20, 1).astype(np.uint8)  # 0: everything else
            pixels = (mask[..., None] * np.array([60, 30, 10]) + 20).astype(np.uint8)
            for folder, values, suffix in (("images", pixels, "jpg"), ("annotations", mask, "png")):
                path = root / folder / split / f"ADE_{number:08d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)


def nyud(data: Path) -> None:
    root = data / "nyu"
    for split, count in (("train", 4), ("test", 2)):
        lines = []
        for number in range(count):
            generator = np.random.default_rng([number, len(split)])
            metres = generator.uniform(1, 8, (3, 4)).repeat(20, 0).repeat(20, 1)
            grey = (255 * metres / 10).astype(np.uint8)
            scene = root / "bathroom_0001"
            scene.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.stack([grey] * 3, -1)).save(scene / f"rgb_{split}{number}.jpg")
            Image.fromarray((metres * 1000).astype(np.uint16)).save(scene / f"sync_depth_{split}{number}.png")
            lines.append(
                f"/bathroom_0001/rgb_{split}{number}.jpg /bathroom_0001/sync_depth_{split}{number}.png 518.8579"
            )
        (root / f"nyu_{split}.txt").write_text("\n".join(lines) + "\n")


def voc(data: Path, additional: bool = True) -> None:
    """Palette images, as the official masks are: a class for every pixel, 255 around the objects."""
    root = data / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    names: dict[str, list[str]] = {"train": [], "val": [], "trainaug": []}
    for number in range(6):
        split = "val" if number > 3 else "train" if number < 2 else "trainaug"
        mask = np.random.default_rng(number).integers(0, 3, (3, 4)).repeat(20, 0).repeat(20, 1).astype(np.uint8)
        mask[:2] = 255
        pixels = (np.minimum(mask, 2)[..., None] * np.array([80, 30, 10]) + 20).astype(np.uint8)
        name = f"2007_{number:06d}"
        held = Image.fromarray(mask, mode="P")
        held.putpalette([value for one in range(256) for value in (one, 255 - one, one // 2)])
        folders = ["SegmentationClassAug"] * (additional and split != "val") + ["SegmentationClass"] * (
            split != "trainaug"
        )
        for folder in folders:
            (root / folder).mkdir(exist_ok=True)
            held.save(root / folder / f"{name}.png")
        (root / "JPEGImages").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        for one in {split, "trainaug"} if split != "val" else {split}:
            names[one].append(name)
    for split, some in names.items():
        if additional or split != "trainaug":
            (lists / f"{split}.txt").write_text("\n".join(some) + "\n")


def spair(data: Path) -> None:
    """Images of one scene that was moved by whole patches of 8, so that what belongs together is known."""
    root = data / "SPair-71k"
    lines: dict[str, list[str]] = {"trn": [], "test": []}
    for number, (split, category, moved) in enumerate(
        [("trn", "cat", (0, 0)), ("test", "cat", (8, 16)), ("test", "cat", (0, 8)), ("test", "dog", (16, 0))]
    ):
        generator = np.random.default_rng(number)
        scene = generator.integers(20, 235, (8, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)  # 64 x 64
        names = [f"2008_{number:05d}{end}" for end in (0, 1)]
        (root / "JPEGImages" / category).mkdir(parents=True, exist_ok=True)
        for name, (across, down) in zip(names, ((0, 0), moved), strict=True):
            picture = Image.fromarray(np.roll(scene, (down, across), (0, 1)))
            # as wide again as high: the two sides are scaled apart
            picture.resize((128, 64), Image.Resampling.NEAREST).save(
                root / "JPEGImages" / category / f"{name}.jpg", quality=98, subsampling=0
            )
        points = [(12 + 8 * i, 20 + 8 * j) for i, j in ((0, 0), (2, 1), (3, 2))]
        source, target = ([[2 * (x + a), y + d] for x, y in points] for a, d in ((0, 0), moved))
        line = f"{number + 1:06d}-{names[0]}-{names[1]}:{category}"
        held = {
            "filename": line, "src_imname": f"{names[0]}.jpg", "trg_imname": f"{names[1]}.jpg", "category": category,
            "src_imsize": [128, 64, 3], "trg_imsize": [128, 64, 3], "src_bndbox": [16, 16, 96, 56],
            "trg_bndbox": [16, 8, 96, 60], "kps_ids": ["0", "1", "2"], "src_kps": source, "trg_kps": target,
        }  # fmt: skip
        (root / "PairAnnotation" / split).mkdir(parents=True, exist_ok=True)
        (root / "PairAnnotation" / split / f"{line}.json").write_text(json.dumps(held))
        lines[split].append(line)
    (root / "Layout" / "large").mkdir(parents=True)
    for split, some in lines.items():
        (root / "Layout" / "large" / f"{split}.txt").write_text("\n".join(some) + "\n")


EVERYTHING = (
    imagenet, relatives, cog, aircraft, cars196, dtd, eurosat, flowers, pets, food101, sun397, inat, ade20k, nyud,
)  # fmt: skip


def everything(data: Path) -> Path:
    """All data sets of the paper, 200 kB."""
    for make in EVERYTHING:
        make(data)
    return data
