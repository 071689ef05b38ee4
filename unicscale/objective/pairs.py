"""What an answer and its target must agree on before anything is measured between them."""

from __future__ import annotations

from collections.abc import Mapping

from unicscale.contracts import Features, Widths
from unicscale.errors import RecipeError
from unicscale.objective.phi_s import hadamard
from unicscale.recipe import sections

_TOKEN_BY_TOKEN = (
    "'loss.balance.per: patch' compares teachers token by token, and '{name}' has no {kind}. Use per: image."
)


def check_pairs(
    answers: dict[str, Features], targets: dict[str, Features], *, any_grid: bool = False, per_token: bool = False
) -> None:
    """Refuse answers and targets that do not fit, by teacher and by what does not fit."""
    if answers.keys() != targets.keys():
        odd = sorted(answers.keys() ^ targets.keys())[0]
        has, lacks = ("an answer", "target") if odd in answers else ("a target", "answer")
        raise RecipeError(f"teachers.{odd}: there is {has} for it and no {lacks}. The others: {sorted(targets)}.")
    for name, target in targets.items():
        answer = answers[name]
        if all(tokens is None for tokens in target):
            raise RecipeError(f"teachers.{name}: it gives neither a summary nor patches.")
        for kind, guess, truth in zip(Features._fields, answer, target, strict=True):
            if guess is None and truth is None:
                if per_token:
                    raise RecipeError(_TOKEN_BY_TOKEN.format(name=name, kind=kind))
                continue
            if guess is None or truth is None:
                has, lacks = ("projector answers", "teacher gives none") if truth is None else (
                    "teacher gives", "projector has no answer",
                )  # fmt: skip
                raise RecipeError(f"teachers.{name}: the {has} {kind}, the {lacks}.")
            if guess.shape[-1] != truth.shape[-1]:
                raise RecipeError(
                    f"teachers.{name}: the projector answers {guess.shape[-1]} wide, the teacher's {kind} "
                    f"{'are' if kind == 'patches' else 'is'} {truth.shape[-1]} wide. "
                    "Build the projector with the widths of the teachers' specs."
                )
            if len(guess) != len(truth):
                raise RecipeError(f"teachers.{name}: {len(truth)} images, the student saw {len(guess)}.")
            if kind == "patches" and guess.shape[1] != truth.shape[1] and not any_grid:
                raise RecipeError(
                    f"teachers.{name}: {truth.shape[1]} patches, the student has {guess.shape[1]}. "
                    f"`teachers.{name}.resolution: same_grid` brings them onto one grid."
                )


def refuse_unfit(
    loss: sections.LossSection,
    standardize: sections.Standardize,
    teachers: Mapping[str, sections.TeacherSection],
    widths: Mapping[str, Widths],
) -> None:
    """What a loss or a standardiser asks of tokens that a teacher does not have, before anything is built."""
    balance = loss.balance
    for name, wide in widths.items():
        section, has = teachers[name], wide._asdict()
        lacks = [kind for kind, width in has.items() if width is None]
        if loss.relation is not None and wide.summary is None:
            raise RecipeError(f"'loss.relation' is between summaries, and teacher '{name}' has none.")
        if section.mosaic and wide.summary is not None:
            raise RecipeError(
                f"'teachers.{name}.mosaic': a canvas of several images has one summary for all of them. "
                "Say tokens: [patches]."
            )
        if lacks and isinstance(balance, sections.TeacherDropping) and balance.per == "patch":
            raise RecipeError(_TOKEN_BY_TOKEN.format(name=name, kind=lacks[0]))
        for kind in lacks:
            if section.loss is not None and getattr(section.loss, kind) is not None:
                raise RecipeError(f"'teachers.{name}.loss.{kind}': this teacher has no {kind} to answer.")
        if section.weight is not None and not any(getattr(section.weight, kind) for kind in has if kind not in lacks):
            raise RecipeError(f"'teachers.{name}.weight': what this teacher has weighs 0. Leave the teacher out.")
        for kind, width in has.items():
            if width is not None and standardize.of(kind) == "phi_s":
                hadamard(width)  # refuses a width that has none
