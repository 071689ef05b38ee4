"""Bytes on the fullest rank, by component, by formula; tests/test_cost.py holds them against what torch keeps."""

from __future__ import annotations

from torch import nn

from unicscale.cost.flops import width_of
from unicscale.cost.meta import ROOT, measured
from unicscale.cost.shapes import Shapes, largest, numbers
from unicscale.engine import engine_of
from unicscale.engine.facts import Held, Trained
from unicscale.engine.units import units
from unicscale.recipe.sections import Data, EngineSection, TeacherSection
from unicscale.student.trunk import Trunk
from unicscale.student.trunk.plain import PlainViT

# of a block, per token and width: its input, two norms' outputs, q k v, attention's output, the middle, and the MLP's
# hidden layer before and after GELU: 1 + 2 + 3 + 1 + 1 + 4 + 4
BLOCK = 16
LOSS = 12  # bytes per number of an answer: answer, target and their product in fp32


def gathers_all(shapes: Shapes, engine: EngineSection, device: int | None) -> bool:
    """Whether a rank holds the whole trained model while it computes."""
    return engine_of(engine).gathers(engine, total(shapes) * shapes.small, device)


def total(shapes: Shapes) -> int:
    """Parameters of the student, its projector included."""
    return numbers(shapes.trunk) + numbers(shapes.projector)


def weights(shapes: Shapes, engine: EngineSection, ranks: int, device: int | None, accumulates: bool) -> dict[str, int]:
    """Master weights, what is gathered or rounded beside them, gradients, moments."""
    held = held_by(shapes, engine, ranks, device, accumulates)
    masters = 4 * total(shapes) // engine_of(engine).parts(engine, ranks)
    moments = 8 * total(shapes) // engine_of(engine).parts(engine, ranks)
    return {
        "weights, fp32": 0 if held.on_host else masters,
        f"weights, gathered or {engine.dtype}": held.beside,
        "gradients": held.gradients,
        "optimiser": 0 if held.on_host else moments,
        "average": masters if engine.ema else 0,
    }


def held_by(shapes: Shapes, engine: EngineSection, ranks: int, device: int | None, accumulates: bool) -> Held:
    """What the recipe's engine says of itself."""
    blocks = units(shapes.trunk)
    unit, widest = largest([*blocks, *units(shapes.projector)]), largest([*blocks, shapes.projector])
    model = Trained(total(shapes), unit, widest, shapes.small)
    return engine_of(engine).holds(engine, model, ranks=ranks, memory=device, accumulates=accumulates)


def teachers(
    shapes: Shapes, sections: dict[str, TeacherSection], engine: EngineSection, ranks: int, device: int | None
) -> tuple[dict[str, str], dict[str, int]]:
    """Where each teacher goes, and what it takes there."""
    placement, held, parts = {}, {}, engine_of(engine).parts(engine, ranks)
    for name, section in sections.items():
        size, one = shapes.teacher_bytes[name], shapes.teachers[name]
        placement[name] = engine_of(engine).places(section.shard, size, device)
        gathered = 2 * largest(units(one)) * size // numbers(one)
        held[f"teacher {name}"] = size // parts + gathered if placement[name] == "full" and parts > 1 else size
    return placement, held


def activations(shapes: Shapes, size: int, checkpointing: str, *, fused: bool = False) -> dict[str, int]:
    """What one image keeps until backward, and what backward works with on top; bytes."""
    trunk, small, tokens = shapes.trunk, shapes.small, shapes.tokens(size)
    # fused, only what stands before GELU is kept, whether or not the ladder is to be recomputed
    rungs = [rung(unit, tokens, 1 if fused else 2) * small for unit in units(shapes.projector)]
    each = [one.widths for one in shapes.teachers.values()]
    answers = LOSS * sum((w.summary or 0) + (tokens - trunk.prefix) * (w.patches or 0) for w in each)
    of_blocks, of_ladder = checkpointing in ("blocks", "full"), checkpointing in ("ladder", "full")
    return {
        "activations, student": of_trunk(trunk, size, of_blocks) * small + trunk.channels.count * size**2 * small,
        "activations, ladder": max(rungs) if of_ladder and not fused else sum(rungs),
        "activations, loss": answers,
    }


def of_trunk(trunk: Trunk, size: int, recomputed: bool) -> int:
    """Numbers of one image that the trunk keeps, and what the largest unit works with where units are recomputed."""
    if type(trunk) is PlainViT:
        one = trunk.width * (trunk.prefix + (size // trunk.patch) ** 2)
        return trunk.depth * one + BLOCK * one if recomputed else trunk.depth * BLOCK * one
    found = measured(trunk, size)
    if not recomputed:
        return sum(found.kept.values())
    of_units = [number for unit, number in found.kept.items() if unit != ROOT]
    return found.kept.get(ROOT, 0) + found.inputs + max(of_units, default=0)


def rung(unit: nn.Module, tokens: int, each: int) -> int:
    """Numbers that one rung keeps for one image: its input, and every hidden layer, before and after GELU (`each`)."""
    found = [m for m in unit.modules() if isinstance(m, nn.Linear)]
    if any(hasattr(m, "attn") for m in unit.modules()):  # a transformer block as projector
        return BLOCK * width_of(unit) * tokens + found[-1].in_features * tokens
    per_token = found[0].in_features
    for name, layer in unit.named_modules():
        if isinstance(layer, nn.Linear) and ".cls." not in f".{name}." and not _is_last(unit, name):
            per_token += each * layer.out_features
    return per_token * tokens


def _is_last(unit: nn.Module, name: str) -> bool:
    """Whether nothing follows this linear layer: its output is the answer, which the loss counts."""
    parent, _, own = name.rpartition(".")
    later = [n for n, m in unit.get_submodule(parent).named_children() if isinstance(m, nn.Linear)]
    return own == later[-1]


def loader(data: Data, size: int, micro: int) -> int:
    """Decoded batches that wait on the host."""
    return (data.ahead + 1) * micro * data.channels.count * size**2
