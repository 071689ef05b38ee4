"""Answers against targets, weighted over tokens and teachers: vectorised, fp32, no host sync."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from unicscale.contracts import Features, Loss
from unicscale.errors import RecipeError
from unicscale.objective.balance import Balance, RandomTeacher, TeacherDropping
from unicscale.objective.grid import on_larger
from unicscale.objective.pairs import check_pairs
from unicscale.objective.relation import relations
from unicscale.objective.terms import CURVES, apart, precise, weighted
from unicscale.ranks.device import one_graph
from unicscale.ranks.world import World
from unicscale.recipe import sections

SIMPLE = {"none": Balance, "random": RandomTeacher}
NAMES = {"summary": "cls", "patches": "patch"}  # of the curves
Kinds = Mapping[str, float]  # cosine, smooth_l1, mse, angle -> weight
Scales = Mapping[str, Any]  # by teacher, Features of what standardises its tokens


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
    summary: Kinds | None = None,
    patches: Kinds | None = None,
    own: Mapping[str, Mapping[str, Kinds]] | None = None,
    weights: Mapping[str, Mapping[str, float]] | None = None,
    beta: float = 1.0,
    grid: Literal["student", "larger"] = "student",
    resize: str = "bilinear",
    spread: Mapping[str, Tensor] | None = None,
    both: Mapping[str, Tensor] | None = None,
    relation: Kinds | None = None,
    world: World | None = None,
    scales: Scales | None = None,
    compare: Callable[..., dict[str, Errors]] | None = None,
    balance: str | Balance = "teacher_dropping",
) -> Loss:
    """The loss of a micro-batch, as a sum and its weight: engines divide by the weight of the global batch.

    `summary` and `patches` weigh the kinds of distance (without them: `cosine` and `smooth_l1`), `own` says it for one
    teacher, `weights` weighs a teacher's tokens: {"sam": {"patches": 2}}. `spread` is what `angle` is measured against.
    `both` (B, N): which patches a teacher sees too, where windows were moved; the others count for nothing.
    `relation`: {"arkd": 1.0}, between the summaries of the global batch, which `world` brings together; with a weight
    of 1 it counts as much as the summaries themselves.
    Targets that have a scale in `scales` are not standardised yet. `compare` is `distances`, or that compiled.
    """
    balance = _balance(balance, p)
    check_pairs(answers, targets, any_grid=grid == "larger", per_token=balance.per_token)
    short = {"cosine": cosine, "smooth_l1": smooth_l1}
    said = {"summary": summary or short, "patches": patches or short}
    kinds = {name: {**said, **(own or {}).get(name, {})} for name in targets}
    measure = Measure(kinds, weights or {}, beta, resize if grid == "larger" else None)
    errors = (compare or distances)(answers, targets, scales or {}, spread or {}, both or {}, measure)
    summed, alpha, each = _balanced(errors, balance, key, index, domain)
    weight = alpha.sum()
    terms = {"loss": summed / weight}
    for number, (name, error) in enumerate(errors.items()):
        terms |= {f"loss/{name}": each[number].mean(), f"keep/{name}": alpha[number].mean()}
        means = torch.stack([*error.parts.values()]).mean(1)
        terms |= {f"loss/{name}/{part}": value for part, value in zip(error.parts, means.unbind(), strict=True)}
    for kind, share in (relation or {}).items():
        found, whole = relations(answers, targets, alpha, kind, world)
        related = (
            share * sum(found.values(), start=weight.new_zeros(())) / (2 * len(found))
        )  # E's half, a mean over teachers
        # it is of the global batch already: of its value every rank reports its part, its gradient nobody else has
        summed = summed + whole * related + ((weight - whole) * related).detach()
        terms |= {"loss": terms["loss"] + related} | {f"loss/{name}/{kind}": value for name, value in found.items()}
    return Loss(summed, weight, {term: value.detach() for term, value in terms.items()})


class Measure(NamedTuple):
    """How tokens are compared: what is no tensor, and the same in every step."""

    kinds: Mapping[str, Mapping[str, Kinds]]  # by teacher and token
    weights: Mapping[str, Mapping[str, float]]
    beta: float
    resize: str | None  # onto the larger grid, and how; None: both have the student's


def distances(
    answers: Mapping[str, Features], targets: Mapping[str, Features], scales: Scales, spread: Mapping[str, Tensor],
    both: Mapping[str, Tensor], measure: Measure,
) -> dict[str, Errors]:  # fmt: skip
    """Every teacher's errors; compiled it is one graph of a dozen kernels, in which targets are never written."""
    found = {}
    for name, target in targets.items():
        answer = answers[name]
        for kind, scale in scales.get(name, Features(None, None))._asdict().items():
            if scale is not None:
                target = target._replace(**{kind: scale(getattr(target, kind))})
        if measure.resize and answer.patches is not None and target.patches is not None:
            maps = on_larger(precise(answer.patches), precise(target.patches), measure.resize)
            answer, target = (Features(f.summary, t) for f, t in zip((answer, target), maps, strict=True))
        kinds, weight = measure.kinds[name], measure.weights.get(name, {})
        found[name] = _errors(answer, target, kinds, weight, measure.beta, spread.get(name), both.get(name))
    return found


