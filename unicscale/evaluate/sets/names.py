"""The data sets by name, without their readers: a table of results needs no torch."""

from __future__ import annotations

SHIFTED = ("imagenet_v2", "imagenet_r", "imagenet_sketch")
LARGE = (*(f"cog_l{level}" for level in range(1, 6)), "inat2018", "inat2019")  # SGD on l2-normalised features
SMALL = ("aircraft", "cars196", "dtd", "eurosat", "flowers", "pets", "food101", "sun397")
TRANSFER = (*LARGE[:5], *SMALL, *LARGE[5:])  # the fifteen whose mean the paper calls transfer
GROUPS = {  # name of the mean -> scores it is the mean of, as the paper groups them (Figure 1)
    "transfer": TRANSFER,
    "fine_grained": SMALL,
    "cog": LARGE[:5],
    "long_tail": LARGE[5:],
    "domain_shift": ("imagenet/imagenet_r", "imagenet/imagenet_sketch"),
}
