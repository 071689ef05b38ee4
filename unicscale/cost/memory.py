"""Bytes on the fullest rank, by component, by formula; tests/test_cost.py holds them against what torch keeps."""

from __future__ import annotations

from torch import nn

from unicscale.cost.flops import width_of
from unicscale.cost.shapes import Shapes, largest, numbers
from unicscale.engine.placement import BUCKETS, place
from unicscale.engine.units import units
from unicscale.recipe.sections import Data, EngineSection, TeacherSection

# of a block, per token and width: its input, two norms' outputs, q k v, attention's output, the middle, and the MLP's
# hidden layer before and after GELU: 1 + 2 + 3 + 1 + 1 + 4 + 4
BLOCK = 16
LOSS = 12  # bytes per number of an answer: answer, target and their product in fp32


def gathers_all(shapes: Shapes, engine: EngineSection, device: int | None) -> bool:
    """Whether a rank holds the whole trained model while it computes."""
    if engine.kind != "fsdp2" or engine.reshard != "auto":
        return engine.kind == "plain" or (engine.kind == "fsdp2" and not engine.reshard)
    gathered = (numbers(shapes.trunk) + numbers(shapes.projector)) * shapes.small
    return place("auto", gathered, device) == "none"


def shards(engine: EngineSection, ranks: int) -> int:
    """Over how many ranks one copy is spread."""
    return 1 if engine.kind == "plain" else ranks // (engine.replicate if engine.kind == "fsdp2" else 1)


def weights(shapes: Shapes, engine: EngineSection, ranks: int, device: int | None, accumulates: bool) -> dict[str, int]:
    """Master weights, what is gathered or rounded beside them, gradients, moments."""
    total, small = numbers(shapes.trunk) + numbers(shapes.projector), shapes.small
    whole = gathers_all(shapes, engine, device)
    unit = largest([*units(shapes.trunk), *([shapes.projector] if whole else units(shapes.projector))])
    share = shards(engine, ranks)
    low = small < 4
    if engine.kind == "plain":
        beside, gradients = total * small * low, 4 * total
    elif engine.kind == "fsdp2":
        beside = total * small if whole else 2 * unit * small
        in_flight = (1 if whole else 2) * unit * (4 + small * low)  # unreduced, and their copy in fp32
        gradients = 4 * total if accumulates else 4 * total // share + in_flight
    else:
        beside = total * small * low // share + 2 * unit * small
        bucket = BUCKETS["cpu" if device is None else "cuda"]
        gradients = 4 * total // share + unit * (4 + small) + 4 * bucket
    on_host = engine.kind == "zero3" and engine.offload.optimizer
    return {
        "weights, fp32": 0 if on_host else 4 * total // share,
        f"weights, gathered or {engine.dtype}": beside,
        "gradients": gradients,
        "optimiser": 0 if on_host else 8 * total // share,
        "average": 4 * total // share if engine.ema else 0,
    }


def teachers(
    shapes: Shapes, sections: dict[str, TeacherSection], engine: EngineSection, ranks: int, device: int | None
) -> tuple[dict[str, str], dict[str, int]]:
    """Where each teacher goes, and what it takes there."""
    placement, held, parts = {}, {}, shards(engine, ranks)
    for name, section in sections.items():
        size, one = shapes.teacher_bytes[name], shapes.teachers[name]
        placement[name] = "none" if engine.kind == "plain" else place(section.shard, size, device)
        gathered = 2 * largest(units(one)) * size // numbers(one)
        held[f"teacher {name}"] = size // parts + gathered if placement[name] == "full" and parts > 1 else size
    return placement, held


def activations(shapes: Shapes, size: int, checkpointing: str, *, fused: bool = False) -> dict[str, int]:
    """What one image keeps until backward, and what backward works with on top; bytes."""
    trunk, small, tokens = shapes.trunk, shapes.small, shapes.tokens(size)
    block = BLOCK * trunk.width * tokens * small
    # fused, only what stands before GELU is kept, whether or not the ladder is to be recomputed
    rungs = [rung(unit, tokens, 1 if fused else 2) * small for unit in units(shapes.projector)]
    each = [one.widths for one in shapes.teachers.values()]
    answers = LOSS * sum((w.summary or 0) + (tokens - trunk.prefix) * (w.patches or 0) for w in each)
    of_blocks, of_ladder = checkpointing in ("blocks", "full"), checkpointing in ("ladder", "full")
    kept = trunk.depth * (trunk.width * tokens * small if of_blocks else block)
    return {
        "activations, student": kept + (block if of_blocks else 0) + 3 * size**2 * small,
        "activations, ladder": max(rungs) if of_ladder and not fused else sum(rungs),
        "activations, loss": answers,
    }


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
    return (data.ahead + 1) * micro * 3 * size**2
