"""Swag keeps the contract that unicscale relies on."""

import torch
from torchvision.models import VisionTransformer

from unicscale.teacher import open_teacher
from unicscale.testing import TeacherContract


class TestSwag(TeacherContract):
    teacher = "swag"


@torch.no_grad()
def test_torchvisions_own_classifier_agrees(tmp_path) -> None:
    theirs = VisionTransformer(224, 16, 2, 2, 64, 256).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    torch.save(theirs.state_dict(), tmp_path / "swag.pth")
    ours = open_teacher("swag", str(tmp_path / "swag.pth"), {"size": "tiny"})
    images = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(theirs.heads(ours(images).summary), theirs(images))
