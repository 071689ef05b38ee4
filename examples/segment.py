"""A linear layer on frozen patch tokens that says what each patch shows.

python examples/segment.py MODEL IMAGES MASKS     every image has a mask of its name, a PNG whose greys are classes
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import functional as pictures

from unicscale import load


def truth(model, mask):  # the class of every patch, seen through the same cut as the image
    whole = pictures.resize(Image.open(mask), round(model.size * 256 / 224), pictures.InterpolationMode.NEAREST)
    cut, middle = pictures.pil_to_tensor(pictures.center_crop(whole, model.size)), model.patch // 2
    return cut[0, middle :: model.patch, middle :: model.patch].flatten().long()


def main(source, images, masks):
    model = load(source)
    files = sorted(Path(images).iterdir())
    tokens = torch.cat([model(file).patches for file in files])  # (N, P, D)
    labels = torch.stack([truth(model, Path(masks, f"{file.stem}.png")) for file in files])
    seen, tested = slice(None, None, 2), slice(1, None, 2)  # every second image is kept for the test

    head = torch.nn.Sequential(torch.nn.LayerNorm(model.width), torch.nn.Linear(model.width, int(labels.max()) + 1))
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(head(tokens[seen]).flatten(0, 1), labels[seen].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    right = head(tokens[tested]).argmax(-1) == labels[tested]
    print(f"patches named rightly  {100 * right.float().mean():.1f} %")


main(*sys.argv[1:])
