"""Each metric against an independent reference on small data."""

import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from unicscale.contracts import Features
from unicscale.errors import DataError, RecipeError
from unicscale.evaluate import gain, knn_accuracy, linear_accuracy, linear_miou, linear_rmse
from unicscale.evaluate.metrics.depth import DepthHead, depth_errors
from unicscale.evaluate.metrics.knn import knn_predict
from unicscale.evaluate.metrics.linear import accuracy, fit_lbfgs, fit_sgd, held_out, lbfgs, sgd
from unicscale.evaluate.metrics.nearest import Best, Directions, nearest, picked
from unicscale.evaluate.metrics.probe import Schedule
from unicscale.evaluate.metrics.segment import miou, tally


def blobs(count: int, classes: int = 7, width: int = 24, noise: float = 2.0, seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return centres[labels] + noise * torch.randn(count, width, generator=generator), labels


# --- k-NN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_votes_as_scikit_learn_does_with_the_same_weights(k):
    bank, bank_labels = blobs(300)
    queries, labels = blobs(200, seed=1)
    reference = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = reference.fit(bank.double().numpy(), bank_labels.numpy()).predict(queries.double().numpy())
    ours = knn_predict(bank, bank_labels, queries, ks=[k])[k]
    assert np.array_equal(ours.numpy(), expected)
    assert knn_accuracy(bank, bank_labels, queries, labels, k=k) == pytest.approx(
        100 * (expected == labels.numpy()).mean()
    )


@pytest.mark.parametrize("screen", [False, True])
def test_chunks_of_bank_and_queries_find_what_one_product_finds(screen):
    bank, queries = blobs(500)[0], blobs(60, seed=1)[0]
    whole = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(bank, dim=1).T
    expected, rows = whole.topk(9)
    cosines, found = nearest(bank, queries, 9, bank_rows=37, query_rows=11, screen=screen)
    torch.testing.assert_close(cosines, expected)
    assert torch.equal(found, rows)


@pytest.mark.parametrize("alike", [0.0, 0.5, 20.0])  # so alike that bf16 cannot tell them apart
def test_screening_in_bf16_loses_none_of_the_nearest(alike, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 32, generator=generator) + alike for n in (4000, 400))
    products = []
    monkeypatch.setattr(
        "unicscale.evaluate.metrics.nearest.picked", lambda *given: products.append(given) or picked(*given)
    )
    expected, rows = nearest(bank, queries, 50, screen=False)
    cosines, found = nearest(bank, queries, 50, screen=True, bank_rows=500)
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-6)
    assert (found == rows).float().mean() > 0.99  # the rest are ties in fp32
    assert bool(products) == (alike < 20)  # where all are hits, the whole product is made


def test_the_screen_allows_for_how_far_rounding_moved_the_vectors():
    """With far coarser rounding than bf16's, so that a screen without allowance would lose some."""
    generator = torch.Generator().manual_seed(0)

    def coarse(count: int) -> Directions:
        exact = Directions.of(torch.randn(count, 16, generator=generator), screen=False).exact
        rounded = (exact + 0.003 * torch.randn(exact.shape, generator=generator)).bfloat16()
        return Directions(exact, rounded, (rounded.float() - exact).norm(dim=1))

    queries, first, second = coarse(2000), coarse(4000), coarse(200)
    best = Best(queries, 20)
    best.meet(first, 0)
    assert best._hits(second) is not None
    best.meet(second, 4000)
    expected = (queries.exact @ torch.cat([first.exact, second.exact]).T).topk(20).values
    torch.testing.assert_close(best.cosines, expected, rtol=0, atol=1e-6)


def test_a_half_precision_bank_needs_no_full_precision_copy():
    bank, bank_labels = blobs(300)
    queries, labels = blobs(200, seed=1)
    assert knn_accuracy(bank.half(), bank_labels, queries, labels) == knn_accuracy(
        bank.half().float(), bank_labels, queries, labels
    )


# --- logistic regression --------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 7])
def test_lbfgs_is_scikit_learns_logistic_regression(classes):
    train, labels = blobs(300, classes)
    test, truth = blobs(200, classes, seed=1)
    reference = LogisticRegression(C=0.1, max_iter=2000).fit(train.numpy(), labels.numpy())
    ours = lbfgs(train, labels, 0.1)
    assert np.array_equal(ours.predict(test).numpy(), reference.predict(test.numpy()))
    assert linear_accuracy(train, labels, test, truth, C=0.1) == pytest.approx(
        100 * reference.score(test.numpy(), truth.numpy())
    )


@pytest.mark.parametrize("classes", [2, 7])
def test_a_warm_start_ends_where_a_cold_one_does(classes):
    train, labels = blobs(300, classes)
    warm = lbfgs(train, labels, 0.1, start=lbfgs(train, labels, 0.01))
    cold = lbfgs(train, labels, 0.1)
    margins = [one.weight - one.weight.mean(0) for one in (warm, cold)]
    torch.testing.assert_close(*margins, atol=2e-3, rtol=0)


