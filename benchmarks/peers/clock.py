"""What a run is measured by: when each optimiser step was over, and the most memory that was ever held."""

from __future__ import annotations

import json
import os
import resource
import time
from typing import Any, NamedTuple

MARK = "measured: "


class Asked(NamedTuple):
    """One run, as the parent says it to the child."""

    images: str
    teachers: int  # ViT-S each, with values by chance
    size: int  # pixels
    batch: int
    steps: int
    dtype: str  # fp32 | bf16
    out: str

    @classmethod
    def from_argument(cls, text: str) -> Asked:
        """What `dumped` wrote."""
        return cls(**json.loads(text))

    def dumped(self) -> str:
        """For a command line."""
        return json.dumps(self._asdict())


class Clock:
    """Ticks after every optimiser step; the last one prints what was measured and ends the process."""

    def __init__(self, asked: Asked) -> None:
        self.asked, self.ticks = asked, [float(os.environ["PEERS_BEGAN"])]

    def tick(self, *_: Any) -> None:
        """One step is over."""
        self.ticks.append(time.time())
        if len(self.ticks) <= self.asked.steps:
            return
        took = [b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)]
        steady = took[2:]  # the first loads and compiles, the second still fills the loader
        held = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        found = {"start_s": took[0], "images_per_s": len(steady) * self.asked.batch / sum(steady), "gib": held / 2**20}
        print(MARK + json.dumps(found), flush=True)
        os._exit(0)
