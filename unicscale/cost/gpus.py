"""GPU types by name: what `plan` counts hours and room with."""

from __future__ import annotations

from typing import NamedTuple

from unicscale.errors import RecipeError, nearest


class Gpu(NamedTuple):
    """As its maker publishes it."""

    name: str
    flops: float  # peak of dense bf16 matrix products that add in fp32, FLOP/s
    gib: float  # memory; drivers show a few per cent less


# NVIDIA's data sheets of A100 80GB SXM, H100 SXM, H200 SXM, HGX B200 and L40S, and its paper on Ada (RTX 4090);
# where a sheet gives the number with sparsity, half of it
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100", 312e12, 80.0),
        Gpu("H100", 989e12, 80.0),
        Gpu("H200", 989e12, 141.0),
        Gpu("B200", 2250e12, 180.0),
        Gpu("L40S", 362e12, 48.0),
        Gpu("4090", 165e12, 24.0),
    )
}
# large bf16 products reach 790 TFLOP/s on an H200, and a good run 60 % of that; taken to be the same share elsewhere
SHARE = 0.6 * 790e12 / GPUS["H200"].flops


def named(word: str) -> Gpu:
    """The type that people call `a100`, `RTX 4090` or `NVIDIA H100`."""
    short = word.upper().replace("NVIDIA", "").replace("RTX", "").strip(" -_")
    if short not in GPUS:
        raise RecipeError(
            f"--gpu {word} is not known.{nearest(short, GPUS)} There are: {', '.join(GPUS)}.\n"
            "  For another one say --memory GIB; the hours are then those of an H200."
        )
    return GPUS[short]