def test_sgd_converges_to_scikit_learns_solution():
    train, labels = blobs(400)
    decay = 1e-2
    ours = sgd(train, labels, [(0.1, decay)], classes=7, epochs=400, batch=400, seed=0)[0]
    # scikit-learn leaves the bias alone; so compare on centred features, where it hardly matters
    reference = LogisticRegression(C=1 / (decay * len(train)), max_iter=5000).fit(train.numpy(), labels.numpy())
    agreement = (ours.predict(train).numpy() == reference.predict(train.numpy())).mean()
    assert agreement > 0.98


def test_candidates_trained_together_are_those_trained_alone():
    train, labels = blobs(300)
    candidates = [(0.1, 1e-6), (1.0, 1e-4), (0.5, 0.0)]
    together = sgd(train, labels, candidates, classes=7, epochs=3, batch=64)
    for one, candidate in zip(together, candidates, strict=True):
        alone = sgd(train, labels, [candidate], classes=7, epochs=3, batch=64)[0]
        torch.testing.assert_close(one.weight, alone.weight)


def test_the_held_out_fifth_takes_a_fifth_of_every_class_and_leaves_each_an_example():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2])
    out = held_out(labels)
    assert [int(out[labels == c].sum()) for c in range(3)] == [10, 2, 0]
    assert not torch.equal(out, held_out(labels, seed=1))


@pytest.mark.parametrize("search", ["grid", "optuna"])
def test_searching_beats_a_bad_constant(search):
    train, labels = blobs(300, noise=3.0)
    test, truth = blobs(600, noise=3.0, seed=1)
    searched = fit_lbfgs(train, labels, search=search, trials=8, max_iter=200)
    assert accuracy(searched.predict(test), truth) > accuracy(lbfgs(train, labels, 1e-6).predict(test), truth) + 3
    by_sgd = fit_sgd(train, labels, classes=7, search=search, trials=4, epochs=10)
    assert accuracy(by_sgd.predict(test), truth) > 50
    assert set(by_sgd.chosen) == {"lr", "weight_decay"}


def test_optuna_where_it_is_not_installed_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    train, labels = blobs(60)
    with pytest.raises(RecipeError, match=r"pip install 'unicscale\[evaluate\]', or --search grid"):
        fit_lbfgs(train, labels, search="optuna")


# --- segmentation ---------------------------------------------------------------------------------


def test_miou_by_hand():
    truth = torch.tensor([[0, 0, 1, 255]])
    guess = torch.tensor([[0, 1, 1, 2]])
    # class 0: 1 of 2, class 1: 1 of 2, class 2 occurs only where ignored
    assert miou(tally(guess, truth, 3)) == pytest.approx(50.0)


def test_miou_is_that_of_torchmetrics():
    from torchmetrics.classification import MulticlassJaccardIndex

    generator = torch.Generator().manual_seed(0)
    guess, truth = (torch.randint(5, (4, 16, 16), generator=generator) for _ in range(2))
    truth[:, :2] = 255
    reference = MulticlassJaccardIndex(5, ignore_index=255)(guess, truth)
    assert miou(tally(guess, truth, 5)) == pytest.approx(100 * reference.item(), rel=1e-5)


