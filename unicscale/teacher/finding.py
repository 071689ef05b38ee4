"""How a plug-in is found by its name, without importing the others."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from unicscale.errors import TeacherError, nearest
from unicscale.recipe.sections import TeacherSection
from unicscale.teacher.importing import from_entry_point, from_file
from unicscale.teacher.plugin import API_VERSION, Teacher

GROUP = "unicscale.teachers"


@dataclass(frozen=True, slots=True)
class Listed:
    """One installed plug-in, known by its metadata alone."""

    name: str
    distribution: str
    version: str
    target: str  # module:Class

    def __str__(self) -> str:
        return f"'{self.name}' of {self.distribution} {self.version}"


def listing(called: str = "") -> list[Listed]:
    """Every installed teacher plug-in, by name, or those `called` so; imports none of them."""
    found = {
        Listed(point.name, point.dist.name, point.dist.version, point.value)
        for point in importlib.metadata.entry_points(group=GROUP)
        # the name before the distribution, whose metadata are a file to be parsed
        if called in ("", point.name) and point.dist is not None
    }
    return sorted(found, key=lambda listed: (listed.name, listed.distribution))


def find(name: str, section: TeacherSection | None = None) -> Teacher:
    """The plug-in a recipe's teacher asks for, imported alone; TeacherError where that cannot be."""
    section = section or TeacherSection()
    adapter = name if section.adapter is None and section.plugin is None and is_adapter(name) else section.adapter
    if adapter is not None:
        return _accept(from_file(adapter), f"the adapter {adapter}")
    listed = select(section.plugin or name)
    ours = listed.distribution == "unicscale"
    return _accept(from_entry_point(listed.target, str(listed), trusted=ours), str(listed))


def is_adapter(name: str) -> bool:
    """Whether it is `./file.py:Class`, which the commands take in place of a name; names in recipes have no dots."""
    file, _, of_class = name.rpartition(":")
    return file.endswith(".py") and of_class.isidentifier()


def select(wanted: str) -> Listed:
    """The one installed plug-in of this name (`name` or `distribution:name`)."""
    distribution, _, name = wanted.rpartition(":")
    matches = [x for x in listing(name) if distribution in ("", x.distribution)]
    if not matches:
        names = sorted({x.name for x in listing()})
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
