"""`--push-to hf:ORG/NAME`: whether the hub can be reached is known before any work, then a folder goes there."""

from __future__ import annotations

import re
from pathlib import Path

from unicscale.errors import RecipeError

PLACE = re.compile(r"hf:([\w.-]+/[\w.-]+)")


def repository(place: str) -> str:
    """ORG/NAME of `hf:ORG/NAME`; RecipeError where nothing could be pushed from here."""
    named = PLACE.fullmatch(place)
    if not named:
        raise RecipeError(f"--push-to {place}: it is written hf:ORG/NAME.")
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as problem:  # the client lets through whatever its transport raises
        raise RecipeError(
            f"--push-to {place}: {_first(problem)}\n"
            "  Nothing was done. It takes a network and a token that may write: `hf auth login`, or HF_TOKEN."
        ) from None
    return named[1]


def push(folder: Path, repository: str) -> str:
    """The whole folder, as one commit; its address."""
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repository, exist_ok=True)
        return str(HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="Export of unicscale"))
    except Exception as problem:
        raise RecipeError(
            f"--push-to hf:{repository}: {_first(problem)}\n  The export itself is whole, in {folder}."
        ) from None


def _first(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
