"""Models in, from wherever they are: runs, exports, our safetensors, official files, teachers; all behind `load`."""

from __future__ import annotations

from unicscale.interop.loading import Model, load

__all__ = ["Model", "load"]
