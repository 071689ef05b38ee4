"""What was measured after training, told to whoever heard of the training. Without torch, as reports are."""

from __future__ import annotations

from collections.abc import Sequence

from unicscale.errors import CheckpointError, UserError
from unicscale.ranks.terminal import tell
from unicscale.recipe import load
from unicscale.run.folder import RunFolder, facts_of
from unicscale.run.lock import alive, read
from unicscale.run.mirrors import Shown, Tracked, open_mirrors
from unicscale.run.status import tail


def show(run: RunFolder, shown: Sequence[Shown]) -> None:
    """What was measured after training, to whoever heard of the training, under the same id; it costs no result."""
    try:
        recipe, facts = load(str(run.recipe)), facts_of(run)
        if not recipe.track.asked or "id" not in facts or not shown:
            return
        lock = run.root / "lock"
        if (holder := read(lock)) is not None and alive(lock, holder):
            raise CheckpointError(
                "it still trains. Once it has ended, the same command tells them; it measures nothing twice"
            )
        at = max((record["step"] for record in tail(run.metrics)), default=0)
        for mirror in open_mirrors(
            recipe.track, Tracked(run.root, facts["id"], recipe.model_dump(mode="json", by_alias=True))
        ):
            for one in shown:
                mirror.show(one, at)
            mirror.close()
    except UserError as problem:
        tell(f"{run.root}: trackers were not told: {problem}.")
    except Exception as problem:  # theirs, or their network's
        tell(f"{run.root}: trackers were not told: {type(problem).__name__}: {problem}")