def compared(section: sections.EngineSection) -> Callable[..., dict[str, Errors]]:
    """`distances` as the engine computes."""
    return one_graph(distances) if section.compile is True else distances


class Errors(NamedTuple):
    """One teacher's, per image: S, the mean of its patches' P, and how much each counts; None and 0 where it has none.

    E = (w_s S + w_p P) / 2 enters the loss. D = (w_s S + w_p P) / (w_s + w_p) is what a balance compares: a teacher of
    patches only is not half as far away. With weights of 1 both are the mean of the two (arXiv:2408.05088, version 2).
    """

    summary: Tensor | None  # (B,)
    patches: Tensor | None  # (B, N)
    weights: tuple[float, float]
    parts: dict[str, Tensor]  # unweighted means per image (B,), for the curves

    @property
    def total(self) -> Tensor:
        """w_s S + w_p P: (B,)"""
        tokens = (self.parts.get(name) for name in NAMES.values())
        # a weight of 1 is none: four small kernels a teacher, forward and back
        weighted = [t if w == 1 else w * t for w, t in zip(self.weights, tokens, strict=True) if t is not None]
        return sum(weighted[1:], start=weighted[0])


def mean_of(tokens: Tensor, both: Tensor | None) -> Tensor:
    """(..., B, N) -> (..., B): over the tokens that count."""
    return tokens.mean(-1) if both is None else (tokens * both).sum(-1) / both.sum(-1)


def _errors(
    answer: Features, target: Features, kinds: Mapping[str, Kinds], weight: Mapping[str, float], beta: float,
    spread: Tensor | None, both: Tensor | None,
) -> Errors:  # fmt: skip
    tokens: list[Tensor | None] = []
    means: dict[str, Tensor] = {}
    curves: dict[str, Tensor] = {}
    for token, guess, truth in zip(Features._fields, answer, target, strict=True):
        if guess is None or truth is None:
            tokens.append(None)
            continue
        found = apart(guess, truth, kinds[token], beta, spread)
        token_by_token = weighted(found, kinds[token])
        tokens.append(token_by_token)
        seen = both if token == "patches" else None
        means[NAMES[token]] = _per_image(token_by_token, seen, 1)
        each = _per_image(torch.stack([*found.values()]).detach(), seen, 2)  # one mean, not one for every curve
        curves |= {f"{NAMES[token]}/{CURVES[kind]}": one for kind, one in zip(found, each.unbind(), strict=True)}
    counts = tuple(0.0 if t is None else weight.get(n, 1.0) for n, t in zip(Features._fields, tokens, strict=True))
    return Errors(tokens[0], tokens[1], counts, means | curves)  # type: ignore[arg-type]


def _per_image(errors: Tensor, both: Tensor | None, dims: int) -> Tensor:
    """(..., B) as it is, (..., B, N) as means over the tokens that count: `dims` are left."""
    return errors if errors.dim() == dims else mean_of(errors, both)


def _balanced(
    errors: Mapping[str, Errors], balance: Balance, key: tuple[int, int], index: Tensor | None, domain: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted sum, the weights (T, B), and each teacher's part of the loss before them (T, B)."""
    totals = torch.stack([e.total for e in errors.values()])  # (T, B)
    each = totals / 2
    index = torch.arange(totals.shape[1], device=totals.device) if index is None else index
    if not balance.per_token:
        away = torch.stack([total / sum(e.weights) for total, e in zip(totals, errors.values(), strict=True)])
        alpha = balance(away.detach(), key, index, domain)  # (T, B)
        return (alpha * each).sum(), alpha, each
    tokens = torch.stack([torch.cat([e.summary[..., None], e.patches], dim=-1) for e in errors.values()])  # type: ignore
    alpha = balance(tokens.detach(), key, index, domain)  # (T, B, 1 + N)
    # CLS counts as much as all patches together, as it does per image
    alpha = torch.cat([alpha[..., :1], alpha[..., 1:] / (tokens.shape[-1] - 1)], dim=-1) / 2
    if any(e.weights != (1.0, 1.0) for e in errors.values()):
        tokens = torch.stack(
            [
                torch.cat([w[0] * row[:, :1], w[1] * row[:, 1:]], -1)
                for w, row in zip((e.weights for e in errors.values()), tokens, strict=True)
            ]
        )
    return (alpha * tokens).sum(), alpha.sum(-1), each


def _balance(balance: str | Balance, p: float) -> Balance:
    if isinstance(balance, Balance):
        return balance
    if balance == "teacher_dropping":
        return TeacherDropping(p)
    if balance not in SIMPLE:
        raise RecipeError(
            f"balance '{balance}' is none of teacher_dropping, {', '.join(SIMPLE)}; "
            "the others have state or settings: pass what unicscale.objective.build_balance gives."
        )
    return SIMPLE[balance]()
