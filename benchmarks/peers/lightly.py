"""lightly-train's distillation, from its package in an environment of its own; it takes one teacher."""

from __future__ import annotations

import sys
from pathlib import Path

import lightly_train  # type: ignore[import-not-found]
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.peers.clock import Asked, Clock


def main(asked: Asked) -> None:
    """Until the clock ends it."""
    from lightly_train._models import package_helpers  # type: ignore[import-not-found]

    name = "dinov2/vits14-notpretrained"  # nothing is downloaded
    weights = Path(asked.out).with_suffix(".pth")
    weights.parent.mkdir(parents=True, exist_ok=True)
    torch.save(package_helpers.get_wrapped_model(model=name, num_input_channels=3).get_model().state_dict(), weights)
    register_optimizer_step_post_hook(Clock(asked).tick)
    lightly_train.pretrain(
        out=asked.out,
        data=asked.images,
        model=name,
        method="distillationv2",
        method_args={"teacher": name, "teacher_weights": str(weights)},
        transform_args={"image_size": (asked.size, asked.size)},
        batch_size=asked.batch,
        num_workers=2,
        epochs=1000,
        accelerator="cpu",
        devices=1,
        precision="bf16-mixed" if asked.dtype == "bf16" else "32-true",
        overwrite=True,
    )


if __name__ == "__main__":
    main(Asked.from_argument(sys.argv[1]))
