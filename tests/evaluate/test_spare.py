"""How much of a model is used: what is pruned, what whitening does, and what the scores are measured against."""

import pytest
import timm
import torch

from unicscale.evaluate.metrics.spare import Whitening, matrices, prune
from unicscale.evaluate.results.compare import tabulate
from unicscale.evaluate.score import Score
from unicscale.evaluate.sets.names import GROUPS, SMALL
from unicscale.evaluate.tasks.utility import Prune, Spare


@pytest.fixture
def vit() -> torch.nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        reg_tokens=2,
        num_classes=5,
    )


def test_only_weight_matrices_of_the_encoder_are_pruned(vit):
    torch.nn.init.constant_(vit.pos_embed, 1e-6)  # the smallest of all: magnitude alone would take them first
    pruned = dict(prune(vit, 0.5).named_parameters())
    changed = {name for name, p in vit.named_parameters() if not torch.equal(p, pruned[name])}
    assert changed == {"patch_embed.proj.weight"} | {
        f"blocks.{n}.{part}.weight" for n in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    held = torch.cat([p.flatten() for p in matrices(prune(vit, 0.5))])
    assert (held == 0).double().mean().item() == pytest.approx(0.5, abs=0.01)


def test_whitened_components_are_uncorrelated_and_of_unit_deviation():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4000, 24, generator=generator) @ torch.randn(24, 24, generator=generator) + 3
    held = Whitening(24)
    for part in tokens.split(700):
        held.add(part)
    found = dict(held.projections())
    assert list(found) == [8, 16, 24]
    for count, project in found.items():
        covariance = torch.cov(project(tokens).T, correction=0)
        torch.testing.assert_close(covariance, torch.eye(count), atol=1e-3, rtol=0)
    assert project(tokens[None, :50]).shape == (1, 50, 24)


class Halving(Spare):
    def lessened(self, subject, shelf):
        yield "all", Score("x", 80.0)
        yield "50%", Score("x", 60.0)


def test_what_is_left_is_told_as_the_change_against_the_whole_model():
    scores = {score.name: score.value for score in Halving("prune").run(None, None)}  # type: ignore[arg-type]
    assert scores == {"prune/all": 80.0, "prune/50%": 60.0, "prune/50%/change": -25.0}
    assert Prune("prune").probe.name == "imagenet", "the paper's probe, with its search"


def test_groups_are_the_papers_and_are_means_of_whole_groups():
    rows = [{"name": name, "value": float(n), "higher_is_better": True} for n, name in enumerate(SMALL)]
    rows += [
        {"name": f"imagenet/imagenet_{x}", "value": v, "higher_is_better": True} for x, v in (("r", 40), ("sketch", 30))
    ]
    table = tabulate([{"model": "ours", "scores": rows}])
    assert table["fine_grained"]["ours"]["value"] == 3.5 and table["domain_shift"]["ours"]["value"] == 35
    assert not {"transfer", "cog", "long_tail"} & set(table)
    assert [len(GROUPS[name]) for name in ("transfer", "fine_grained", "cog", "long_tail", "domain_shift")] == [
        15,
        8,
        5,
        2,
        2,
    ]
