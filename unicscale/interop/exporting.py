"""One export from beginning to end: checked, written beside its place, verified, and moved there by one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from unicscale import __version__
from unicscale.errors import CheckpointError
from unicscale.interop import native
from unicscale.interop.card import card, licence_of
from unicscale.interop.exports.target import Target, Wishes
from unicscale.interop.loading import EXPORT
from unicscale.interop.opened import Opened
from unicscale.interop.origin import Origin
from unicscale.interop.small import Shown, reduced
from unicscale.interop.verify import CHUNK, Difference, as_json, tried, verify

FACTS, SUMS, CARD = EXPORT, "SHA256SUMS", "README.md"


def export(
    opened: Opened,
    origin: Origin,
    target: Target,
    out: Path,
    wishes: Wishes,
    *,
    force: bool = False,
    shown: Shown | None = None,
) -> list[Difference]:
    """Write the export; afterwards `out` is whole and verified, or it is what it was before."""
    refuse_place(out, force)
    if wishes.projectors:
        refuse_projectors(opened, target)
    if target.of_three and len(opened.mean) != 3:
        raise CheckpointError(
            f"--to {target.name}: the student sees {len(opened.mean)} channels, and {target.library} prepares pictures "
            "of three.\n  These hold every student: --to onnx, --to torch, --to safetensors; timm takes most."
        )
    wishes = wishes._replace(licence=licence_of(origin))
    opened.student.eval().requires_grad_(False)
    student = opened
    if wishes.small is not None:
        wishes.small.refuse(target.name)
        opened = reduced(student, wishes.small)
    with beside(out) as folder:
        target.write(opened, folder, wishes)
        shown = (shown or noise(student)) if wishes.small else None
        differences, said = verify(target, opened, wishes, folder, shown.images.split(CHUNK) if shown else ())
        trial = tried(student, said, wishes, folder, shown) if shown else None
        (folder / CARD).write_text(card(origin, target, opened, wishes, differences, out.resolve().name, trial))
        facts = {
            "unicscale": __version__,
            "target": target.name,
            "source": origin.source,
            "size": opened.size,
            "heads": _heads(opened),
            "half": wishes.half,
            "projectors": wishes.projectors,
            "small": wishes.small and wishes.small.said,
            "verified": as_json(differences),
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
        (folder / SUMS).write_text("".join(f"{_sha256(file)}  {file.name}\n" for file in sorted(folder.iterdir())))
    return differences


def noise(opened: Opened) -> Shown:
    """What a smaller student is tried on where nobody gives images."""
    generator = torch.Generator().manual_seed(1)
    return Shown(torch.randn(32, len(opened.mean), opened.size, opened.size, generator=generator), "noise")


def at_size(opened: Opened, size: int | None) -> Opened:
    """The student with its positions resized once, so that the export is exact at this size."""
    if size is None or size == opened.size:
        return opened
    opened.student.resize_positions(size)
    return replace(opened, size=size)


def refuse_place(out: Path, force: bool) -> None:
    """Before any work: what is there already is kept, unless it is an export and --force says to replace it."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    if not (out / FACTS).is_file():
        raise CheckpointError(f"--out {out}: is there already, and is no export. Choose another folder.")
    if not force:
        raise CheckpointError(
            f"--out {out}: an export is there already. --force replaces it, or choose another folder."
        )


def refuse_projectors(opened: Opened, target: Target) -> None:
    """What cannot go along."""
    if not target.projectors:
        raise CheckpointError(
            f"--to {target.name} --with-projectors: {target.library} has no place for projectors.\n"
            "  --to safetensors, unic, onnx and torch take them along."
        )
    if opened.student.projector is None:
        raise CheckpointError("--with-projectors: there are no projectors in this model, only the encoder.")


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A folder that takes the place of `out` if all goes well, and that is gone otherwise."""
    out = out.absolute()
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        yield part
        _into_place(part, out)
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(
            f"--out {out} cannot be written: {native.reason(problem)}.\n  Nothing was kept."
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _into_place(part: Path, out: Path) -> None:
    for file in part.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())  # a name must not outlive what it names
    if not out.exists():
        os.rename(part, out)
        return
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    os.rename(out, old)
    try:
        os.rename(part, out)
    except OSError:
        os.rename(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _heads(opened: Opened) -> int | None:
    blocks = getattr(opened.student.trunk, "blocks", None)
    return getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
