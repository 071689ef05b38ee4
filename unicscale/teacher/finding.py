"""A teacher plug-in: what it must say of itself, and how one is found without importing the others."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from unicscale.contracts import Features, TeacherSpec
from unicscale.errors import RecipeError, TeacherError, nearest
from unicscale.recipe.sections import TeacherSection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unicscale.teacher.frozen import Frozen

API_VERSION = 1
GROUP = "unicscale.teachers"
Place = Callable[[tuple[str | int, ...]], str]


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
        """Tokens of images that are already in this teacher's own normalisation; row-major patches."""
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


@dataclass(frozen=True, slots=True)
class Listed:
    """One installed plug-in, known by its metadata alone."""

    name: str
    distribution: str
    version: str
    target: str  # module:Class

    def __str__(self) -> str:
        return f"'{self.name}' of {self.distribution} {self.version}"


def listing() -> list[Listed]:
    """Every installed teacher plug-in, by name; imports none of them."""
    found = {
        Listed(point.name, point.dist.name, point.dist.version, point.value)
        for point in importlib.metadata.entry_points(group=GROUP)
        if point.dist is not None
    }
    return sorted(found, key=lambda listed: (listed.name, listed.distribution))


def find(name: str, section: TeacherSection | None = None) -> Teacher:
    """The plug-in a recipe's teacher asks for, imported alone; TeacherError where that cannot be."""
    section = section or TeacherSection()
    if section.adapter is not None:
        return _accept(_from_file(section.adapter), f"the adapter {section.adapter}")
    listed = select(section.plugin or name)
    if listed.distribution != "unicscale":
        from unicscale.teacher.importing import probe

        probe(listed.target, str(listed))
    return _accept(_guarded(lambda: _entry(listed.target), str(listed)), str(listed))


def select(wanted: str) -> Listed:
    """The one installed plug-in of this name (`name` or `distribution:name`)."""
    distribution, _, name = wanted.rpartition(":")
    installed = listing()
    matches = [x for x in installed if x.name == name and distribution in ("", x.distribution)]
    if not matches:
        names = sorted({x.name for x in installed})
        raise TeacherError(
            f"no teacher plug-in is called '{wanted}'.{nearest(name, names)}\n"
            f"  installed: {', '.join(names)}. `unicscale teachers list` shows where each comes from."
        )
    if len(matches) > 1:
        owners = " and ".join(f"{x.distribution} {x.version}" for x in matches)
        raise TeacherError(
            f"two plug-ins are called '{name}': {owners}.\n"
            f"  Say which: `plugin: {matches[0].distribution}:{name}` or `plugin: {matches[1].distribution}:{name}`."
        )
    return matches[0]


def options_of(plugin: Teacher, name: str, given: dict[str, Any], place: Place = lambda where: "") -> Any:
    """The plug-in's own options, validated; RecipeError names the key and what the plug-in takes.

    `place` gives the `file:line` of a key, where a recipe file is at hand.
    """
    try:
        return plugin.Options(**given)
    except ValidationError as problem:
        lines = dict.fromkeys(filter(None, (_say(error, plugin, name, given, place) for error in problem.errors())))
        takes = f"  '{name}' takes: {', '.join(plugin.Options.model_fields) or 'no options of its own'}"
        raise RecipeError("\n".join([*lines, takes])) from problem


def _say(error: Any, plugin: Teacher, name: str, given: dict[str, Any], place: Place) -> str:
    """One mistake in a person's words; pydantic also reports every branch of a union that the value is not."""
    path, value = [], given
    for depth, part in enumerate(error["loc"], start=1):
        named = isinstance(value, dict) and (
            part in value or (error["type"] == "missing" and depth == len(error["loc"]))
        )
        if named:  # the other parts name branches of a union
            path.append(part)
            value = value.get(part, {})
    where = ("teachers", name, *path)
    at = f"{place(where)}: " if place(where) else ""
    key = f"{at}'{'.'.join(map(str, where))}'"
    if error["type"] == "extra_forbidden":
        return f"{key} is not a key.{nearest(str(path[-1]), plugin.Options.model_fields)}"
    if error["type"] == "missing":
        return f"{key} is missing."
    if error["type"] == "value_error":
        return f"{key}: {error['ctx']['error']}"
    words = literals(plugin.Options.model_fields[str(path[0])].annotation) if path else ()
    if words and len(path) == 1:
        if isinstance(value, dict):
            return ""
        return f"{key} is '{value}'.{nearest(str(value), words)} It takes: {', '.join(words)}"
    return f"{key}: {error['msg']}, not {error['input']!r}"


def literals(annotation: Any) -> tuple[str, ...]:
    """The names among what an option takes."""
    inside = get_args(annotation)
    if get_origin(annotation) is Literal:
        return tuple(value for value in inside if isinstance(value, str))
    return tuple(name for part in inside for name in literals(part))


def open_teacher(
    name: str, weights: str | Path | None = None, options: Mapping[str, Any] | None = None, *, device: str = "cpu"
) -> Frozen:
    """One teacher by itself, frozen, in eval mode and fp32: takes uint8 or its own normalised floats, gives Features.

    `options` are the keys of its section in a recipe; `weights`, where given, wins over those among them.
    For evaluation the result also offers `classify(summary)`, `embed(summary)`, `embed_text(tokens)` and
    `tokenize(texts)`, where the plug-in has them; MetaCLIP and CLIP carry the text tower with `options={"text": True}`.
    """
    from unicscale.teacher.frozen import open_frozen

    said = dict(options or {}) if weights is None else {**(options or {}), "weights": str(weights)}
    section = TeacherSection.model_validate(said)
    return open_frozen(name, section, device)


def _entry(target: str) -> type[Teacher]:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _from_file(adapter: str) -> type[Teacher]:
    path, _, attribute = adapter.rpartition(":")
    file = Path(path).expanduser()
    if not path or not attribute.isidentifier():
        raise TeacherError(f"'adapter: {adapter}' should read ./file.py:Class.")
    if not file.is_file():
        raise TeacherError(f"'adapter: {adapter}': {file.resolve()} does not exist.")
    from unicscale.teacher.importing import probe

    probe(adapter, f"the adapter {adapter}")
    return _guarded(lambda: load_file(file, attribute), f"the adapter {adapter}")


def load_file(file: Path, attribute: str) -> type[Teacher]:
    """A class out of a file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"unicscale_adapter_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, attribute)


def _guarded(imports: Any, what: str) -> Any:
    # SystemExit too: a plug-in that leaves at import must not take the run's exit code with it
    try:
        return imports()
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise TeacherError(
            f"the teacher plug-in {what} cannot be imported: {type(problem).__name__}: {problem}\n"
            "  Other teachers are unaffected. Mend or uninstall it, or name another in the recipe."
        ) from problem


def _accept(kind: type[Teacher], what: str) -> Teacher:
    version = getattr(kind, "api_version", None)
    if version != API_VERSION:
        raise TeacherError(
            f"the teacher plug-in {what} was written for plug-in API {version}; this unicscale speaks {API_VERSION}.\n"
            "  Install the version of it that fits, or set `api_version` after reading docs/teacher.md."
        )
    if not (isinstance(kind, type) and issubclass(kind, Teacher)):
        raise TeacherError(f"the teacher plug-in {what} is no subclass of unicscale.teacher.Teacher.")
    if missing := " and ".join(f"{name}()" for name in sorted(kind.__abstractmethods__)):
        raise TeacherError(
            f"the teacher plug-in {what} has no {missing}.\n  docs/teacher.md shows what each one answers."
        )
    return kind()
