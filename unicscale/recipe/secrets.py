"""What must not be written down: recipes are copied into run folders, checkpoints, jobs, reports, and mailed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel

from unicscale.errors import RecipeError

# names of variables (and of an address's parameters) whose values nobody else should read
SECRET = re.compile(
    r"KEY(S?_|S?$)|TOKEN|PASS(_|$|W|PHRASE)|SECRET|CREDENTIAL|AUTH(?!OR(_|S|$|ITY))|BEARER|COOKIE|WEBHOOK"
    r"|CONNECTION_?STRING|(^|_)(DSN|JWT|PAT)(_|$)|(^|[-_])SIG(NATURE)?$",
    re.IGNORECASE,
)
LOGIN = re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s@]*:[^/\s@]+@", re.IGNORECASE)  # scheme://user:password@
SHORTEST = 8  # characters: shorter values stand in any text by chance


def refuse_secrets(*written: BaseModel) -> None:
    """RecipeError where a value of the environment that should stay there stands in what would be written to files."""
    texts = [text for section in written for text in leaves(section.model_dump(mode="json"))]
    for name, value in os.environ.items():
        if is_secret(name, value) and any(value in text for text in texts):
            raise RecipeError(
                f"the value of ${name} stands in the recipe or the launch options, and would be written to files.\n"
                f"  Leave it in the environment: jobs inherit it."
            )
    for text in texts:
        if LOGIN.search(text):
            raise RecipeError(
                f"'{without_secrets(text)}' stands in the recipe with a password, which would be written to files.\n"
                "  Leave the password out: a file that was fetched is found by the rest of its address."
            )


def is_secret(name: str, value: str) -> bool:
    """By its name, or because it is an address with a password in it; a path that is there is none."""
    if len(value) < SHORTEST or os.path.exists(value):
        return False
    return bool(SECRET.search(name) or LOGIN.search(value))


def without_secrets(url: str) -> str:
    """An address as it may be printed and noted: without a login, and without the parameters that prove one."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    query = "&".join(pair for pair in parts.query.split("&") if not SECRET.search(pair.partition("=")[0]))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query)) if parts.netloc else url


def leaves(tree: Any) -> Iterator[str]:
    """Every key and value as it was meant: YAML may quote, fold and escape it."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield str(key)
            yield from leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from leaves(value)
    else:
        yield str(tree)
