"""From a section to the object that it describes: the section carries the path of its class, as text.

So a recipe is checked without importing what it names, and whatever has kinds (projectors, balances, engines, readers,
trackers) is entered in one place, beside the keys that a recipe may say about it.
"""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from typing import Any


def build(section: Any, *offered: Any, **by_name: Any) -> Any:
    """What a section describes, made of the section and of what the room offers it; `section.builds` is the path."""
    return imported(section.builds)(section, *offered, **by_name)


def imported(path: str) -> Any:
    """The object behind `package.module:Name`, as entry points are written."""
    module, _, name = path.partition(":")
    return reduce(getattr, name.split("."), import_module(module))
