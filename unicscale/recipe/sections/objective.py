"""`standardize:` and `loss:`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from unicscale.recipe.sections.base import DURATION, DURATIONS, NonNegative, OneOf, Positive, Section, Unit, unless

# a new standardizer is a class in objective/, and a line here; `running` and `frozen` differ in their pace only
STANDARDIZERS = {
    "running": "unicscale.objective.standardize:Standardizer",
    "frozen": "unicscale.objective.standardize:Standardizer",
    "file": "unicscale.objective.standardize:Fixed",
    "none": "unicscale.objective.standardize:Unchanged",
    "phi_s": "unicscale.objective.phi_s:PhiS",
}
Kind = Annotated[str, OneOf(STANDARDIZERS)]


class Standardize(Section):
    """How teacher tokens come to zero mean and unit deviation."""

    kind: Kind = "running"
    """`running` (the paper's), `frozen` (a plain average, then fixed), `phi_s` (AM-RADIO's rotation), `file`
    (measured before), `none`.
    """
    summary: Kind | None = None
    """Another kind for summaries; null: as `kind` says."""
    patches: Kind | None = None
    """Another kind for patches; null: as `kind` says."""
    momentum_start: Unit = 1.0
    """How far the first step's batch moves the running statistics; 1: all the way."""
    momentum_end: Unit = 0.001
    """The same at the end of the run; in between it follows a cosine."""
    freeze_after: str | int | None = None
    """When statistics stop moving, as `512 steps`, `2 epochs`, `1e6 images` or `5%`; null: 512 steps for kinds that
    freeze, never for `running`.
    """
    path: str | None = None
    """For `file`: what `unicscale teachers stats` wrote."""
    restart: Annotated[Literal["never", "stage"], unless("never")] = "never"
    """`stage`: statistics are estimated anew in each stage, whose size may change them."""

    @model_validator(mode="after")
    def _complete(self) -> Standardize:
        if "file" in self.kinds and not self.path:
            raise ValueError("kind 'file' needs a 'path'; `unicscale teachers stats` writes such a file")
        if self.freeze_after is not None and not DURATION.fullmatch(str(self.freeze_after)):
            raise ValueError(f"freeze_after '{self.freeze_after}' is no duration: {DURATIONS}")
        if self.freeze_after is None and "running" in self.kinds and self.kinds & {"frozen", "phi_s"}:
            raise ValueError(
                "running statistics move to the end of the run and the others are frozen: they share one pace. "
                "Say when all of them stop: freeze_after"
            )
        return self

    @property
    def kinds(self) -> set[str]:
        """Those in use."""
        return {self.of("summary"), self.of("patches")}

    def of(self, token: str) -> Kind:
        """The kind for `summary` or `patches`."""
        own: dict[str, Kind | None] = {"summary": self.summary, "patches": self.patches}
        return own.get(token) or self.kind


class TeacherDropping(Section):
    """The worst-answered teacher always teaches; every other is dropped with probability p."""

    builds: ClassVar = "unicscale.objective.balance:TeacherDropping.of"
    kind: Literal["teacher_dropping"] = "teacher_dropping"
    """`teacher_dropping`: the paper's; the worst-answered teacher always teaches."""
    p: Unit = 0.5
    """Probability that any other teacher is dropped."""
    per: Literal["image", "patch"] = "image"
    """Drawn for every `image`, or for every `patch`."""


class NoBalance(Section):
    """All teachers weigh the same."""

    builds: ClassVar = "unicscale.objective.balance:Balance.of"
    kind: Literal["none"] = "none"
    """`none`: all teachers weigh the same."""


class ManualWeights(Section):
    """Fixed weights (Table K)."""

    builds: ClassVar = "unicscale.objective.balance:ManualWeights.of"
    kind: Literal["manual"] = "manual"
    """`manual`: fixed weights."""
    weights: dict[str, NonNegative]
    """A weight for each teacher; one that is left out weighs 1."""


class RandomTeacher(Section):
    """One teacher per batch, drawn uniformly (Fukuda et al.)."""

    builds: ClassVar = "unicscale.objective.balance:RandomTeacher.of"
    kind: Literal["random"] = "random"
    """`random`: one teacher per step."""


class AdaLoss(Section):
    """Weights inversely proportional to each loss's running mean."""

    builds: ClassVar = "unicscale.objective.balance:AdaLoss.of"
    kind: Literal["adaloss"] = "adaloss"
    """`adaloss`: weights inversely proportional to each loss's running mean."""
    momentum: Unit = 0.01
    """How far each step moves the running means."""


class OwnData(Section):
    """A data set names its teachers (DUNE): `data.train[].teachers`."""

    builds: ClassVar = "unicscale.objective.balance:OwnData.of"
    kind: Literal["own_data"] = "own_data"
    """`own_data`: each data set names its teachers, in data.train[].teachers."""


# a new balance is a class in objective/, and a section here that names it
Balance = Annotated[
    TeacherDropping | NoBalance | ManualWeights | RandomTeacher | AdaLoss | OwnData, Field(discriminator="kind")
]


