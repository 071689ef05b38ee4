"""The frozen teachers at work: pixels in each one's own terms, tokens on the student's grid, standardised."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unicscale.contracts import Features, Widths, normalise
from unicscale.data.views.shift import STUDENT, Windows
from unicscale.engine import Engine, fill, is_sharded
from unicscale.engine.attention import Model
from unicscale.engine.units import compile_units
from unicscale.errors import RecipeError, TeacherError
from unicscale.objective import build_standardizer
from unicscale.objective.cone import Cone
from unicscale.objective.grid import on_grid
from unicscale.objective.standardize import LARGEST, Scale, measured, update
from unicscale.objective.terms import precise
from unicscale.ranks.device import one_graph, settled
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.recipe import Recipe
from unicscale.recipe.sections import EngineSection, LossSection, Standardize, TeacherSection
from unicscale.teacher import door, fp8
from unicscale.teacher.described import describe
from unicscale.teacher.frozen import DTYPES, Frozen, cast, frozen_of, state_of
from unicscale.teacher.grid import Policy, drawn, every_size, input_size
from unicscale.teacher.mosaic import Mosaic, mosaic_of, refuse_resizable
from unicscale.teacher.remembered import Remembered
from unicscale.teacher.replay import Encode, Record, Recorder, Replayed, refuse_unrecordable


class Teachers:
    """All of a run's teachers; holds no weights that a checkpoint would want, only running statistics."""

    def __init__(
        self, frozen: dict[str, Frozen], placed: Mapping[str, nn.Module], policies: Mapping[str, Policy],
        standardize: Standardize, loss: LossSection, student_patch: int, device: torch.device, world: World | None,
        cones: Collection[str] = (), mosaics: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.frozen, self.placed, self.policies, self.world = frozen, placed, policies, world
        self.student_patch, self.loss, self.mosaics = student_patch, loss, mosaics
        self.widths = {name: one.widths for name, one in frozen.items()}
        self.statistics = nn.ModuleDict(
            {
                f"{name}/{kind}": build_standardizer(
                    standardize, wide, (name, kind), cone=kind == "summary" and name in cones
                )
                for name, widths in self.widths.items()
                for kind, wide in widths._asdict().items()
                if wide is not None
            }
        ).to(device)
        self._broken = torch.zeros(len(frozen), dtype=torch.bool, device=device)
        self._remarked: set[str] = set()
        self._sharded = any(is_sharded(p) for f in frozen.values() for p in f.parameters())
        self._measured = measured
        self.remembered: Remembered | None = None
        self._encode: Mapping[str, Encode] = placed

    @classmethod
    def build(
        cls, sections: Mapping[str, TeacherSection], standardize: Standardize, *, loss: LossSection | None = None,
        student_patch: int, engine: Engine, engine_section: EngineSection, world: World,
    ) -> Teachers:  # fmt: skip
        """Find, build, place and fill every teacher; rank 0 reads, the others receive."""
        loss, engine_section = loss or LossSection(), settled(engine_section, world.device)
        frozen, placed = {}, {}
        for name, section in sections.items():
            one = frozen[name] = frozen_of(name, section)
            placed[name] = _place(one, section, engine, engine_section, world)
        policies = {name: section.resolution for name, section in sections.items()}
        mosaics = {name for name, section in sections.items() if section.mosaic}
        teachers = cls(
            frozen, placed, policies, standardize, loss, student_patch, world.device, world,
            cones=loss.angles(sections), mosaics=mosaics,
        )  # fmt: skip
        if engine_section.compile:
            teachers.compile()
        if engine_section.cuda_graphs:
            teachers.replay(Recorder())
        return teachers

    def compile(self) -> None:
        """What is measured of all tokens, as one graph."""
        self._measured = one_graph(measured)

    def replay(self, record: Record) -> None:
        """Each teacher's forward is recorded once for every shape, and replayed."""
        refuse_unrecordable(self._broken.device, self._sharded)
        self._encode = {name: Replayed(name, encode, record) for name, encode in self.placed.items()}

    def remember(self, section: EngineSection, folder: Path) -> None:
        """Keep what teachers say, as far as the recipe wants it."""
        if section.remember is not None and self._sharded:
            raise RecipeError(
                "engine.remember: ranks ask sharded teachers together, and each remembers other images.\n"
                "  Set `shard: none` for every teacher, or leave engine.remember out."
            )
        self.remembered = Remembered.open(section, self.world or World(), folder)

    def models(self, recipe: Recipe) -> dict[str, Model]:
        """Those whose attention can be measured: all but a mosaic's, whose canvases depend on the batch."""
        return {
            name: Model(
                [self.placed[name]], lambda side, name=name, section=section: frozen_of(name, section), 3,
                sorted({side for size in recipe.sizes for side in self._sides(name, size)}),
                next((p.dtype for p in self.frozen[name].parameters() if p.is_floating_point()), torch.float32), False,
            )
            for name, section in recipe.teachers.items() if name not in self.mosaics
        }  # fmt: skip

    def _sides(self, name: str, size: int) -> list[int]:
        return every_size(self.frozen[name].spec, self.policies[name], size, self.student_patch, name)

    @staticmethod
    def survey(
        sections: Mapping[str, TeacherSection], *, student_patch: int, sizes: Iterable[int], world: World
    ) -> None:
        """Refuse what can be refused before anything is built: options, sizes, answers, and files that do not fit."""
        sizes = list(sizes)
        for name, section in sections.items():
            one = frozen_of(name, section)
            if section.mosaic:
                refuse_resizable(one.spec, name)
            door.rehearse(
                one, (n for size in sizes for n in every_size(one.spec, section.resolution, size, student_patch, name))
            )
            _together(world, lambda one=one, section=section: state_of(one, section))

    @staticmethod
    def widths_of(sections: Mapping[str, TeacherSection]) -> dict[str, Widths]:
        """How wide each teacher's matched tokens are, without building it."""
        return {name: describe(name, section).widths for name, section in sections.items()}

    def __call__(
        self, images: Tensor | Windows, *, observe: bool = True, key: tuple[int, int] | None = None, late: bool = False
    ) -> dict[str, Features]:
        """Standardised targets of uint8 images (B, C, H, W), or of windows; with `observe`, the statistics see them.

        On the student's grid, or on each teacher's own where `loss.grid` is `larger`. `key` is (seed, step): it draws a
        size where a teacher has several. `late`: what has a scale is left for the loss to standardise, as it came.
        """
        size = images.size if isinstance(images, Windows) else images.shape[-1]
        grid = size // self.student_patch
        prepared: dict[Any, Tensor] = {}
        scales = self.scales() if late else {}
        # sharded parameters are rebuilt in place around each forward, which inference tensors do not allow; and what
        # came out of inference mode has to be copied, for the loss saves its targets for backward
        without_graph = torch.no_grad if late or self._sharded else torch.inference_mode
        with without_graph():
            known = self._remembered_of(images, size, key)
        said, moved = dict[str, dict[str, Tensor]](), dict[str, bool]()
        for name, one in self.frozen.items():
            mosaic = mosaic_of(one.spec, grid) if name in self.mosaics else None
            side = input_size(one.spec, drawn(self.policies[name], name, key), size, self.student_patch, name)
            own = grid if mosaic else side // one.spec.patch  # cells of its map
            # on another grid a whole patch of the student's is none of the teacher's: it sees what the student sees
            moved[name] = isinstance(images, Windows) and own == grid
            shown = images.of(name if moved[name] else STUDENT) if isinstance(images, Windows) else images
            side = own * one.spec.patch if mosaic else side
            with without_graph():
                raw = known.get(name) or self._raw(name, shown, side, {} if moved[name] else prepared, mosaic)
            tokens = said[name] = {
                kind: of_kind if late else of_kind.to(torch.float32, copy=True)
                for kind, of_kind, wide in zip(Features._fields, raw, one.widths, strict=True)
                if wide is not None and of_kind is not None
            }
            if "patches" in tokens and self.loss.grid == "student" and tokens["patches"].shape[1] != grid**2:
                tokens["patches"] = on_grid(precise(tokens["patches"]), grid, self.loss.resize)
        self._measure(said, observe)
        targets: dict[str, Features] = {}
        for name in self.frozen:
            kept, tokens = scales.get(name, Features(None, None))._asdict(), said.pop(name)
            standardised = {kind: self._standardise(name, kind, t, kept[kind]) for kind, t in tokens.items()}
            if isinstance(images, Windows) and moved[name] and "patches" in standardised:
                standardised["patches"] = images.meet(name, standardised["patches"])
            targets[name] = Features(standardised.get("summary"), standardised.get("patches"))
        return targets

    @torch.no_grad()
    def _measure(self, said: Mapping[str, Mapping[str, Tensor]], observe: bool) -> None:
        """Of all teachers at once, so that it is one graph where it is compiled; with `observe` for the statistics."""
        modules: dict[str, Any] = dict(self.statistics.items())
        each = [(modules[f"{name}/{kind}"], t) for name, tokens in said.items() for kind, t in tokens.items()]
        asking = [(module, seen) for module, t in each if observe and (seen := module.see(t)) is not None]
        fine, spreads = self._measured([[*tokens.values()] for tokens in said.values()], [seen for _, seen in asking])
        self._broken |= ~fine
        for (module, seen), found in zip(asking, spreads, strict=True):
            module.note(seen, *found)

    def _raw(
        self, name: str, images: Tensor, side: int, prepared: dict[Any, Tensor], mosaic: Mosaic | None
    ) -> Features:
        """What one teacher says of these images at `side` pixels, each alone or several on a canvas."""
        spec = self.frozen[name].spec
        pixels = _pixels(images, self.frozen[name], side, prepared)
        if mosaic is None:
            return self._encode[name](pixels)
        patches = self._encode[name](mosaic.packed(pixels, spec.patch)).patches
        assert patches is not None  # `refuse_unfit` has asked
        return Features(None, mosaic.cut(patches, len(images)))

    def _remembered_of(self, images: Tensor | Windows, size: int, key: tuple[int, int] | None) -> dict[str, Features]:
        """What every teacher says, or said when it saw these images before; nothing where nothing is remembered."""
        if self.remembered is None or isinstance(images, Windows):
            return {}
        sides = {
            name: input_size(one.spec, drawn(self.policies[name], name, key), size, self.student_patch, name)
            for name, one in self.frozen.items()
        }

        def ask(some: Tensor) -> list[Tensor]:
            prepared: dict[Any, Tensor] = {}
            said = (self._raw(name, some, side, prepared, None) for name, side in sides.items())
            return [tokens for one in said for tokens in one if tokens is not None]

        found = iter(self.remembered(images, ask, repr(sides)))
        there = {n: [kind in one.spec.tokens for kind in Features._fields] for n, one in self.frozen.items()}
        return {n: Features(*(next(found) if has else None for has in kinds)) for n, kinds in there.items()}

    def restart(self) -> None:
        """A stage at another resolution begins: what is known stays until its first batch has taken its place."""
        for standardizer in self.statistics.values():
            standardizer.restart()  # type: ignore[operator]

    def _standardise(self, name: str, kind: str, tokens: Tensor, scale: Scale | None) -> Tensor:
        statistics: Any = self.statistics[f"{name}/{kind}"]
        return tokens if scale else statistics.normalise(tokens)  # with what was known before this batch

    def scales(self) -> dict[str, Features]:
        """What standardises each teacher's tokens, as known before this step; for a loss that gets them `late`."""
        modules: dict[str, Any] = dict(self.statistics.items())
        found = {name: module.scale() for name, module in modules.items()}
        return {n: Features(*(found.get(f"{n}/{kind}") for kind in Features._fields)) for n in self.frozen}  # type: ignore[arg-type]

    def spread(self) -> dict[str, Tensor]:
        """Each teacher's dispersion of summaries, where the loss measures angles against it."""
        modules: dict[str, Any] = dict(self.statistics.items())
        return {n.rpartition("/")[0]: cone.dispersion for n, cone in modules.items() if isinstance(cone, Cone)}

    def known(self, *, late: bool) -> dict[str, Any]:
        """What the loss takes of the statistics."""
        return {"spread": self.spread(), "scales": self.scales() if late else None}

    def remark(self) -> None:
        """Say what is odd about the teachers' tokens, each once; reads from the device, so at log steps only."""
        modules: dict[str, Any] = dict(self.statistics.items())
        found = {name.replace("/", ", "): m.odd() for name, m in modules.items()}
        for name, broken in self.broken().items():
            found[name] = f"some of its tokens are not finite, or larger than {LARGEST:.0e}" if bool(broken) else ""
        for name, said in found.items():
            if said and name not in self._remarked:
                self._remarked.add(name)
                say.warning("teacher %s: %s", name, said)

    def update(self, momentum: float) -> None:
        """Once per optimiser step: merge what all ranks observed into the running statistics."""
        standardizers: list[Any] = list(self.statistics.values())
        update(standardizers, momentum, self.world)
        if self.remembered is not None:
            self.remembered.listen()

    def broken(self) -> dict[str, Tensor]:
        """Which teachers gave non-finite tokens since the run began; still on the device."""
        return dict(zip(self.frozen, self._broken, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """The running statistics; never the frozen weights."""
        return self.statistics.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Strict."""
        self.statistics.load_state_dict(state)


def _place(one: Frozen, section: TeacherSection, engine: Engine, defaults: EngineSection, world: World) -> nn.Module:
    """Cast, shard and fill one teacher; rank 0 reads, the others receive."""
    started = time.monotonic()
    dtype = defaults.dtype if section.dtype == "auto" else section.dtype
    cast(one.module, DTYPES["bf16" if dtype == "fp8" else dtype])
    count = sum(p.numel() for p in one.parameters())
    state = _together(world, lambda: state_of(one, section))
    if defaults.compile if section.compile is None else section.compile:
        compile_units(one)
    placed = engine.shard_teacher(one, section.shard)
    fill(one.module, state, world)
    if dtype == "fp8":
        fp8.quantise(one, world.device)
    took = time.monotonic() - started
    source = "random weights" if section.weights == "random" else section.weights
    say.info(
        "teacher %s: %s, %.0f M parameters in %s, %s, from %s, %.1f s",
        one.name, one.widths.said, count / 1e6, dtype, one.spec.licence, source, took,
    )  # fmt: skip
    return placed


# --- pixels and tokens ----------------------------------------------------------------------------


def _pixels(images: Tensor, one: Frozen, side: int, prepared: dict[Any, Tensor]) -> Tensor:
    """Normalised once per distinct choice of channels, order, mean and deviation, resized once per size of it."""
    colours = (tuple(one.channels or ()), one.spec.blue_first, one.spec.mean, one.spec.std)
    if colours not in prepared:
        prepared[colours] = normalise(one.colours(images), one.spec.mean, one.spec.std)
    if side == images.shape[-1]:
        return prepared[colours]
    if (colours, side) not in prepared:
        prepared[colours, side] = F.interpolate(prepared[colours], (side, side), mode="bicubic", antialias=True)
    return prepared[colours, side]


def _together(world: World, read: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Read on rank 0; a refusal there is a refusal everywhere, or the others would wait for ever."""
    state: Mapping[str, Tensor] = {}
    refusal = None
    if world.main:
        try:
            state = read()
        except (TeacherError, RecipeError) as problem:
            refusal = problem
    refusal = world.broadcast_object(refusal)
    if refusal is not None:
        raise refusal
    return state
