"""Words of other tools for keys that recipes call differently: whoever writes one is told ours."""

from __future__ import annotations

RATE = "stages[].lr.peak: 3e-4"
# a word, wherever it stands -> our key
WORDS = {
    "batch_size": "data.images_per_step, over all ranks together (and data.micro_batch, per rank and backward)",
    "global_batch_size": "data.images_per_step",
    "per_device_train_batch_size": "data.micro_batch (and data.images_per_step, over all ranks together)",
    "precision": "engine.dtype: bf16",
    "amp": "engine.dtype: bf16",
    "fp16": "engine.dtype: bf16",
    "bf16": "engine.dtype: bf16",
    "mixed_precision": "engine.dtype: bf16",
    "lr": RATE,
    "learning_rate": RATE,
    "base_lr": RATE,
    "epochs": "stages[].epochs",
    "num_epochs": "stages[].epochs",
    "num_train_epochs": "stages[].epochs",
    "max_epochs": "stages[].epochs",
    "steps": "stages[].steps",
    "max_steps": "stages[].steps (or `unicscale train --max-steps`, which leaves the schedule as it is)",
    "warmup": "stages[].warmup: 5%",
    "warmup_epochs": "stages[].warmup_epochs",
    "warmup_steps": "stages[].warmup_steps",
    "weight_decay": "engine.weight_decay",
    "betas": "engine.betas",
    "grad_clip": "engine.clip",
    "clip_grad": "engine.clip",
    "optimizer": "engine (weight_decay, betas, clip) and stages[].lr",
    "scheduler": "stages[].lr (peak, end) and stages[].warmup",
    "num_workers": "data.workers",
    "workers": "data.workers",
    "img_size": "stages[].size",
    "image_size": "stages[].size",
    "resolution": "stages[].size",
    "size": "stages[].size",
    "gpus": "launch.gpus_per_node",
    "devices": "launch.gpus_per_node",
    "num_nodes": "launch.nodes",
    "wandb": "track.wandb: {project: NAME}",
    "logger": "track.wandb: {project: NAME}, or track.tensorboard: true",
    "output_dir": "out",
    "out_dir": "out",
    "model": "student.arch",
    "teacher": "teachers",
    "dataset": "data.train",
}


def translated(word: str) -> str:
    """A sentence that says what the word is called here; empty where nobody knows."""
    return f" Here it is {WORDS[word]}." if word in WORDS else ""
