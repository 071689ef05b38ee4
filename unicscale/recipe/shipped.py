"""Where the recipes lie that come with the program: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_CHECKOUT = _PACKAGE.parent / "recipes"
FOLDER = _CHECKOUT if _CHECKOUT.is_dir() else _PACKAGE / "recipes"
