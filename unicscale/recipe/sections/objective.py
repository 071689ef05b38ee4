"""`standardize:` and `loss:`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from unicscale.recipe.sections.base import DURATION, DURATIONS, NonNegative, Section, Unit


class Standardize(Section):
    """How teacher tokens come to zero mean and unit deviation."""

    kind: Literal["running", "frozen", "file", "none", "phi_s"] = "running"
    momentum_start: Unit = 1.0
    momentum_end: Unit = 0.001
    freeze_after: str | int | None = None  # a duration; for `frozen` and `phi_s`
    path: str | None = None  # for `file`

    @model_validator(mode="after")
    def _complete(self) -> Standardize:
        if self.kind == "file" and not self.path:
            raise ValueError("kind 'file' needs a 'path'; `unicscale teachers stats` writes such a file")
        if self.freeze_after is not None and not DURATION.fullmatch(str(self.freeze_after)):
            raise ValueError(f"freeze_after '{self.freeze_after}' is no duration: {DURATIONS}")
        return self


class TeacherDropping(Section):
    """The worst-answered teacher always teaches; every other is dropped with probability p."""

    builds: ClassVar = "unicscale.objective.balance:TeacherDropping.of"
    kind: Literal["teacher_dropping"] = "teacher_dropping"
    p: Unit = 0.5
    per: Literal["image", "patch"] = "image"


class NoBalance(Section):
    """All teachers weigh the same."""

    builds: ClassVar = "unicscale.objective.balance:Balance.of"
    kind: Literal["none"] = "none"


class ManualWeights(Section):
    """Fixed weights (Table K)."""

    builds: ClassVar = "unicscale.objective.balance:ManualWeights.of"
    kind: Literal["manual"] = "manual"
    weights: dict[str, NonNegative]


class RandomTeacher(Section):
    """One teacher per batch, drawn uniformly (Fukuda et al.)."""

    builds: ClassVar = "unicscale.objective.balance:RandomTeacher.of"
    kind: Literal["random"] = "random"


class AdaLoss(Section):
    """Weights inversely proportional to each loss's running mean."""

    builds: ClassVar = "unicscale.objective.balance:AdaLoss.of"
    kind: Literal["adaloss"] = "adaloss"
    momentum: Unit = 0.01


class OwnData(Section):
    """A data set names its teachers (DUNE): `data.train[].teachers`."""

    builds: ClassVar = "unicscale.objective.balance:OwnData.of"
    kind: Literal["own_data"] = "own_data"


# a new balance is a class in objective/, and a section here that names it
Balance = Annotated[
    TeacherDropping | NoBalance | ManualWeights | RandomTeacher | AdaLoss | OwnData, Field(discriminator="kind")
]


class LossSection(Section):
    """Cosine and smooth-L1, and who teaches which image."""

    cosine: NonNegative = 0.5
    smooth_l1: NonNegative = 0.5
    balance: Balance = TeacherDropping()

    @model_validator(mode="after")
    def _something_to_minimise(self) -> LossSection:
        if self.cosine == 0 and self.smooth_l1 == 0:
            raise ValueError("cosine and smooth_l1 are both 0: nothing is left to minimise")
        return self

    def arguments(self) -> dict[str, Any]:
        """What `distil` takes beside the balance, which may have a state."""
        return {"cosine": self.cosine, "smooth_l1": self.smooth_l1}
