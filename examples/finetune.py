"""Train the whole encoder and a head on labelled images, in a plain PyTorch loop.

python examples/finetune.py MODEL TRAIN OUT.pt [EPOCHS]      a folder with one folder per class
"""

import sys

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from unicscale import load


def main(source, train, out, epochs="3"):
    torch.manual_seed(0)
    encoder = load(source, trainable=True).train()  # without trainable=True it is frozen, and train() refuses
    data = ImageFolder(train, transform=encoder.transform)
    head = torch.nn.Linear(encoder.width, len(data.classes))
    groups = [{"params": encoder.parameters(), "lr": 1e-4}, {"params": head.parameters(), "lr": 1e-2}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.05)

    for epoch in range(int(epochs)):
        right = total = 0
        for images, labels in DataLoader(data, batch_size=32, shuffle=True):
            logits = head(encoder(images).summary)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            right, total = right + int((logits.argmax(1) == labels).sum()), total + len(labels)
        print(f"epoch {epoch + 1}: {100 * right / total:.1f} % of the training images")
    torch.save({"encoder": encoder.state_dict(), "head": head.state_dict(), "classes": data.classes}, out)


main(*sys.argv[1:])
