"""What leans on a teacher's own parts: its text tower, its classifier; against open_clip and the golden logits."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from unicscale.errors import DataError, RecipeError
from unicscale.evaluate.lenders import Lender
from unicscale.evaluate.opening import guess, open_subject
from unicscale.evaluate.tasks.borrowed import which
from unicscale.evaluate.tasks.heads import head_logits
from unicscale.evaluate.tasks.zero_shot import text_classifier, zero_shot_predict
from unicscale.evaluate.terms import Subject
from unicscale.objective.standardize import Standardizer
from unicscale.recipe.sections import TeacherSection
from unicscale.teacher.frozen import open_teacher

NAMES = ["tench", "goldfish", "great white shark"]
TEMPLATES = [lambda name: f"a photo of a {name}.", lambda name: f"art of the {name}."]


@pytest.fixture(scope="module")
def shapes(golden) -> dict:
    return {name: one["arch"] for name, one in json.loads((golden / "teachers" / "teachers.json").read_text()).items()}


def few_letters(texts: list[str]) -> torch.Tensor:
    """The golden text tower knows 100 tokens, and takes the largest for the end."""
    rows = [[*(ord(letter) % 98 for letter in text[:15]), 99] for text in texts]
    return torch.tensor([row + [0] * (16 - len(row)) for row in rows])


def reference_clip(golden, shape: dict) -> open_clip.CLIP:
    text = shape["text"]
    clip = open_clip.CLIP(
        shape["clip_embed_dim"],
        {"image_size": shape["img_size"], "layers": shape["depth"], "width": shape["embed_dim"],
         "head_width": shape["head_width"], "patch_size": shape["patch_size"]},
        {"context_length": text["context_length"], "vocab_size": text["vocab_size"], "width": text["width"],
         "heads": text["heads"], "layers": text["layers"]},
        quick_gelu=True,
    )  # fmt: skip
    state = torch.load(golden / "teachers" / "metaclip.pth", weights_only=True)["state_dict"]
    clip.load_state_dict({name.removeprefix("module."): value for name, value in state.items()}, strict=False)
    return clip.eval()


def test_zero_shot_is_open_clips_own(golden, shapes, monkeypatch):
    reference = reference_clip(golden, shapes["metaclip"])
    weights = str(golden / "teachers" / "metaclip.pth")
    ours = open_teacher("metaclip", weights, {"size": shapes["metaclip"], "text": True})
    monkeypatch.setattr(ours, "tokenize", few_letters)
    expected = open_clip.build_zero_shot_classifier(reference, few_letters, NAMES, TEMPLATES)  # (E, classes)
    classifier = text_classifier(ours, NAMES, TEMPLATES)
    torch.testing.assert_close(classifier, expected.T, rtol=1e-4, atol=1e-5)
    images = load_file(golden / "teachers" / "metaclip.embeddings.safetensors")["image"]
    with torch.no_grad():
        logits = reference.encode_image(images, normalize=True) @ expected
        summaries = ours(images).summary
    assert torch.equal(zero_shot_predict(ours, summaries, classifier), logits.argmax(1))
    embedding = torch.nn.functional.normalize(ours.embed(summaries), dim=-1)
    torch.testing.assert_close(embedding @ classifier.T, logits, rtol=1e-4, atol=1e-5)


def test_a_head_on_standardised_and_restored_tokens_gives_the_golden_logits(golden, shapes):
    teacher = open_teacher("deit3", str(golden / "teachers" / "deit3.pth"), {"size": shapes["deit3"]})
    held = load_file(golden / "teachers" / "deit3.classifier.safetensors")
    standardizer = Standardizer(32)
    with torch.no_grad():
        summary = teacher(held["image"]).summary
        standardizer(summary, momentum=1.0)
        answer = standardizer.normalise(summary)  # what a perfect student would say
    assert not torch.allclose(answer, summary)
    torch.testing.assert_close(head_logits(teacher, standardizer.invert(answer)), held["logits"], rtol=1e-4, atol=1e-5)


def test_the_official_checkpoint_knows_its_teachers_and_their_statistics(golden):
    subject = open_subject(str(golden / "unic_official_tiny.pth"), torch.device("cpu"))
    assert subject.taught_by == ("deit3_vitbase_16", "dino_vitbase_16")
    expected = load_file(golden / "unic_official_tiny.expected.safetensors")
    assert subject.see is not None and subject.invert is not None
    answer = subject.see(expected["image_56"]).answers["deit3_vitbase_16"].summary
    torch.testing.assert_close(answer, expected["projected_56.deit3_vitbase_16.cls"], rtol=1e-4, atol=1e-5)
    held = torch.load(golden / "unic_official_tiny.pth", weights_only=False)["teacher_ft_stats"]["deit3_vitbase_16"][
        "cls"
    ]
    by_hand = answer * (held["std"] + 1e-6) + held["mean"]
    torch.testing.assert_close(subject.invert("deit3_vitbase_16", answer), by_hand, rtol=1e-5, atol=1e-5)
    assert which(subject, None, "classify") == ["deit3_vitbase_16"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("deit3_vitbase_16", "deit3"), ("dinov2_vitgiant_14", "dinov2"), ("dino_vitbase_16", "dino"),
     ("metaclip_vithuge_14", "metaclip"), ("ibot_vitbase_16", "ibot"), ("mine", "mine")],
)  # fmt: skip
def test_the_authors_teacher_names_lead_to_our_plugins(theirs, ours):
    assert guess(theirs) == ours


def test_a_projector_the_student_never_had_is_refused_by_name():
    module = torch.nn.Identity()
    absent = Lender("dino", TeacherSection(), None)  # not installed here
    subject = Subject("ours", module, module, "", 32, 8, lenders={"dino": absent, "deit3": Lender.of("deit3", {})})
    assert which(subject, None, "classify") == ["deit3"]
    with pytest.raises(RecipeError, match="ours has no projector for 'metaclip'; it was taught by dino, deit3"):
        which(subject, "metaclip", "embed_text")


def test_a_summary_of_another_width_is_refused(golden, shapes):
    teacher = open_teacher("deit3", str(golden / "teachers" / "deit3.pth"), {"size": shapes["deit3"]})
    with pytest.raises(DataError, match="summaries are 48 wide, but teacher 'deit3' is 32 wide"):
        head_logits(teacher, torch.zeros(2, 48))
