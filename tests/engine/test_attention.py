"""Which attention kernel is asked first: what is asked about, how a choice is made, kept, agreed on, and followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend

from tests.kit import ranks
from tests.kit.recipe import SHAPE, write_recipe
from unicscale.engine import attention, build_engine
from unicscale.engine.attention import Call, fastest, settle
from unicscale.errors import RunError
from unicscale.ranks.world import World
from unicscale.recipe import Recipe, load
from unicscale.student.model import Student, build_student
from unicscale.teacher.targets import Teachers

ON_A_GPU = torch.device("cuda")


class Clock:
    """Times by kernel, the same for every call; remembers what it was asked."""

    def __init__(self, **times: float | None) -> None:
        self.times, self.asked = {"torch": 10.0, "cudnn": None, "flash": None, "efficient": None} | times, list[Call]()

    def __call__(self, name: str, call: Call) -> float | None:
        self.asked.append(call)
        return self.times[name]


class Made:
    """A recipe's student and teachers on the host, in the GPU's place."""

    def __init__(self, folder: Path, world: World | None = None, **changes: Any) -> None:
        world = self.world = world or World()
        teachers = {
            "one": {"plugin": "dino", "weights": "random", "size": SHAPE},
            "two": {"plugin": "dino", "weights": "random", "size": SHAPE, "resolution": "native"},
        }
        changes = {"engine__dtype": "bf16", "engine__compile": False, "teachers": teachers} | changes
        self.recipe: Recipe = load(write_recipe(folder / "recipe.yaml", folder, folder / "run", **changes))
        widths = Teachers.widths_of(self.recipe.teachers)
        size = self.recipe.sizes[0]
        self.student: Student = build_student(self.recipe.student, self.recipe.projector, widths, size)
        made: dict[str, Any] = {"seed": 0, "world": world, "micro_batches": 1, "size": size}
        self.engine = build_engine(self.recipe.engine, self.student, **made)
        self.teachers = Teachers.build(
            self.recipe.teachers, self.recipe.standardize, student_patch=self.student.trunk.patch, engine=self.engine,
            engine_section=self.recipe.engine, world=world,
        )  # fmt: skip

    def settle(
        self, folder: Path, time: Any, resumed: bool = False, device: torch.device = ON_A_GPU
    ) -> attention.Chosen:
        self.world.device = device
        models = self.teachers.models(self.recipe)
        return settle(
            self.recipe, self.world, folder, self.student, self.engine.student, models, resumed=resumed, time=time
        )


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


@pytest.fixture(autouse=True)
def order() -> Any:
    """Torch's own, which it is the process's: no test leaves another behind."""
    before = first_now()
    yield
    torch._C._set_sdp_priority_order([int(before), *(n for n in torch._C._get_sdp_priority_order() if n != before)])


def first_now() -> int:
    return torch._C._get_sdp_priority_order()[0]


def test_every_model_is_asked_about_at_every_size_in_its_own_precision(made: Made, tmp_path: Path) -> None:
    clock = Clock(flash=5.0)
    chosen = made.settle(tmp_path, clock)
    # 32 and 48 pixels of 8 a patch are 16 and 36 patches; `two` sees 32 pixels whatever the student sees
    assert chosen == {"student": {32: "flash", 48: "flash"}, "one": {32: "flash", 48: "flash"}, "two": {32: "flash"}}
    seen = {(call.query, call.dtype, call.learns) for call in clock.asked}
    wanted = {((8, 2, tokens, 32), torch.bfloat16, True) for tokens in (17, 37)}
    wanted |= {((8, 2, tokens, 16), torch.bfloat16, False) for tokens in (17, 37)}
    assert seen == wanted
    assert len(clock.asked) == 4 * 4, "what is asked twice is timed once: four kernels for each of four calls"


CALL = Call((1, 1, 2, 8), (1, 1, 2, 8), (1, 1, 2, 8), None, False, torch.bfloat16, False)


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ({"cudnn": 8.0, "flash": 9.0}, "cudnn"),
        ({"flash": 9.0, "efficient": 8.0}, "efficient"),
        ({"cudnn": 9.9, "flash": 9.95}, "torch"),  # a gain that is noise
        ({}, "torch"),
        ({"torch": None}, "torch"),
    ],
)
def test_the_fastest_is_chosen_where_it_is_worth_it(times: dict[str, float | None], wanted: str) -> None:
    assert fastest([CALL], Clock(**times)) == wanted


def test_a_kernel_that_cannot_do_all_calls_is_out() -> None:
    other = CALL._replace(causal=True)

    def time(name: str, call: Call) -> float | None:
        return {"torch": 10.0, "cudnn": 1.0 if call is CALL else None, "flash": 6.0, "efficient": None}[name]

    assert fastest([CALL, other], time) == "flash" and fastest([CALL], time) == "cudnn"
    assert fastest([], time) == "torch", "a model without torch's attention"


def test_a_choice_is_kept_in_the_run_folder_and_read_back(made: Made, tmp_path: Path) -> None:
    first = made.settle(tmp_path, Clock(flash=5.0))
    again = made.settle(tmp_path, clock := Clock(efficient=1.0), resumed=True)
    assert again == first and not clock.asked
    kept = tmp_path / attention.NAME
    assert json.loads(kept.read_text())["student"] == {"32": "flash", "48": "flash"}
    kept.write_text(kept.read_text()[:-9])
    with pytest.raises(RunError, match="cannot be read"):
        made.settle(tmp_path, clock, resumed=True)
    kept.write_text('{"student": {"32": "slow"}}')
    with pytest.raises(RunError, match=r"names \['slow'\]"):
        made.settle(tmp_path, clock, resumed=True)


def test_a_run_that_began_without_a_choice_goes_on_without(made: Made, tmp_path: Path) -> None:
    assert made.settle(tmp_path, clock := Clock(flash=5.0), resumed=True) == {}
    assert not clock.asked and not (tmp_path / attention.NAME).exists()


@pytest.mark.parametrize(
    "changes", [{"engine__attention": "torch"}, {"engine__deterministic": True}, {"engine__attention": "cudnn"}]
)
def test_what_the_recipe_says_is_not_measured(changes: dict[str, Any], tmp_path: Path) -> None:
    chosen = Made(tmp_path, **changes).settle(tmp_path, clock := Clock(flash=5.0))
    assert not clock.asked and not (tmp_path / attention.NAME).exists()
    assert {kernel for of in chosen.values() for kernel in of.values()} <= {changes.get("engine__attention")}


def blocks(*modules: Any) -> set[bool]:
    return {part.fused_attn for module in modules for part in module.modules() if hasattr(part, "fused_attn")}


def on_host(made: Made, folder: Path, resumed: bool = False) -> attention.Chosen:
    return made.settle(folder, never, resumed, torch.device("cpu"))


def never(name: str, call: Call) -> float:
    raise AssertionError("nothing is measured on a host")


def test_on_a_host_attention_in_bf16_is_written_out(made: Made, tmp_path: Path) -> None:
    everybody = made.engine.student, made.teachers.placed["one"], made.teachers.placed["two"]
    assert blocks(*everybody) == {True}
    plain = {"student": {32: "plain", 48: "plain"}, "one": {32: "plain", 48: "plain"}, "two": {32: "plain"}}
    assert on_host(made, tmp_path) == plain
    assert blocks(*everybody) == {False}
    made.engine.resize_positions(48)
    assert blocks(made.engine.student) == {False}, "a student that is built anew"
    assert on_host(made, tmp_path, resumed=True) == plain, "kept"


@pytest.mark.parametrize(("resumed", "changes"), [(True, {}), (False, {"engine__dtype": "fp32"})])
def test_on_a_host_fp32_and_runs_of_before_are_left_alone(
    resumed: bool, changes: dict[str, Any], tmp_path: Path
) -> None:
    made = Made(tmp_path, **changes)
    assert on_host(made, tmp_path, resumed) == {} and not (tmp_path / attention.NAME).exists()
    assert blocks(made.engine.student, made.teachers.placed["one"]) == {True}


def test_each_forward_puts_its_own_kernel_first_and_a_student_built_anew_does_too(made: Made, tmp_path: Path) -> None:
    held = {"student": {"32": "cudnn", "48": "torch"}, "one": {"32": "efficient"}, "two": {"32": "torch"}}
    (tmp_path / attention.NAME).write_text(json.dumps(held))
    torchs = first_now()
    made.settle(tmp_path, Clock(), resumed=True)
    student: Any = made.engine.student
    seen = []

    def look(side: int, model: Any) -> None:
        with torch.no_grad():
            model(torch.zeros(2, 3, side, side))
        seen.append(first_now())

    student.eval()
    look(32, made.teachers.placed["one"])
    look(32, made.teachers.placed["two"])
    look(32, student)
    made.world.device = torch.device("cpu")
    made.engine.resize_positions(48)
    student = made.engine.student.eval()  # type: ignore[attr-defined]
    look(48, student)
    look(32, student)
    cudnn, efficient = int(SDPBackend.CUDNN_ATTENTION), int(SDPBackend.EFFICIENT_ATTENTION)
    assert seen == [efficient, torchs, cudnn, torchs, cudnn]


def test_a_kernel_that_is_first_leaves_the_others_behind_it() -> None:
    before = torch._C._get_sdp_priority_order()
    for name, backend in attention.BACKENDS.items():
        with attention.first(name):
            assert first_now() == int(backend)
            assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.math_sdp_enabled()
    assert torch._C._get_sdp_priority_order() == before


def agree(folder: str) -> tuple[attention.Chosen, int]:
    """A rank whose own clock is not the other's."""
    from unicscale.recipe.sections import EngineSection

    world = World.start(EngineSection(device="cpu"))
    clock = Clock(flash=5.0) if world.main else Clock(cudnn=1.0)
    own = Path(folder) / str(world.rank)
    own.mkdir()
    made = Made(own, world)
    chosen = made.settle(Path(folder), clock)
    world.device = torch.device("cpu")
    world.close()
    return chosen, len(clock.asked)


def test_ranks_take_what_rank_0_measured(tmp_path: Path) -> None:
    (one, asked), (other, none) = ranks.run(2, agree, str(tmp_path))
    assert one == other and one["student"][32] == "flash"
    assert asked and not none
