"""A teacher's weights: where they lie, and how they are read safely."""

from __future__ import annotations

import argparse
import math
import pickle
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unicscale import rng
from unicscale.errors import TeacherError, UserError

# whatever torch's unpickler, the zip directory or safetensors trip over where bytes are missing or flipped
TORN = (
    SafetensorError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
    struct.error,
)
HTML = (b"<!doc", b"<html", b"<?xml")


# --- reading --------------------------------------------------------------------------------------


def read(path: str | Path, error: type[UserError] = TeacherError) -> dict[str, Any]:
    """Everything a foreign file holds, without running any code it may carry; `error` says what is wrong with it.

    The one reader of files that others wrote: teachers' weights, and the checkpoints of the authors of UNIC.
    """
    path = Path(path)
    if not path.is_file():
        raise error(f"{path}: no such file. `weights:` takes auto, a path, a URL, hf:repo, timm:id or random.")
    try:
        return _read_as_it_begins(path, error)
    except TORN as problem:
        raise error(
            f"{path}: {path.stat().st_size:,} bytes, and not a whole weights file (truncated?): {_first(problem)}\n"
            "  Delete it and fetch it again: for a teacher's file, `unicscale teachers fetch` checks and resumes."
        ) from problem
    except pickle.UnpicklingError as problem:
        asked = re.search(r"GLOBAL (\w[\w.]*)", str(problem))
        if asked:
            raise error(
                f"{path}: refused: reading it would call {asked[1]}, and weights need no code.\n"
                "  Nothing of it was executed. Get the file from its authors, or convert it to safetensors elsewhere."
            ) from problem
        raise error(f"{path}: not a file of weights: {_first(problem)}") from problem


def _read_as_it_begins(path: Path, error: type[UserError]) -> dict[str, Any]:
    with path.open("rb") as stream:
        head = stream.read(16)
    if head[:5].lower() in HTML or head.lstrip()[:5].lower() in HTML:
        raise error(
            f"{path}: this is a web page, not weights: the download was answered by a login or an error page.\n"
            "  Delete it, open the address in a browser, and save the file itself."
        )
    held = _read_safetensors(path) if head[8:9] == b"{" else _read_torch(path, zipped=head[:2] == b"PK")
    if not isinstance(held, Mapping):
        raise error(f"{path}: holds a {type(held).__name__}, not a dictionary of tensors.")
    return dict(held)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as stream:
        return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)


def _read_torch(path: Path, zipped: bool) -> Any:
    # the authors of UNIC, DeiT-III and dBOT keep their command line beside the weights; nothing else is let through
    with torch.serialization.safe_globals([argparse.Namespace]):
        # mapped, not read: rank 0 touches one tensor at a time, so the file never stands in memory beside its copy
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _first(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:160]


# --- matching -------------------------------------------------------------------------------------


def match(state: Mapping[str, Tensor], module: nn.Module, what: str) -> None:
    """Every entry used, none missing, shapes equal; otherwise TeacherError names them."""
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    held = {name: tuple(t.shape) for name, t in state.items() if isinstance(t, Tensor)}
    missing, extra = sorted(wanted.keys() - held.keys()), sorted(state.keys() - wanted.keys())
    shapes = [f"{n} {held[n]} instead of {wanted[n]}" for n in wanted if n in held and held[n] != wanted[n]]
    if missing or extra or shapes:
        lines = [f"{what} does not fit:"]
        lines += [_few("missing", missing)] if missing else []
        lines += [_few("not expected", extra)] if extra else []
        lines += [_few("another shape", shapes)] if shapes else []
        raise TeacherError("\n".join(lines))


def _few(label: str, names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"  {label}: {', '.join(names[:shown])}{more}"


def refuse_untrained(state: Mapping[str, Tensor], what: str) -> None:
    """Norms that are all ones and zeros were never trained: such a teacher would teach noise without a sign."""
    norms = [name for name in state if re.search(r"(norm|ln_)\w*\.weight$", name)]
    touched = (not torch.equal(state[n].float(), torch.ones_like(state[n], dtype=torch.float32)) for n in norms)
    if norms and not any(touched):
        raise TeacherError(
            f"{what} was never trained: the weights of all its {len(norms)} norms are exactly 1.\n"
            "  Give the official file, or say `weights: random` where noise is what you want."
        )


class RandomState(Mapping[str, Tensor]):
    """Sane random weights, one tensor at a time: a function of name and shape, so every world size has the same."""

    TABLE = 1_000_003  # normal draws, cut at another place for every name: 1.1 B weights take a second, not twenty

    def __init__(self, module: nn.Module, seed: int = 0) -> None:
        self.like = {n: (tuple(p.shape), p.dtype) for n, p in module.named_parameters()}
        keyed = torch.Generator().manual_seed(rng.key(seed, rng.Purpose.INIT) >> 1)
        # 0.02 is about what a trained ViT's linear layers have
        self.table = torch.empty(self.TABLE).normal_(0.0, 0.02, generator=keyed)

    def __getitem__(self, name: str) -> Tensor:
        shape, dtype = self.like[name]
        if len(shape) < 2:  # norms and layer scales are 1, biases 0
            return torch.full(shape, float(name.endswith(("weight", "gamma"))), dtype=dtype)
        count, first = math.prod(shape), crc32(name.encode()) % self.TABLE
        turns = (first + count - 1) // self.TABLE + 1
        drawn = self.table.to(dtype).repeat(turns)[first : first + count].view(shape)
        if len(shape) == 4 and shape[-1] < 8:  # a convolution's: by its fan-in, or nothing arrives at a deep one's end
            drawn = drawn * (2 / math.prod(shape[1:])) ** 0.5 / 0.02
        return drawn

    def __iter__(self) -> Iterator[str]:
        return iter(self.like)

    def __len__(self) -> int:
        return len(self.like)
