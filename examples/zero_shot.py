"""Names for an image that nobody trained for: the student's guess of its CLIP teacher, against that teacher's texts.

python examples/zero_shot.py RUN metaclip IMAGE "a cat" "a dog" size=huge    KEY=VALUE are options of the teacher
"""

import sys

import torch
import yaml

from unicscale import load


def main(source, name, image, *words):
    options = {key: yaml.safe_load(value) for key, found, value in (word.partition("=") for word in words) if found}
    texts = [word for word in words if "=" not in word]
    student = load(source, projectors=True)
    teacher = load(f"teacher:{name}", options=options | {"text": True})

    answer = student(image).answers[name]  # what the teacher would say, standardised
    summary = student.unstandardise(name, answer).summary
    with torch.no_grad():
        seen = torch.nn.functional.normalize(teacher.embed(summary), dim=-1)
        read = torch.nn.functional.normalize(teacher.embed_text(teacher.tokenize(texts)), dim=-1)
    for text, share in zip(texts, (100 * seen @ read.T).softmax(-1)[0], strict=True):
        print(f"{100 * share:5.1f} %  {text}")


main(*sys.argv[1:])
