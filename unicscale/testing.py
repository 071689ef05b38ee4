"""The contract of a teacher plug-in, for its author to subclass:

class TestMine(TeacherContract):
    teacher = "mine"
"""

from __future__ import annotations

import pickle
from functools import cached_property
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from unicscale.contracts import Features
from unicscale.errors import TeacherError
from unicscale.recipe.sections import TeacherSection
from unicscale.teacher import files, weights
from unicscale.teacher.described import describe
from unicscale.teacher.finding import find
from unicscale.teacher.frozen import Frozen, open_frozen, renamed


class TeacherContract:
    """What the core relies on; every method is one sentence of it."""

    teacher: ClassVar[str] = ""  # its entry-point name
    options: ClassVar[dict[str, Any] | None] = None  # None: the plug-in's own `small`
    weights: ClassVar[str | None] = None  # None: bundled ones, or random

    # --- what the tests share -------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls) -> Subject:
        assert cls.teacher, "name the plug-in: `teacher = ...` in the class body"
        return Subject(cls.teacher, cls.options, cls.weights)

    # --- what it says of itself -----------------------------------------------------------------

    def test_its_spec_is_consistent(self, subject: Subject) -> None:
        spec = subject.frozen.spec
        assert spec.tokens and not set(spec.tokens) - set(Features._fields), "tokens: summary, patches, or both"
        assert all(wide is None or wide > 0 for wide in spec.widths) and spec.patch > 0
        multiple = spec.multiple or spec.patch
        assert spec.size % multiple == 0, f"native {spec.size} pixels are no multiple of {multiple}"
        assert len(spec.mean) == 3 and len(spec.std) == 3 and min(spec.std) > 0
        assert max(spec.mean) < 1.5, "mean and deviation are stated for pixels in 0..1"
        assert spec.licence, "say under which licence the weights may be used: it goes into model cards"

    def test_its_options_refuse_unknown_keys_and_survive_pickling(self, subject: Subject) -> None:
        options = subject.frozen.options
        assert pickle.loads(pickle.dumps(options)) == options
        with pytest.raises(ValidationError):
            type(options)(**{**subject.section.options, "no_such_option": 1})

    # --- tokens ---------------------------------------------------------------------------------

    def test_tokens_have_the_shapes_it_promises(self, subject: Subject) -> None:
        for side in subject.sides:
            tokens = subject(images(2, side))  # held against its spec on the way, which says what does not fit
            assert isinstance(tokens, Features)
            assert tuple(None if t is None else t.shape[-1] for t in tokens) == subject.spec.widths

    def test_tokens_are_finite(self, subject: Subject) -> None:
        for side in subject.sides:
            assert all(bool(torch.isfinite(t).all()) for t in said(subject(images(2, side))))

    def test_patches_come_row_by_row(self, subject: Subject) -> None:
        patch, side = subject.spec.patch, subject.spec.size
        if "patches" not in subject.spec.tokens:
            pytest.skip("it has no patches")
        last = side // patch - 1
        corners = {(row, column): row * (last + 1) + column for row in (0, last) for column in (0, last)}
        before = images(1, side)
        for (row, column), number in corners.items():
            after = before.clone()
            cell = after[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            cell.copy_(255 - cell)
            moved = (said(subject(after))[-1] - said(subject(before))[-1])[0].norm(dim=1)  # (N,)
            most = max(corners.values(), key=lambda each: float(moved[each]))
            assert most == number, f"the token of row {row}, column {column} should be number {number}, not {most}"

    def test_the_same_images_give_the_same_tokens(self, subject: Subject) -> None:
        pixels = images(2, subject.spec.size)
        for first, second in zip(said(subject(pixels)), said(subject(pixels)), strict=True):
            assert torch.equal(first, second)

    def test_an_image_does_not_know_its_batch(self, subject: Subject) -> None:
        pixels = images(3, subject.spec.size)
        for whole, alone in zip(said(subject(pixels)), said(subject(pixels[1:2])), strict=True):
            torch.testing.assert_close(whole[1:2], alone, rtol=1e-4, atol=1e-4)

    def test_bf16_changes_little(self, subject: Subject) -> None:
        lower = open_frozen(subject.name, subject.section.model_copy(update={"dtype": "bf16"}))
        pixels = images(2, subject.spec.size)
        with torch.no_grad():
            for exact, rough in zip(said(subject(pixels)), said(lower(pixels)), strict=True):
                assert rough.dtype == torch.bfloat16
                assert float(torch.cosine_similarity(exact, rough.float(), dim=-1).mean()) > 0.98

    def test_it_shows_the_tokens_its_author_measured(self, subject: Subject) -> None:
        file = subject.frozen.plugin.golden(subject.frozen.options)
        if file is None:
            pytest.skip("no golden tokens beside the plug-in")
        golden = weights.read(file)
        for key, found in subject(golden["images"])._asdict().items():
            if found is None:
                continue
            torch.testing.assert_close(found, golden[key], rtol=1e-4, atol=1e-4)

    # --- the module -----------------------------------------------------------------------------

    def test_it_stays_frozen(self, subject: Subject) -> None:
        subject.frozen.train()
        assert not any(m.training for m in subject.frozen.modules())
        assert not any(p.requires_grad for p in subject.frozen.parameters())

    def test_building_on_meta_gives_the_same_module_as_building_for_real(self, subject: Subject) -> None:
        real = subject.frozen.plugin.build(subject.frozen.options)
        assert shapes(real) == shapes(subject.frozen.module)
        real.load_state_dict(subject.frozen.module.state_dict())
        pixels = images(1, subject.spec.size)
        twin = Frozen(subject.frozen.plugin, subject.frozen.options, subject.name)
        twin.module = real.eval()
        with torch.no_grad():
            for ours, theirs in zip(subject(pixels), twin(pixels), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    def test_it_has_no_device_and_no_dtype_of_its_own(self, subject: Subject) -> None:
        twin = Frozen(subject.frozen.plugin, subject.frozen.options, subject.name)
        assert all(t.is_meta for t in (*twin.module.parameters(), *twin.module.buffers())), "build() made real tensors"
        twin.module.to(torch.float64)
        floats = torch.zeros(1, 3, subject.spec.size, subject.spec.size, dtype=torch.float64, device="meta")
        for tokens in said(twin(floats)):
            assert tokens.is_meta and tokens.dtype == torch.float64

    # --- weights --------------------------------------------------------------------------------

    def test_files_that_do_not_fit_are_refused(self, subject: Subject) -> None:
        good = subject.file_state
        longest = max(good, key=lambda name: good[name].ndim)
        missing = {n: t for n, t in good.items() if n != longest}
        wrong = {**good, longest: good[longest][..., :-1] if good[longest].shape[-1] > 1 else good[longest][:-1]}
        subject.match(good)
        for bad in (missing, {**good, "no.such.entry": torch.zeros(3)}, wrong):
            with pytest.raises(TeacherError, match="does not fit"):
                subject.match(bad)


class Subject:
    """The plug-in under test, opened once per class."""

    def __init__(self, name: str, options: dict[str, Any] | None, weights_: str | None) -> None:
        given = find(name).small if options is None else options
        auto = describe(name, TeacherSection.model_validate(given))
        self.name, self.has_file = name, weights_ is not None or auto.bundled is not None
        source = weights_ or ("auto" if self.has_file or auto.brings_its_own else "random")
        self.section = TeacherSection.model_validate({**given, "weights": source})
        self.frozen = open_frozen(name, self.section)
        self.spec = self.frozen.spec

    def __call__(self, pixels: Tensor) -> Features:
        with torch.no_grad():
            return self.frozen(pixels)

    @property
    def sides(self) -> list[int]:
        """Its native size, and a larger one where it understands others."""
        step = self.spec.multiple or self.spec.patch
        return [self.spec.size] if self.spec.fixed_size else [self.spec.size, self.spec.size + 2 * step]

    @cached_property
    def file_state(self) -> dict[str, Tensor]:
        """What its weights file holds, as it is written; its own entries where there is no file."""
        if not self.has_file:
            return dict(self.frozen.module.state_dict())
        return weights.read(files.require(describe(self.name, self.section).wanted, self.name))

    def match(self, state: dict[str, Tensor]) -> None:
        """Rename and match, or match alone where the entries already carry the module's names."""
        own = renamed(self.frozen, state, self.name) if self.has_file else state
        weights.match(own, self.frozen.module, self.name)


def said(tokens: Features) -> list[Tensor]:
    """Those kinds that it has."""
    return [t for t in tokens if t is not None]


def images(count: int, side: int) -> Tensor:
    """Smooth, different from each other, the same in every run: (count, 3, side, side) uint8."""
    drawn = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(side))
    return (nn.functional.interpolate(drawn, (side, side), mode="bilinear") * 255).to(torch.uint8)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter and buffer that a file would hold."""
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}
