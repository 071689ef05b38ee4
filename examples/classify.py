"""How good a frozen encoder is at naming images: k-NN and logistic regression on its summaries.

python examples/classify.py MODEL TRAIN TEST      two folders with one folder per class
"""

import sys

import torch
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from unicscale import load


def summaries(model, folder):
    images = DataLoader(ImageFolder(folder, transform=model.transform), batch_size=64)
    parts = [(model(pixels).summary, labels) for pixels, labels in images]
    features, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return torch.nn.functional.normalize(features, dim=-1), labels


def main(source, train, test):
    model = load(source)
    bank, known = summaries(model, train)
    asked, truth = summaries(model, test)

    nearest = (asked @ bank.T).topk(min(5, len(bank))).indices
    guess = known[nearest].mode(dim=1).values
    print(f"k-NN    {100 * (guess == truth).float().mean():.1f} %")

    linear = LogisticRegression(C=10.0, max_iter=1000).fit(bank, known)
    print(f"linear  {100 * linear.score(asked, truth):.1f} %")


main(*sys.argv[1:])
