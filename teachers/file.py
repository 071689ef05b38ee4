"""An encoder that comes as a program: a file of torch.export or TorchScript, for which nobody has the source."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import model_validator
from unicscale_teachers.asked import Measured, first_line, measure

from unicscale.contracts import TeacherSpec
from unicscale.errors import TeacherError
from unicscale.teacher import Teacher, TeacherOptions

Triple = tuple[float, float, float]


class Options(TeacherOptions):
    path: str
    """A .pt2 of torch.export.save, or a TorchScript file; it takes normalised images (B, 3, H, W)."""
    trust: bool = False
    """Such a file is a program, and running it may do whatever its author wants. Say true if you trust it."""
    size: int
    """Pixels a side that it was made for."""
    mean: Triple
    """Of the pixels in 0..1, as it wants them."""
    std: Triple
    """Their deviation."""
    prefix: int = 1
    """Where it gives tokens in one row: how many stand before the patches; the first of them is the summary."""
    licence: str = "as its author states it"
    """Goes into model cards."""

    @model_validator(mode="after")
    def _trusted(self) -> Options:
        if not self.trust:
            raise ValueError(f"'{self.path}' is a program and not only weights. `trust: true` runs it")
        return self


class File(Teacher):
    """A program: it gives (summary, patches), either alone, a map (B, D, h, w), or tokens (B, prefix + N, D)."""

    api_version = 1
    Options = Options
    licence = "as its author states it"

    def spec(self, options: Options) -> TeacherSpec:
        measured = _measured(options)  # pyright: ignore[reportArgumentType]  frozen options have a hash
        return measured.spec(options.mean, options.std, options.licence)

    def build(self, options: Options) -> Any:
        import torch
        from unicscale_teachers.programs import Program

        module = Program(_loaded(options.path), options.prefix)
        return module.to("meta") if torch.get_default_device().type == "meta" else module

    def own_state(self, options: Options) -> dict[str, Any]:
        from unicscale_teachers.programs import Program

        return Program(_loaded(options.path), options.prefix).state_dict()


@lru_cache(maxsize=8)
def _measured(options: Options) -> Measured:
    import torch

    with torch.device("meta"):
        module = File().build(options).eval()
    return measure(module, options.size, f"'path: {options.path}'")


def _loaded(path: str) -> Any:
    """The program, on the host; a file that is neither kind is refused."""
    from unicscale_teachers.programs import load

    file = Path(path).expanduser()
    if not file.is_file():
        raise TeacherError(f"'path: {path}': {file.resolve()} does not exist.")
    try:
        return load(file)
    except Exception as problem:  # a damaged or another kind of file trips over anything
        raise TeacherError(
            f"'path: {path}': neither a program of torch.export nor TorchScript: {first_line(problem)}"
        ) from problem
