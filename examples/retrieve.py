"""The images of a folder that look most like one image.

python examples/retrieve.py MODEL FOLDER IMAGE
"""

import sys
from pathlib import Path

import torch

from unicscale import load

KINDS = {".jpg", ".jpeg", ".png", ".webp"}


def main(source, folder, query):
    model = load(source)
    files = sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in KINDS)
    bank = torch.cat([model(files[first : first + 64]).summary for first in range(0, len(files), 64)])
    similar = torch.cosine_similarity(bank, model(query).summary)
    for place in similar.argsort(descending=True)[:5]:
        print(f"{similar[place]:.3f}  {files[place]}")


main(*sys.argv[1:])
