"""What a section of `teachers:` comes to: its plug-in, the options, what it says of itself, and which file it reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicscale.contracts import Features, TeacherSpec, Widths
from unicscale.errors import RecipeError, TeacherError
from unicscale.recipe.sections import TeacherSection
from unicscale.teacher import files
from unicscale.teacher.blame import named
from unicscale.teacher.finding import find
from unicscale.teacher.options import Place, options_of
from unicscale.teacher.plugin import Teacher

OUT_OF_RANGE = 2.0  # of a mean or deviation of values from 0 to 1; some scale pixels to -1..1 first


@dataclass(frozen=True, slots=True)
class Described:
    """One teacher, known but not built."""

    name: str
    section: TeacherSection
    plugin: Teacher
    options: Any
    spec: TeacherSpec

    @property
    def widths(self) -> Widths:
        """Of the tokens that are matched: those that it has, or those of them that the recipe names."""
        named = self.section.tokens or Features._fields
        of = self.spec.widths
        return Widths(*(wide if kind in named else None for kind, wide in zip(Features._fields, of, strict=True)))

    @property
    def brings_its_own(self) -> bool:
        """Whether `weights: auto` means what the plug-in reads in its own way, and no file."""
        if self.section.weights != "auto" or type(self.plugin).own_state is Teacher.own_state:
            return False
        no_file = self.spec.weights is None and self.bundled is None
        return no_file or self.plugin.own_state(self.options) is not None  # with some options only: it has to be read

    @property
    def file(self) -> files.Wanted | None:
        """Where its weights lie or will lie; None: its own, or random. TeacherError where there is no such file."""
        return None if self.section.weights == "random" or self.brings_its_own else self.wanted

    @property
    def wanted(self) -> files.Wanted:
        """The file that `weights:` means, were there nothing else; TeacherError where there is no such file."""
        return files.wanted(self.section.weights, self.spec.weights, self.bundled, self.name)

    @property
    def bundled(self) -> Path | None:
        """Weights that travel with the plug-in."""
        return self.plugin.bundled(self.options)


def describe(name: str, section: TeacherSection, place: Place = lambda where: "") -> Described:
    """Find the plug-in, and let it read its options and describe itself; refuses what cannot be understood."""
    try:
        plugin = find(name, section)
    except TeacherError as problem:
        key = next((key for key in ("adapter", "plugin") if getattr(section, key) is not None), "")
        at = place(("teachers", name, key) if key else ("teachers", name))
        raise type(problem)(f"{at}: {problem}" if at else str(problem)) from problem
    with named(name, plugin, "Options"):
        options = options_of(plugin, name, section.options, place)
    with named(name, plugin, "spec"):
        spec = plugin.spec(options)
    if max(map(abs, (*spec.mean, *spec.std))) > OUT_OF_RANGE:
        raise TeacherError(
            f"teacher '{name}': mean {spec.mean} and std {spec.std} are of values from 0 to 255.\n"
            "  Those of values from 0 to 1 are meant: divide them by 255."
        )
    for kind in section.tokens or ():
        if kind not in spec.tokens:
            at = place(("teachers", name, "tokens"))
            raise RecipeError(
                f"{f'{at}: ' if at else ''}'teachers.{name}.tokens': this teacher has no {kind}, only "
                f"{' and '.join(spec.tokens)}."
            )
    return Described(name, section, plugin, options, spec)
