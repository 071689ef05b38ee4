"""A published config.json and what lies beside it: read, checked, and made the configuration class it stands for."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

from unicscale.contracts import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, of_unit_pixels
from unicscale.errors import TeacherError

DEEPEST = 1000  # blocks; a longer stack is a mistake that would take hours to build
HALF, ZERO, ONE = (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
# what a family was trained with, by the beginning of its model_type, where no preprocessor_config.json says it
FAMILIES: tuple[tuple[tuple[str, ...], tuple[Any, Any]], ...] = (
    (("clip", "metaclip", "altclip", "chinese_clip", "blip", "owl", "aimv2", "mlcd"), (CLIP_MEAN, CLIP_STD)),
    (("siglip", "beit", "janus", "sam3"), (HALF, HALF)),
    (("radio", "tipsv2"), (ZERO, ONE)),  # radio normalises inside of its module
    (("mobilevit",), (ZERO, ONE)),
    (("dinov2", "dinov3", "deit", "vit_mae", "vit_msn", "vitdet", "ijepa", "data2vec-vision", "convnext", "swin",
      "resnet", "focalnet", "hiera", "pvt", "regnet", "efficientnet", "levit", "poolformer", "cvt", "sam", "internvl",
      "depth_anything", "dinat", "pixio", "swiftformer"), (IMAGENET_MEAN, IMAGENET_STD)),
)  # fmt: skip


def place_of(config: str, name: str = "config.json") -> Path | None:
    """The file beside or behind `config`: in a folder, itself, or of a hub's repository in the local cache."""
    path = Path(config).expanduser()
    if path.is_dir():
        return path / name
    if path.is_file():
        return path if name == "config.json" else path.parent / name
    if not is_hub_id(config):
        return None
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = config.partition("@")
    found = try_to_load_from_cache(repository, name, revision=revision or None)
    return Path(found) if isinstance(found, str) else None


def is_hub_id(config: str) -> bool:
    """Whether it reads ORG/REPO, with or without @REVISION."""
    parts = config.partition("@")[0].split("/")
    return len(parts) == 2 and all(part and part[0].isalnum() for part in parts)


def read(config: str | dict[str, Any]) -> dict[str, Any]:
    """What stands in the config.json; TeacherError where there is none, or no encoder in it."""
    if isinstance(config, dict):
        return config
    file = place_of(config)
    if file is None or not file.is_file():
        if is_hub_id(config):
            repository, _, revision = config.partition("@")
            at = f" --revision {revision}" if revision else ""
            raise TeacherError(
                f"'config: {config}': no such folder, and not in the cache of Hugging Face.\n"
                f"  Where there is a network: hf download {repository}{at} config.json preprocessor_config.json"
            )
        raise TeacherError(f"'config: {config}': {file or Path(config).expanduser()} does not exist.")
    return _json(file)


