"""Several teachers into one ViT in a loop of your own; only `load`, `Standardizer` and `distil` are unicscale's.

python examples/own_loop.py FOLDER EPOCHS STUDENT TEACHER[=FILE]...    names of timm's ViTs with patches of one size
"""

import sys

import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, PILToTensor, RandomResizedCrop

from unicscale import Features, Standardizer, distil, load


def main(folder, epochs, arch, *words):
    torch.manual_seed(0)
    teachers = {n: load(f"timm:{n}", weights=file or None) for n, _, file in (w.partition("=") for w in words)}
    student = timm.create_model(arch, num_classes=0, dynamic_img_size=True)
    heads = {n: [torch.nn.Linear(student.num_features, width) for width in t.widths] for n, t in teachers.items()}
    scales = {n: [Standardizer(width) for width in t.widths] for n, t in teachers.items()}
    learning = torch.nn.ModuleList([student, *map(torch.nn.ModuleList, heads.values())])
    optimiser = torch.optim.AdamW(learning.parameters(), lr=1e-3, weight_decay=0.03)
    cuts = [RandomResizedCrop(max(t.spec.size for t in teachers.values())), PILToTensor()]  # uint8: they normalise
    data = ImageFolder(folder, Compose(cuts))
    for epoch in range(int(epochs)):
        for step, (images, _) in enumerate(DataLoader(data, batch_size=16, shuffle=True, drop_last=True)):
            targets, guesses, tokens = {}, {}, student.forward_features(images / 127.5 - 1)
            for n, teacher in teachers.items():
                targets[n] = Features(*(s(t, momentum=0.1) for s, t in zip(scales[n], teacher(images), strict=True)))
                guesses[n] = Features(heads[n][0](tokens[:, 0]), heads[n][1](tokens[:, 1:]))
            loss = distil(guesses, targets, p=0.5, key=(epoch, step), index=torch.arange(len(images))).total
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(f"epoch {epoch + 1}  loss {loss.item():.4f}")


main(*sys.argv[1:])
