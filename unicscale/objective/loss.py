"""Cosine and smooth-L1 between answers and targets, weighted over teachers: vectorised, fp32, no host sync."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.contracts import Features, Loss
from unicscale.errors import RecipeError
from unicscale.objective.balance import Balance, TeacherDropping, build_balance
from unicscale.recipe import sections

SIMPLE = {
    "none": Balance,
    "random": lambda: build_balance(sections.RandomTeacher(), []),
}


def distil(
    answers: dict[str, Features],
    targets: dict[str, Features],
    *,
    p: float = 0.5,
    key: tuple[int, int] = (0, 0),
    index: Tensor | None = None,
    domain: Tensor | None = None,
    cosine: float = 0.5,
    smooth_l1: float = 0.5,
    balance: str | Balance = "teacher_dropping",
) -> Loss:
    """The loss of a micro-batch, as a sum and its weight: engines divide by the weight of the global batch."""
    check_pairs(answers, targets)
    balance = _balance(balance, p)
    names = list(targets)
    first = targets[names[0]].summary
    errors = {name: _errors(answers[name], targets[name], cosine, smooth_l1) for name in names}
    cls = torch.stack([e.cls for e in errors.values()])  # (T, B)
    patch = torch.stack([e.patch for e in errors.values()])  # (T, B, N)
    each = (cls + patch.mean(-1)) / 2  # (T, B)
    index = torch.arange(len(first), device=first.device) if index is None else index
    if balance.per_token:
        tokens = torch.cat([cls[..., None], patch], dim=-1)  # (T, B, 1 + N)
        weights = balance(tokens.detach(), key, index, domain)
        # CLS counts as much as all patches together, as it does per image
        shares = torch.cat([weights[..., :1], weights[..., 1:] / patch.shape[-1]], dim=-1) / 2
        summed, weights = (shares * tokens).sum(), shares.sum(-1)
    else:
        weights = balance(each.detach(), key, index, domain)  # (T, B)
        summed = (weights * each).sum()
    weight = weights.sum()
    terms = {"loss": summed / weight}
    for number, (name, error) in enumerate(errors.items()):
        terms |= {f"loss/{name}": each[number].mean(), f"keep/{name}": weights[number].mean()}
        terms |= {f"loss/{name}/cls": error.cls.mean(), f"loss/{name}/patch": error.patch.mean()}
        terms |= {f"loss/{name}/{kind}": value for kind, value in error.parts.items()}
    return Loss(summed, weight, {term: value.detach() for term, value in terms.items()})


class _Errors(NamedTuple):
    cls: Tensor  # (B,)
    patch: Tensor  # (B, N)
    parts: dict[str, Tensor]  # unweighted means, for the curves


def _errors(answer: Features, target: Features, cosine: float, smooth_l1: float) -> _Errors:
    tokens, parts = [], {}
    for kind, guess, truth in zip(("cls", "patch"), answer, target, strict=True):
        guess, truth = guess.float(), truth.detach().float()  # also under autocast
        away = 1 - F.cosine_similarity(guess, truth, dim=-1)
        far = F.smooth_l1_loss(guess, truth, reduction="none").mean(-1)
        parts |= {f"{kind}/cos": away.mean(), f"{kind}/sl1": far.mean()}
        tokens.append(cosine * away + smooth_l1 * far)
    return _Errors(tokens[0], tokens[1], parts)


def _balance(balance: str | Balance, p: float) -> Balance:
    if isinstance(balance, Balance):
        return balance
    if balance == "teacher_dropping":
        return TeacherDropping(p)
    if balance not in SIMPLE:
        raise RecipeError(
            f"balance '{balance}' is none of teacher_dropping, {', '.join(SIMPLE)}; "
            "the others have state or settings: pass what balance.build_balance gives."
        )
    return SIMPLE[balance]()


def check_pairs(answers: dict[str, Features], targets: dict[str, Features]) -> None:
    """Refuse answers and targets that do not fit, by teacher and by what does not fit."""
    if answers.keys() != targets.keys():
        odd = sorted(answers.keys() ^ targets.keys())[0]
        has, lacks = ("an answer", "target") if odd in answers else ("a target", "answer")
        raise RecipeError(f"teachers.{odd}: there is {has} for it and no {lacks}. The others: {sorted(targets)}.")
    for name, target in targets.items():
        answer = answers[name]
        if answer.summary.shape[-1] != target.summary.shape[-1] or answer.patches.shape[-1] != target.patches.shape[-1]:
            raise RecipeError(
                f"teachers.{name}: the projector answers {answer.summary.shape[-1]} wide, "
                f"the teacher's tokens are {target.summary.shape[-1]} wide. "
                "Build the projector with `dims` of the teachers' specs."
            )
        if answer.patches.shape[1] != target.patches.shape[1]:
            raise RecipeError(
                f"teachers.{name}: {target.patches.shape[1]} patches, the student has {answer.patches.shape[1]}. "
                f"`teachers.{name}.resolution: same_grid` brings them onto one grid."
            )
        if len(answer.summary) != len(target.summary):
            raise RecipeError(f"teachers.{name}: {len(target.summary)} images, the student saw {len(answer.summary)}.")