class Terms(Section):
    """How an answer's distance to its target is made up; a kind that is not named is not computed."""

    cosine: NonNegative = 0.0
    """Weight of the cosine distance."""
    smooth_l1: NonNegative = 0.0
    """Weight of smooth-L1."""
    mse: NonNegative = 0.0
    """Weight of the mean squared error."""

    @model_validator(mode="before")
    @classmethod
    def _angles_have_a_cone(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "angle" in value and "angle" not in cls.model_fields:
            raise ValueError("angle is for summaries: it is measured against the cone of a teacher's summaries")
        return value

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Terms:
        if not any(self.named.values()):
            raise ValueError("all of them are 0: nothing is left to minimise")
        return self

    @property
    def named(self) -> dict[str, float]:
        """kind -> weight, of those that count."""
        return {kind: weight for kind in type(self).model_fields if (weight := getattr(self, kind))}


class SummaryTerms(Terms):
    """Of a summary; `angle` is C-RADIOv4's, squared and over the teacher's own dispersion."""

    angle: NonNegative = 0.0
    """Weight of the squared angle over the teacher's own dispersion (C-RADIOv4); wants standardize.summary: none."""


class TokenWeights(Section):
    """How much each kind of a teacher's tokens counts (EUPE's gamma, AM-RADIO's lambda and gamma)."""

    summary: NonNegative = 1.0
    """How much the summary counts."""
    patches: NonNegative = 1.0
    """How much the patches count."""

    @model_validator(mode="after")
    def _counts(self) -> TokenWeights:
        if not (self.summary or self.patches):
            raise ValueError("summary and patches both weigh 0: leave the teacher out")
        return self


class OwnLoss(Section):
    """One teacher's own terms; what it leaves out is as `loss` says."""

    summary: SummaryTerms | None = None
    """Terms of its summary; null: as `loss` says."""
    patches: Terms | None = None
    """Terms of its patches; null: as `loss` says."""


class Relation(Section):
    """How far a batch's summaries lie from each other, as the teacher has it (SigLino's ARKD; RKD)."""

    kind: Literal["arkd", "rkd"] = "arkd"
    """`arkd` (only what is too far or too close), `rkd` (every difference)."""
    weight: Positive = 1.0
    """How much it counts beside a summary's own distance, which weighs 1."""


class LossSection(Section):
    """What an answer's distance is made of, and who teaches which image."""

    cosine: NonNegative = 0.5
    """Weight of the cosine distance, of summaries and patches alike where they have no terms of their own."""
    smooth_l1: NonNegative = 0.5
    """Weight of smooth-L1, of summaries and patches alike where they have no terms of their own."""
    summary: SummaryTerms | None = None
    """Terms for summaries: cosine, smooth_l1, mse, angle; null: as cosine and smooth_l1 above say."""
    patches: Terms | None = None
    """Terms for patches: cosine, smooth_l1, mse; null: as cosine and smooth_l1 above say."""
    beta: Annotated[Positive, unless(1.0)] = 1.0
    """Where smooth-L1 turns from a parabola into a line."""
    # the grid on which patches are compared: the student's, or the larger of the two
    grid: Annotated[Literal["student", "larger"], unless("student")] = "student"
    """The grid on which patches are compared: the `student`'s, or the `larger` of student's and teacher's."""
    resize: Annotated[Literal["bilinear", "bicubic"], unless("bilinear")] = "bilinear"
    """How maps of patches come onto that grid."""
    relation: Annotated[Relation | None, unless(None)] = None
    """A term for how far a step's images lie from each other; null: none."""
    balance: Balance = TeacherDropping()
    """Who teaches which image, and how much each teacher weighs; its `kind` chooses."""

    @model_validator(mode="after")
    def _something_to_minimise(self) -> LossSection:
        if self.cosine == 0 and self.smooth_l1 == 0 and None in (self.summary, self.patches):
            raise ValueError("cosine and smooth_l1 are both 0: nothing is left to minimise")
        return self

    @model_validator(mode="after")
    def _one_grid_for_tokens(self) -> LossSection:
        if self.grid == "larger" and isinstance(self.balance, TeacherDropping) and self.balance.per == "patch":
            raise ValueError("balance.per: patch compares teachers token by token, on one grid: leave out grid: larger")
        return self

    def arguments(self, teachers: Mapping[str, Any]) -> dict[str, Any]:
        """What `distil` takes beside the balance, which may have a state; `teachers` are the recipe's sections."""
        own = {name: section.loss for name, section in teachers.items() if section.loss is not None}
        return {
            "cosine": self.cosine,
            "smooth_l1": self.smooth_l1,
            "summary": self.summary and self.summary.named,
            "patches": self.patches and self.patches.named,
            "own": {n: {token: terms.named for token, terms in loss if terms is not None} for n, loss in own.items()},
            "weights": {n: dict(section.weight) for n, section in teachers.items() if section.weight is not None},
            "beta": self.beta,
            "grid": self.grid,
            "resize": self.resize,
            "relation": self.relation and {self.relation.kind: self.relation.weight},
        }

    def angles(self, teachers: Mapping[str, Any]) -> set[str]:
        """The teachers whose summaries are compared by angle."""
        found = {}
        for name, section in teachers.items():
            own = section.loss.summary if section.loss is not None else None
            found[name] = self.summary if own is None else own
        return {name for name, terms in found.items() if terms is not None and terms.angle}
