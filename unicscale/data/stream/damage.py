"""Images that cannot be decoded: replaced, counted, named, and too many of them stop the run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from unicscale.errors import DataError

Bad = dict[tuple[int, int], str]  # (data set, number) -> what is wrong with it


class Damage:
    """What was replaced so far, on any rank, and what this one has met since the ranks last counted together."""

    def __init__(self, allowed: float, images: int, rank: int) -> None:
        self.limit, self.rank = int(allowed * images), rank
        self.bad: Bad = {}
        self._found: Bad = {}

    def note(self, bad: Bad) -> None:
        """Keep what this rank had to replace until the end of the step."""
        self._found |= {place: text for place, text in bad.items() if place not in self.bad}

    @property
    def unjudged(self) -> bool:
        """Whether this rank has met images that nobody has counted yet."""
        return bool(self._found)

    def judge(self, everybody: Callable[[Bad], list[Bad]] = lambda mine: [mine]) -> None:
        """Count the replaced images of a whole step; too many stop the run.

        The ranks of a world call this together after a step in which any of them has `unjudged`, with `everybody` to
        exchange what they found: then a run ends after the same step, with the same words, however many ranks share
        it. Without such a call the next step begins with it, over this rank's images alone.
        """
        found = {place: text for rank in everybody(self._found) for place, text in rank.items()}
        new = [found[place] for place in sorted(found.keys() - self.bad.keys())]
        self.bad |= found
        self._found = {}
        if self.rank == 0:
            for text in new:
                tell(f"data: replaced {text}")
        if len(self.bad) > self.limit:
            some = "\n".join(f"  {self.bad[place]}" for place in sorted(self.bad)[:5])
            raise DataError(
                f"{len(self.bad)} images cannot be decoded, data.max_bad allows {self.limit}:\n{some}\n"
                "  Mend or remove them (`unicscale pack` lists them all), or raise data.max_bad."
            )


def tell(text: str) -> None:
    """To the run's log, or to the terminal where no run has opened one."""
    say = logging.getLogger("unicscale")
    if say.handlers:
        say.info(text)
    else:
        print(text, file=sys.stderr, flush=True)
