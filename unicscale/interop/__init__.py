"""Models in, from wherever they are: runs, exports, our safetensors, official files, teachers; all behind `load`.

in    MODEL -> sources: which path or name is meant -> native | foreign | unic: read safely, held against its tensors
      -> Opened -> loading: frozen, on pixels or normalised floats
out   run -> exporting -> exports: a file per target -> card -> verify in a fresh process -> one rename
"""

from __future__ import annotations

from unicscale.interop.loading import Model, load

__all__ = ["Model", "load"]