def _json(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as problem:
        raise TeacherError(f"{file}: not a JSON file: {str(problem)[:160]}") from problem
    if not isinstance(held, dict):
        raise TeacherError(f"{file}: holds a {type(held).__name__}, not a mapping.")
    return held


def configuration(held: dict[str, Any]) -> Any:
    """The configuration of the class that `model_type` names: published files hold only what differs from it."""
    from transformers import CONFIG_MAPPING, AutoConfig

    inner = held.get("vision_config")
    if "model_type" not in held and isinstance(inner, dict):  # some say it of the tower alone
        held = inner
    kind = held.get("model_type")
    if not isinstance(kind, str):
        raise TeacherError("the config has no `model_type`: it is no configuration of transformers.")
    if kind not in CONFIG_MAPPING:
        raise TeacherError(f"transformers knows no model_type '{kind[:80]}'. A newer transformers might.")
    _refuse_depths(held)
    # the precision is the engine's business, and no code comes out of a repository
    said = {key: value for key, value in held.items() if key not in ("model_type", "dtype", "torch_dtype", "auto_map")}
    try:
        whole = AutoConfig.for_model(kind, **said)
    except Exception as problem:  # hostile values trip over anything
        raise TeacherError(f"the config of '{kind}' does not fit it: {_first(problem)}") from problem
    whole.dtype = None
    return whole


def tower(whole: Any) -> Any:
    """The configuration of the image encoder inside: of a CLIP, a language model with eyes, a head on a backbone."""
    for key in ("vision_config", "backbone_config", "image_config"):
        inside: Any = getattr(whole, key, None)
        # SAM 2 and 3 have a backbone inside of their encoder, and are meant as a whole
        if getattr(inside, "model_type", None) and not str(whole.model_type).endswith("_vision_model"):
            inside.dtype = None
            return tower(inside)
    return whole


def native(vision: Any) -> int:
    """Pixels a side that it was trained with, as far as the config says it."""
    for key in ("image_size", "img_size"):
        size = getattr(vision, key, None)
        if isinstance(size, list | tuple) and size:
            size = max(size) if all(isinstance(s, int) for s in size) else None
        if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= 8192:
            return size
        if size is not None:
            raise TeacherError(f"the config's `{key}: {getattr(vision, key)!r}` is no number of pixels.")
    count, patch = getattr(vision, "num_patches", None), getattr(vision, "patch_size", None)
    return int(count**0.5) * patch if isinstance(count, int) and isinstance(patch, int) else 224


def normalisation(config: str | dict[str, Any], kinds: tuple[str, ...]) -> tuple[Any, Any]:
    """Mean and deviation of pixels in 0..1: of the processor's file, or of the family; TeacherError where neither says
    them. A file may scale pixels otherwise, before and after: all of it is one mean and one deviation."""
    file, said = _processor(config)
    mean, std = _stated(file, said, kinds)
    factor = 255.0 * _number(file, said, "rescale_factor", 1 / 255) if said.get("do_rescale", True) else 255.0
    offset = 1.0 if said.get("rescale_offset") else 0.0
    if said.get("include_top") and "image_std" in said:  # EfficientNet's: divided twice
        std = tuple(one * one for one in std)
    return of_unit_pixels(mean, std, factor, offset)


def blue_first(config: str | dict[str, Any], kinds: tuple[str, ...]) -> bool:
    """Whether the encoder sees blue, green, red: MobileViTs do, and a processor's file may say so of others."""
    return bool(_processor(config)[1].get("do_flip_channel_order", kinds[0].startswith("mobilevit")))


def _processor(config: str | dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """What lies beside the config about its pixels, and in which file; nothing where nothing does."""
    for name in ("preprocessor_config.json", "processor_config.json") if isinstance(config, str) else ():
        if (file := place_of(str(config), name)) is not None and file.is_file():
            held = _json(file)
            inside = held.get("image_processor", held)  # a processor of words and pixels holds both
            return file, inside if isinstance(inside, dict) else held
    return Path(), {}


def _stated(file: Path, said: dict[str, Any], kinds: tuple[str, ...]) -> tuple[Any, Any]:
    if not said.get("do_normalize", not kinds[0].startswith("mobilevit")):
        return ZERO, ONE
    if "image_mean" in said or "image_std" in said:
        return _three(said.get("image_mean"), file, "image_mean"), _three(said.get("image_std"), file, "image_std")
    for kind in kinds:
        for beginnings, pixels in FAMILIES:
            if kind.startswith(beginnings):
                return pixels
    raise TeacherError(
        f"nothing says how images for '{kinds[0]}' are normalised: no preprocessor_config.json is beside the config.\n"
        "  Put it there, or state `mean: [r, g, b]` and `std: [r, g, b]` for pixels in 0..1."
    )


def _number(file: Path, said: dict[str, Any], key: str, usual: float) -> float:
    value = said.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise TeacherError(f"{file}: `{key}: {str(value)[:80]}` is no number above 0.")
    return float(value)


def _three(values: Any, file: Path, key: str) -> tuple[float, float, float]:
    numbers = isinstance(values, list | tuple) and all(isinstance(v, int | float) and isfinite(v) for v in values)
    if not numbers or len(values) != 3 or (key == "image_std" and min(values) <= 0):
        raise TeacherError(f"{file}: `{key}: {str(values)[:80]}` is no triple of numbers.")
    red, green, blue = map(float, values)
    return red, green, blue


def _refuse_depths(held: dict[str, Any]) -> None:
    for key, value in held.items():
        if isinstance(value, dict):
            _refuse_depths(value)
        for number in value if isinstance(value, list | tuple) else (value,):
            deep = "layers" in key or "depth" in key
            if deep and isinstance(number, int | float) and not 0 <= number <= DEEPEST:
                raise TeacherError(f"the config's `{key}: {str(value)[:80]}` is no depth of an encoder.")


def _first(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[-1].strip()[:200]
