"""Which encoders can teach: every timm family, transformers' vision types, open_clip's towers, with random weights.

    python benchmarks/coverage.py --library timm               asks, runs, compares; adds rows to the results
    python benchmarks/coverage.py --library hf --only clip beit
    python benchmarks/coverage.py --table                      writes the results into docs/teachers.md

An encoder is a teacher if its tokens have the shapes that its spec promises, are finite, are those of the library's own
forward on the same pixels, and come row by row, at its native size and at a larger one where it takes any.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import sys
import time
import warnings
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.coverage_models import hf_models, open_clip_models, timm_models
from unicscale.contracts import Features
from unicscale.errors import TeacherError, UserError
from unicscale.recipe.sections import TeacherSection
from unicscale.teacher.described import describe
from unicscale.teacher.frozen import Frozen, open_teacher

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "coverage_teachers.json"
PAGE = ROOT / "docs" / "teachers.md"
MARKS = ("<!-- coverage: begin -->", "<!-- coverage: end -->")
LIBRARIES = {"timm": timm_models, "hf": hf_models, "open_clip": open_clip_models}
CLOSE = 1e-4  # of the largest value
LARGEST = 7e8  # parameters; larger towers are described on meta and not run


def main() -> None:
    """Ask, compare, keep; or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=LIBRARIES)
    parser.add_argument("--only", nargs="*", help="families, types or models; asked again even where a row is there")
    parser.add_argument("--table", action="store_true", help="write docs/teachers.md from the results")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if given.library:
        for family, options in LIBRARIES[given.library]().items():
            known = any((r["library"], r["family"]) == (given.library, family) for r in rows)
            if family not in given.only if given.only else known:
                continue
            rows = [r for r in rows if (r["library"], r["family"]) != (given.library, family)]
            rows.append(row(given.library, family, options))
            print(rows[-1], flush=True)
            RESULTS.write_text("[\n" + ",\n".join(json.dumps(r) for r in sorted(rows, key=order)) + "\n]\n")
    if given.table:
        write_page(sorted(rows, key=order))


def order(one: dict[str, Any]) -> tuple[str, str]:
    """Libraries together, families by name."""
    return one["library"], one["family"].lower()


# --- one encoder ----------------------------------------------------------------------------------


def row(library: str, family: str, options: dict[str, Any]) -> dict[str, Any]:
    """What one encoder is as a teacher; a traceback and a silent error are what this looks for."""
    started = time.monotonic()
    one: dict[str, Any] = {"library": library, "family": family, "model": options.get("model", family)}
    try:
        one |= verdict(library, options)
    except UserError as problem:
        one |= {"teacher": "no", "reason": str(problem).splitlines()[0]}
    except Exception as problem:  # the point of the exercise
        one |= {"teacher": "traceback", "reason": f"{type(problem).__name__}: {str(problem)[:200]}"}
    gc.collect()
    return one | {"seconds": round(time.monotonic() - started, 1)}


def verdict(library: str, options: dict[str, Any]) -> dict[str, Any]:
    """Shapes, sizes, and whether the tokens are the library's."""
    section = TeacherSection.model_validate({**options, "weights": "random"})
    described = describe(library, section)
    spec = described.spec
    sizes = f"{spec.size}" if spec.fixed_size else f"any × {spec.multiple or spec.patch}"
    said = {
        "teacher": "yes", "summary": spec.widths.summary, "patches": spec.widths.patches, "stride": spec.patch,
        "native": spec.size, "sizes": sizes,
    }  # fmt: skip
    with torch.device("meta"):
        count = sum(p.numel() for p in described.plugin.build(described.options).parameters())
    said["million"] = round(count / 1e6, 1)
    if count > LARGEST:
        return {**said, "compared": "on meta only"}
    teacher = open_teacher(library, "random", options)
    sides = [spec.size] if spec.fixed_size else [spec.size, spec.size + (spec.multiple or spec.patch)]
    faults = [f"{side} px: {fault}" for side in sides for fault in faults_at(teacher, library, side)]
    return {**said, "compared": "yes"} if not faults else {**said, "teacher": "silent error", "reason": faults[0]}


@torch.no_grad()
def faults_at(teacher: Frozen, library: str, side: int) -> list[str]:
    """What is wrong with its tokens at one size; nothing, it is hoped."""
    spec, faults = teacher.spec, []
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side)) - 0.5
    cells = side // spec.patch
    changed = [pixels]
    for row_, column in CORNERS:
        other = pixels.clone()
        top, left = row_ * (side - spec.patch), column * (side - spec.patch)
        other[:, :, top : top + spec.patch, left : left + spec.patch] *= -3
        changed.append(other)
    found = teacher(torch.cat(changed))
    for kind, tokens, width in zip(Features._fields, found, spec.widths, strict=True):
        if (tokens is None) != (width is None):
            return [f"{kind} are {'missing' if tokens is None else 'there, and not in the spec'}"]
        if tokens is None:
            continue
        expected = (5, width) if kind == "summary" else (5, cells**2, width)
        if tuple(tokens.shape) != expected:
            return [f"{kind} have shape {tuple(tokens.shape)}, not {expected}"]
        if not torch.isfinite(tokens).all():
            return [f"{kind} are not finite"]
    raw = own_answers(teacher, library, pixels)
    theirs = [layout for tensor in raw for layout in layouts(tensor)]
    maps = [layout for tensor in raw if tensor.ndim == 4 for layout in layouts(tensor)]
    if found.summary is not None and not any(same(found.summary[:1], t) for t in theirs):
        faults.append("the summary is none of the library's own vectors")
    if found.patches is not None:
        if not any(same(found.patches[:1], t) for t in theirs):
            faults.append("the patches are none of the library's own maps")
        elif not any(same(found.patches[:1], t) for t in maps):  # of a map the order is known, of tokens it is not
            faults += out_of_order(found.patches, cells)
    return faults


CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def out_of_order(patches: Tensor, cells: int) -> list[str]:
    """Whether the corner tokens that move with the four corners of the image are paired better in another way."""
    numbers = [row_ * (cells - 1) * cells + column * (cells - 1) for row_, column in CORNERS]
    if cells == 1:
        return []
    moved = (patches[1:] - patches[:1]).norm(dim=-1)[:, numbers]  # (4 changes, 4 corners)
    moved = moved / moved.mean(0) / (moved / moved.mean(0)).mean(1, keepdim=True)
    best = max(permutations(range(4)), key=lambda order_: float(moved[range(4), order_].sum()))
    return [] if best == (0, 1, 2, 3) else [f"the corners of the image move its corner tokens in the order {best}"]


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Equal to within rounding."""
    return ours.shape == theirs.shape and float((ours - theirs).abs().max()) <= CLOSE * float(theirs.abs().max())


# --- the library's own answers --------------------------------------------------------------------


def own_answers(teacher: Frozen, library: str, pixels: Tensor) -> list[Tensor]:
    """Every vector and map that the library's own code gives."""
    module: Any = teacher.module
    raw: list[Tensor] = []
    if library == "timm":
        features = type(module).forward_features(module, pixels)
        pooled = type(module).forward_head(module, features)
        raw += [*flat(features), *flat(pooled), *flat(timm_maps(teacher, pixels))]
    elif library == "hf":
        from unicscale_teachers.hf_tokens import _inputs

        own = type(module).forward.__get__(module)
        raw += flat(dict(own(**_inputs(module.config, inspect.signature(own).parameters, pixels))))
    else:
        whole = module.visual
        raw += flat(whole(pixels))
        raw += flat(whole.forward_intermediates(pixels, normalize_intermediates=True))
        if hasattr(whole, "trunk"):
            raw += flat(whole.trunk.forward_features(pixels))
    return raw


def timm_maps(teacher: Frozen, pixels: Tensor) -> Any:
    """The last map of timm's feature extractor, a third interface, where the model has one."""
    import timm

    options: Any = teacher.options
    try:
        extractor = timm.create_model(options.model, features_only=True, out_indices=(-1,), **options.settings).eval()
        missing = extractor.load_state_dict(teacher.module.state_dict(), strict=False).missing_keys
    except Exception:  # not every family has it; then there is the interface that the plug-in uses too
        missing = [""]
    if not missing:
        return extractor(pixels)
    return type(teacher.module).forward_intermediates(teacher.module, pixels, intermediates_only=True)


def flat(said: Any) -> list[Tensor]:
    """All tensors inside."""
    if isinstance(said, Tensor):
        return [said]
    inside = said.values() if isinstance(said, dict) else said if isinstance(said, list | tuple) else ()
    return [tensor for part in inside for tensor in flat(part)]


def layouts(tensor: Tensor) -> list[Tensor]:
    """As vector, tokens with up to ten leading ones cut off, or a map with its channels first or last."""
    if tensor.ndim == 2:
        return [tensor]
    if tensor.ndim == 3:
        return [tensor[:, 0], *(tensor[:, cut:] for cut in range(11))]
    if tensor.ndim == 4:
        return [tensor.flatten(2).transpose(1, 2), tensor.flatten(1, 2), tensor.flatten(1), tensor.mean((2, 3))]
    return []


# --- the page -------------------------------------------------------------------------------------


def write_page(rows: list[dict[str, Any]]) -> None:
    """Between the two marks of docs/teachers.md."""
    text = PAGE.read_text()
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n{table(rows)}{MARKS[1]}{after}")


def table(rows: list[dict[str, Any]]) -> str:
    """One table for each library, and a count before it."""
    lines: list[str] = []
    for library in LIBRARIES:
        mine = [r for r in rows if r["library"] == library]
        yes = sum(r["teacher"] == "yes" for r in mine)
        bad = sum(r["teacher"] in ("traceback", "silent error") for r in mine)
        lines += [f"### {library}: {yes} of {len(mine)}, {bad} tracebacks or silent errors", ""]
        lines += ["| family | tried | teacher | summary | patches | stride | sizes |", "|---|---|---|---|---|---|---|"]
        for r in mine:
            name = "" if r["model"] == r["family"] else f"`{r['model']}`"
            numbers = [r.get(key) or "" for key in ("summary", "patches", "stride", "sizes")]
            verdict_ = r["teacher"] if r["teacher"] == "yes" else f"{r['teacher']}: {r['reason']}".replace("|", "/")
            lines.append(f"| `{r['family']}` | {name} | {verdict_} | " + " | ".join(map(str, numbers)) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except TeacherError as problem:
        raise SystemExit(str(problem)) from None