def dense_world(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(3, (count, 2, 2), generator=generator).repeat_interleave(2, 1).repeat_interleave(2, 2)
    codes = torch.randn(3, 8, generator=torch.Generator().manual_seed(7))
    tokens = codes[small.flatten(1)] + 0.1 * torch.randn(count, 16, 8, generator=generator)
    return tokens, small.repeat_interleave(4, 1).repeat_interleave(4, 2)


def test_a_linear_head_segments_what_is_linearly_there_and_not_what_is_absent():
    (train, train_masks), (test, test_masks) = dense_world(40, 0), dense_world(20, 1)
    schedule = Schedule(steps=60, batch=8, lr=5e-2)
    assert linear_miou(train, train_masks, test, test_masks, 3, schedule=schedule) > 85
    noise = torch.randn(train.shape, generator=torch.Generator().manual_seed(3))
    assert linear_miou(noise, train_masks, noise[:20], test_masks, 3, schedule=schedule) < 50


# --- depth ----------------------------------------------------------------------------------------


def test_depth_errors_by_hand():
    errors = depth_errors(torch.tensor([[2.0, 3.0, 9.0]]), torch.tensor([[1.0, 3.0, 0.0]]))
    assert errors["rmse"] == pytest.approx(0.5**0.5)
    assert errors["abs_rel"] == pytest.approx(0.5)
    assert errors["delta1"] == errors["delta3"] == pytest.approx(50.0)


def test_rmse_is_that_of_torchmetrics():
    from torchmetrics.functional import mean_squared_error

    generator = torch.Generator().manual_seed(0)
    ours, truth = torch.rand(8, 8, generator=generator), torch.rand(8, 8, generator=generator) + 0.1
    reference = mean_squared_error(ours, truth, squared=False).item()
    assert depth_errors(ours, truth)["rmse"] == pytest.approx(reference, rel=1e-5)


def test_upsampling_logits_is_upsampling_features():
    generator = torch.Generator().manual_seed(0)
    head = DepthHead(6, 0.0, 1.0, bins=5).eval()
    with torch.no_grad():
        head.linear.weight.normal_(generator=generator)
        head.linear.norm.running_mean.normal_(generator=generator)
    features = Features(torch.randn(2, 6, generator=generator), torch.randn(2, 9, 6, generator=generator))
    maps = torch.nn.functional.interpolate(
        features.patches.transpose(1, 2).unflatten(2, (3, 3)), scale_factor=4, mode="bilinear"
    )
    fine = torch.cat([maps, features.summary[:, :, None, None].expand(-1, -1, 12, 12)], dim=1)
    expected = (head.linear(fine).softmax(1) * head.centres[:, None, None]).sum(1)
    torch.testing.assert_close(head(features), expected)


def test_a_linear_head_reads_depth_off_the_tokens():
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(60, 4, 4, generator=generator) * 0.8 + 0.1
    direction = torch.randn(8, generator=generator)
    tokens = depth.flatten(1)[..., None] * direction + 0.02 * torch.randn(60, 16, 8, generator=generator)
    features = Features(tokens.mean(1), tokens)
    first, rest = Features(*(t[:40] for t in features)), Features(*(t[40:] for t in features))
    schedule = Schedule(steps=120, batch=8, lr=5e-2)
    fitted = linear_rmse(first, depth[:40], rest, depth[40:], low=0, high=1, schedule=schedule)
    blind = Features(*(torch.randn(t.shape, generator=generator) for t in features))
    unseen = linear_rmse(
        Features(*(t[:40] for t in blind)),
        depth[:40],
        Features(*(t[40:] for t in blind)),
        depth[40:],
        low=0,
        high=1,
        schedule=schedule,
    )
    assert fitted < 0.12 < 0.2 < unseen


# --- shared ---------------------------------------------------------------------------------------


def test_no_metric_touches_the_global_generators():
    (train, masks), (test, test_masks) = dense_world(8, 0), dense_world(4, 1)
    x, y = blobs(60)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    short = Schedule(steps=2, batch=4, lr=1e-2)
    linear_miou(train, masks, test, test_masks, 3, schedule=short)
    features = Features(train.mean(1), train)
    linear_rmse(features, masks / 2, features, masks / 2, low=0, high=1, schedule=short)
    knn_accuracy(x, y, x, y)
    linear_accuracy(x, y, x, y)
    fit_sgd(x, y, classes=7, epochs=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


def test_the_gain_of_an_error_is_positive_when_it_falls():
    assert gain(84.0, 80.0) == pytest.approx(5.0)
    assert gain(0.4, 0.5, higher_is_better=False) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"queries": torch.full((4, 24), torch.nan)},
            "k-NN queries: the features of image 0 are not finite; "
            "the model is broken, or fp16 overflowed: try --dtype fp32",
        ),
        (
            {"queries": torch.zeros(4, 8)},
            "k-NN queries: features are 8 wide, but 24 were expected; do both come from one model?",
        ),
        (
            {"labels": torch.tensor([0, 1, 2])},
            "k-NN queries: 4 images but 3 labels",
        ),
        (
            {"labels": torch.tensor([0, 1, 2, 9]), "classes": 7},
            "k-NN queries: labels span 0..9, but must be 0..6; are these another data set's labels?",
        ),
        ({"k": 500}, "k-NN: k = 500, but the bank holds only 50 features; ask for a smaller k"),
    ],
)
def test_bad_input_is_refused_in_words(change, message):
    bank, bank_labels = blobs(50)
    queries, labels = blobs(4, seed=1)
    arguments = {"bank": bank, "bank_labels": bank_labels, "queries": queries, "labels": labels} | change
    with pytest.raises(DataError) as caught:
        knn_accuracy(**arguments)
    assert str(caught.value) == message
    assert caught.value.exit_code == 3


def test_masks_and_depth_of_the_wrong_kind_are_refused_in_words():
    tokens, masks = dense_world(4, 0)
    with pytest.raises(DataError, match=r"masks hold classes 0..2, but must be 0..1 or 255 \(ignored\)"):
        linear_miou(tokens, masks, tokens, masks, 2)
    features = Features(tokens.mean(1), tokens)
    with pytest.raises(DataError, match=r"depth reaches 2e\+03, but the bins end at 10; another unit\?"):
        linear_rmse(features, masks * 1000.0, features, masks / 2, low=0, high=10)
