"""What a student can be exported to: a new target is one file and one line here.

write (a fresh folder) -> the model card and the sums beside it -> verify in a fresh process, by the target's own
library and by the very lines that the card shows -> one rename
"""

from __future__ import annotations

from importlib import import_module

from unicscale.errors import RecipeError, nearest
from unicscale.interop.exports.target import Target

TARGETS = {
    "timm": "unicscale.interop.exports.timm:Timm",
    "hf": "unicscale.interop.exports.hf:Transformers",
    "dinov2": "unicscale.interop.exports.dinov2:DinoV2",
    "unic": "unicscale.interop.exports.unic:Unic",
    "onnx": "unicscale.interop.exports.onnx:Onnx",
    "torch": "unicscale.interop.exports.torch_export:TorchExport",
    "safetensors": "unicscale.interop.exports.safetensors:Safetensors",
}


def target_of(name: str) -> Target:
    """The target of that name; its library is imported when something is written."""
    if name not in TARGETS:
        raise RecipeError(f"--to {name}: not a target.{nearest(name, TARGETS)}\n  targets: {', '.join(TARGETS)}")
    module, _, attribute = TARGETS[name].partition(":")
    return getattr(import_module(module), attribute)()
