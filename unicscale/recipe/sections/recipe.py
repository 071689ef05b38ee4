"""A whole recipe, and what its sections must agree on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from unicscale.recipe.sections.around import DryRun, Evaluate, Save, Track
from unicscale.recipe.sections.base import Section, one_line
from unicscale.recipe.sections.data import Data, Source
from unicscale.recipe.sections.engine import EngineSection
from unicscale.recipe.sections.launch import Launch
from unicscale.recipe.sections.models import Ladder, Projector, Student, TeacherSection
from unicscale.recipe.sections.names import path_of_run, teacher_name
from unicscale.recipe.sections.objective import LossSection, ManualWeights, OwnData, Standardize, TeacherDropping
from unicscale.recipe.sections.stages import Stage


class Recipe(Section):
    """A whole run, complete before anyone reads it."""

    schema_: Literal[1] = Field(alias="schema")
    """The version of this format: 1."""
    out: str
    """The run folder; the same command goes on with the run that lies there."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """From it follow the order of the images, augmentation, dropping, and the first weights."""
    data: Data
    """Which images, read how, and how many per step."""
    student: Student = Student()
    """The encoder that is trained."""
    teachers: dict[str, TeacherSection] = Field(min_length=1)
    """The frozen encoders to learn from, each under a name of your choice."""
    projector: Projector = Ladder()
    """The part between the student and each teacher's width, thrown away at export; its `kind` chooses."""
    standardize: Standardize = Standardize()
    """How teacher tokens come to zero mean and unit deviation; its `kind` chooses."""
    loss: LossSection = LossSection()
    """What is minimised, and who teaches which image."""
    stages: list[Stage] = Field(min_length=1)
    """One or more stages in order, each with its image size, length and learning rate."""
    engine: EngineSection = EngineSection()
    """How a step is computed: sharding, precision, optimiser."""
    track: Track = Track()
    """How often numbers are recorded, and who else hears them."""
    save: Save = Save()
    """When checkpoints are written, and which are kept."""
    evaluate: Evaluate = Evaluate()
    """What is measured while training."""
    launch: Launch = Launch()
    """What the cluster is asked for; the front doors' options go over it."""
    dry_run: DryRun | None = None
    """A rehearsal with random weights and synthetic pixels instead of a run; null: a run."""

    @field_validator("out")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return path_of_run(one_line(value))

    @field_validator("teachers")
    @classmethod
    def _plain_names(cls, teachers: dict[str, TeacherSection]) -> dict[str, TeacherSection]:
        for name in teachers:
            teacher_name(name)
        return teachers

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        balance = self.loss.balance
        if isinstance(balance, ManualWeights):
            unknown = set(balance.weights) - set(self.teachers)
            if unknown:
                raise ValueError(f"loss.balance.weights names {sorted(unknown)}, which are not among the teachers")
        if len({s.name for s in self.stages}) != len(self.stages):
            raise ValueError("two stages share a name")
        self._sizes_fit()
        self._teachers_see_colours()
        self._blocks_exist()
        self._own_data_is_said()
        self._tokens_are_comparable()
        self._angles_are_of_raw_tokens()
        self._the_best_is_measured()
        self._relations_are_of_whole_batches()
        self._mosaics_are_cut_by_patches()
        self._windows_may_move()
        self._views_come_again()
        return self

    def _sizes_fit(self) -> None:
        patch, blur = self.student.known_patch, self.data.augment
        smallest = min(self.sizes)
        if blur.blur and blur.blur_kernel // 2 >= smallest:
            raise ValueError(
                f"data.augment.blur_kernel: {blur.blur_kernel} reaches beyond images of {smallest} pixels."
            )
        for number, stage in enumerate(self.stages):
            for size in stage.size_list:
                if patch and size % patch:
                    below = size // patch * patch
                    near = f"{below} or {below + patch}" if below else str(patch)
                    raise ValueError(
                        f"stages.{number}.size: {size} is not a multiple of the student's patch, {patch}. "
                        f"The nearest sizes are {near}."
                    )

    def _teachers_see_colours(self) -> None:
        channels = self.data.channels
        for name, section in self.teachers.items():
            if section.channels is None and channels.count < 3:
                raise ValueError(
                    f"teachers.{name} sees three channels, and data.channels names {channels.count}. "
                    f"Say which are its red, green and blue: teachers.{name}.channels: {channels.three}"
                )
            if section.channels is not None and (last := max(section.channels)) >= channels.count:
                raise ValueError(
                    f"teachers.{name}.channels: there is no channel {last}; data.channels names {channels.count}."
                )

    def _blocks_exist(self) -> None:
        depth = self.student.known_depth
        blocks = self.projector.blocks if isinstance(self.projector, Ladder) else "all"
        unknown = [b for b in blocks if not -depth <= b < depth] if depth and not isinstance(blocks, str) else []
        if unknown:
            raise ValueError(f"projector.blocks: there is no block {unknown[0]}; the student has {depth}, from 0.")

    def _own_data_is_said(self) -> None:
        named = [s.teachers for s in self.data.train if isinstance(s, Source) and s.teachers is not None]
        unknown = sorted({name for names in named for name in names} - set(self.teachers))
        if unknown:
            raise ValueError(f"data.train: '{unknown[0]}' is not one of the teachers {', '.join(self.teachers)}.")
        if isinstance(self.loss.balance, OwnData) and not named:
            raise ValueError(
                "loss.balance.kind: own_data, and no data set names its teachers. "
                "Write data.train: [{path: ..., teachers: [...]}]."
            )

    def _tokens_are_comparable(self) -> None:
        balance = self.loss.balance
        lacking = [n for n, section in self.teachers.items() if section.tokens and len(section.tokens) < 2]
        if lacking and isinstance(balance, TeacherDropping) and balance.per == "patch":
            raise ValueError(
                f"loss.balance.per: patch compares teachers token by token, and teachers.{lacking[0]}.tokens names "
                "one kind only. Use per: image."
            )

    def _angles_are_of_raw_tokens(self) -> None:
        own = {f"teachers.{n}.loss.summary": s.loss.summary for n, s in self.teachers.items() if s.loss is not None}
        asked = [key for key, terms in ({"loss.summary": self.loss.summary} | own).items() if terms and terms.angle]
        if asked and self.standardize.of("summary") != "none":
            raise ValueError(
                f"{asked[0]}.angle wants summaries as they are: standardised ones have no cone, their mean is 0. "
                "Set standardize.summary: none."
            )
        if asked and self.standardize.freeze_after is None and self.standardize.kinds <= {"none", "file"}:
            raise ValueError(
                f"{asked[0]}.angle: say how long the cone is estimated, standardize.freeze_after: 3000 steps"
            )

    def _the_best_is_measured(self) -> None:
        best, section = self.save.best, self.evaluate
        tasks = section.tasks or ["loss"]
        if best is None or (section.ever and best.task in tasks):
            return
        if section.ever:
            raise ValueError(f"save.best.task: '{best.task}' is not one of evaluate.tasks: {', '.join(tasks)}")
        raise ValueError(
            f"save.best.task: {best.task} is never measured. Say evaluate: {{every_epochs: 10, tasks: [{best.task}]}}"
        )

    def _relations_are_of_whole_batches(self) -> None:
        if self.loss.relation is None:
            return
        for name, section in self.teachers.items():
            if section.tokens and "summary" not in section.tokens:
                raise ValueError(f"loss.relation is between summaries, and teachers.{name}.tokens names none.")
        if self.data.micro_batch is not None:
            raise ValueError(
                "loss.relation is between all images of a step: data.micro_batch would cut them apart. Leave one out."
            )
        if self.data.images_per_step < 3:
            raise ValueError("loss.relation compares distances between images: data.images_per_step must be 3 or more.")

    def _mosaics_are_cut_by_patches(self) -> None:
        for name, section in self.teachers.items():
            if section.mosaic and section.tokens and "summary" in section.tokens:
                raise ValueError(f"teachers.{name}.mosaic: a canvas of several images has one summary for all of them.")
            if section.mosaic and section.resolution != "same_grid":
                raise ValueError(
                    f"teachers.{name}.mosaic shows images at the student's grid: leave out its resolution."
                )

    def _windows_may_move(self) -> None:
        balance = self.loss.balance
        if self.data.shift and isinstance(balance, TeacherDropping) and balance.per == "patch":
            raise ValueError("data.shift: not all teachers see every patch then. Use loss.balance.per: image.")
        if self.student.known_patch and (said := self.too_few_patches(self.student.known_patch)):
            raise ValueError(said)

    def too_few_patches(self, patch: int) -> str:
        """Why windows that move by a patch have too little in common; nothing where they have enough."""
        smallest = min(self.sizes) // patch
        if not self.data.shift or smallest >= 4:
            return ""
        return f"data.shift moves windows by a patch, and a grid of {smallest} a side has too few: 4 are the least."

    def _views_come_again(self) -> None:
        if self.engine.remember is None:
            return
        for name, section in self.teachers.items():
            if section.mosaic:
                raise ValueError(
                    f"engine.remember: teachers.{name}.mosaic shows it several images at once, which do not meet again."
                )
        if self.data.shift:
            raise ValueError("engine.remember: data.shift moves every view: nothing would be found. Leave one out.")
        if not self.data.augment.repeats:
            raise ValueError(
                "engine.remember: with data.augment as it is, no image looks the same twice: nothing would be found. "
                "Leave it out; or set scale: [1, 1], ratio: [1, 1], and jitter, grey, blur and solarize to 0."
            )

    @property
    def sizes(self) -> list[int]:
        """Every size that a step may have, in pixels, in the order of the stages."""
        return list(dict.fromkeys(size for stage in self.stages for size in stage.size_list))

    @property
    def compares_late(self) -> bool:
        """Whether the loss standardises what it compares, in one graph; relations and moved windows want it before."""
        return self.engine.compile is True and self.loss.relation is None and not self.data.shift

    def loss_arguments(self) -> dict[str, Any]:
        """What `distil` takes beside balance, draws and statistics."""
        return self.loss.arguments(self.teachers)
