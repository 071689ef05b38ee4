"""The data sets by name, without their readers: a table of results needs no torch."""

from __future__ import annotations

SHIFTED = ("imagenet_v2", "imagenet_r", "imagenet_sketch")
LARGE = (*(f"cog_l{level}" for level in range(1, 6)), "inat2018", "inat2019")  # SGD on l2-normalised features
SMALL = ("aircraft", "cars196", "dtd", "eurosat", "flowers", "pets", "food101", "sun397")
TRANSFER = (*LARGE[:5], *SMALL, *LARGE[5:])  # the fifteen whose mean the paper calls transfer
