"""What a teacher plug-in says of itself: the base class that its author reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from unicscale.contracts import Features, TeacherSpec
from unicscale.errors import TeacherError

if TYPE_CHECKING:
    from torch import Tensor, nn

API_VERSION = 1


class TeacherOptions(BaseModel):
    """What a recipe may say about a teacher beyond the keys that every teacher has; plug-ins subclass it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Teacher(ABC):
    """The base of every plug-in. It describes; the core freezes, casts, moves, shards, normalises and standardises."""

    api_version: ClassVar[int | None] = None  # the plug-in states which API it was written for
    # written as plain literals, these two are read from the source, so that listing imports nothing
    licence: ClassVar[str] = ""
    files: ClassVar[dict[str, str]] = {}  # size -> address of its official file
    small: ClassVar[dict[str, Any]] = {}  # options of an instance small enough for tests
    Options: ClassVar[type[TeacherOptions]] = TeacherOptions

    @abstractmethod
    def build(self, options: Any) -> nn.Module:
        """The module without weights; the core calls this on the meta device."""

    @abstractmethod
    def spec(self, options: Any) -> TeacherSpec:
        """Dimensions, native size, normalisation, licence: answered without torch."""

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The official file's entries under this module's keys; what it leaves out, it leaves out on purpose."""
        return state

    def leaves_out(self, options: Any) -> tuple[str, ...]:
        """Prefixes of renamed entries that these options do without, a text tower for example."""
        return ()

    def forward(self, module: nn.Module, images: Tensor) -> Features:
        """Tokens of images that are already in this teacher's own normalisation; row-major patches.

        What the spec does not name among its `tokens` is left out or None; the core holds the rest against the spec.
        """
        return module(images)

    # --- optional -------------------------------------------------------------------------------

    def bundled(self, options: Any) -> Path | None:
        """Weights that travel with the plug-in's own distribution."""
        return None

    def own_state(self, options: Any) -> dict[str, Tensor] | None:
        """The weights under the module's names, where `weights: auto` means no file but something read otherwise."""
        return None

    def golden(self, options: Any) -> Path | None:
        """A safetensors file of `images` (uint8), `summary` and `patches` that its weights must reproduce."""
        return None

    def classify(self, module: nn.Module, summary: Tensor) -> Tensor:
        """Logits of the teacher's own classifier, from its summary token: (B, D) -> (B, classes)."""
        raise TeacherError(f"{type(self).__name__} has no classifier of its own.")

    def embed(self, module: nn.Module, summary: Tensor) -> Tensor:
        """The image embedding that its text encoder understands, from its summary token: (B, D) -> (B, E)."""
        raise TeacherError(f"{type(self).__name__} has no image embedding beside a text encoder.")

    def embed_text(self, module: nn.Module, tokens: Tensor) -> Tensor:
        """The text embedding of tokenised texts: (B, L) int64 -> (B, E)."""
        raise TeacherError(f"{type(self).__name__} has no text encoder.")

    def tokenize(self, options: Any, texts: list[str]) -> Tensor:
        """Texts as the text encoder reads them: -> (B, L) int64."""
        raise TeacherError(f"{type(self).__name__} has no text encoder.")


def entry(state: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The weights inside a file that keeps them under one of `keys`; the file itself where it keeps them bare."""
    if isinstance(state.get("student"), dict):  # taking its `teacher` silently would hide which run it belongs to
        held = ", ".join(f"'{k}' ({next(iter(v))}, ...)" for k, v in state.items() if isinstance(v, dict) and v)
        raise TeacherError(
            f"this is a whole training checkpoint, with a student: it holds {held}.\n"
            "  The teacher alone is wanted: the file that its authors release for use, not for resuming."
        )
    for key in keys or ("state_dict", "model"):
        if isinstance(state.get(key), dict):
            return dict(state[key])
    return dict(state)
