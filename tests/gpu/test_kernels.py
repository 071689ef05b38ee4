"""What only a GPU can show of attention's kernels and recorded teachers: which one ran, and that it said the same."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.gpu.test_cuda import Bench, bench, start
from tests.teacher.test_targets import section
from unicscale.engine import attention
from unicscale.engine.attention import Call, milliseconds
from unicscale.errors import TeacherError
from unicscale.teacher.frozen import open_frozen
from unicscale.teacher.replay import Recorder, Replayed

__all__ = ["bench"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.timeout(600),
]
SHAPE = (8, 12, 257, 64)
CALL = Call(SHAPE, SHAPE, SHAPE, None, False, torch.bfloat16, True)
OPERATOR = {"cudnn": "cudnn_attention", "flash": "flash_attention", "efficient": "efficient_attention"}


def operators(act: Callable[[], object]) -> str:
    """The names of all that ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        act()
    return " ".join(event.key for event in profile.key_averages())


@pytest.mark.parametrize("name", attention.BACKENDS)
@pytest.mark.parametrize("compiled", [False, True])
def test_the_kernel_that_is_first_is_the_one_that_runs(name: str, compiled: bool) -> None:
    if milliseconds(name, CALL) is None:
        pytest.skip(f"{name} cannot do this on {torch.cuda.get_device_name()}")
    torch._dynamo.reset()

    def act(query: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, query, query) + 1

    call = torch.compile(act, fullgraph=True, dynamic=False) if compiled else act
    query = torch.randn(SHAPE, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    order = attention.Order()
    order.put_first(name)
    said = operators(lambda: call(query).sum())
    assert f"_scaled_dot_product_{OPERATOR[name]}" in said
    order.put_first(attention.TORCH)


def test_a_kernel_that_cannot_is_out_and_times_are_times() -> None:
    assert milliseconds("flash", CALL._replace(dtype=torch.float32)) is None
    taken = milliseconds("torch", CALL)
    assert taken is not None and 0 < taken < 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recorded_teacher_says_the_same(dtype: torch.dtype) -> None:
    record, teachers = Recorder(), [open_frozen(name, section(), device="cuda").to(dtype) for name in ("one", "two")]
    replayed = [Replayed(one.name, one, record) for one in teachers]
    drawn = torch.Generator(device="cuda").manual_seed(0)
    batches = [torch.randn(2, 3, side, side, device="cuda", generator=drawn) for side in (64, 32, 64, 128, 32, 64)]
    # as sizes that are drawn per teacher come: recordings that share memory are played in every order
    pairs = [(number, batch) for batch in batches for number in (0, 1)] + [(1, batches[0]), (0, batches[1])]
    with torch.no_grad():
        found = [replayed[number](batch) for number, batch in pairs]
        for (number, batch), said in zip(pairs, found, strict=True):
            for one, other in zip(teachers[number](batch), said, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert [len(one.recordings) for one in replayed] == [3, 3]


def test_a_forward_that_waits_for_the_host_is_refused_in_words() -> None:
    with pytest.raises(TeacherError, match=r"engine\.cuda_graphs wants forwards that ask nothing of the host"):
        Replayed("one", lambda images: images * images.sum().item(), Recorder())(torch.ones(2, 3, 8, 8, device="cuda"))  # type: ignore


def test_a_run_goes_on_with_the_kernels_that_its_folder_names(bench: Bench) -> None:
    recipe = bench.recipe("chosen", engine__dtype="bf16")
    run = recipe.parent / "run"
    start(recipe, "--max-steps", "5").communicate(timeout=400)
    kept = run / attention.NAME
    chosen = json.loads(kept.read_text())
    assert set(chosen) == {"student", "one", "two"}
    kept.write_text(json.dumps({name: dict.fromkeys(of, "efficient") for name, of in chosen.items()}))
    second = start(recipe)
    said = second.communicate(timeout=400)[0]
    assert second.returncode == 0, said
    assert "attention: student at 32: efficient" in said
