"""The stream of samples: same for every world, resumable at any step, weighted as asked."""

import numpy as np
import pytest

from unicscale.data.stream.order import Order
from unicscale.errors import DataError


def test_an_epoch_shows_every_image_once():
    order = Order(7, [12], [1.0], 4)
    assert sorted(order.epoch(0)) == list(range(12))


def test_epochs_and_seeds_shuffle_differently():
    orders = [Order(seed, [1000], [1.0], 10).epoch(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(o) for o in orders}) == 4


def test_the_order_never_changes_between_versions():
    assert Order(3, [10], [1.0], 5).epoch(2).tolist() == [6, 0, 7, 2, 9, 8, 1, 3, 4, 5]


def test_the_tail_of_an_epoch_is_dropped_and_the_next_epoch_follows():
    order = Order(0, [11], [1.0], 4)
    assert order.images_per_epoch == 8
    assert order.global_batch(4).epoch == 0
    assert order.global_batch(8).epoch == 1


def test_a_position_alone_gives_the_batch():
    whole, late = Order(0, [100], [1.0], 10), Order(0, [100], [1.0], 10)
    stream = [whole.global_batch(p).packed for p in range(0, 300, 10)]
    assert np.array_equal(late.global_batch(170).packed, stream[17])


def test_a_weight_repeats_or_thins_a_data_set():
    order = Order(0, [10, 10, 10], [2.5, 1.0, 0.3], 1)
    seen = [np.zeros(10, int) for _ in range(3)]
    for position in range(0, order.images_per_epoch):
        batch = order.global_batch(position)
        seen[batch.domain[0]][batch.index[0]] += 1
    assert order.images_per_epoch == 38
    assert sorted(seen[0]) == [2] * 5 + [3] * 5
    assert sorted(seen[1]) == [1] * 10
    assert sorted(seen[2]) == [0] * 7 + [1] * 3


def test_a_thinned_data_set_shows_other_images_in_other_epochs():
    order = Order(0, [100], [0.2], 1)
    assert set(order.epoch(0)) != set(order.epoch(1))


def test_repetitions_within_an_epoch_have_their_own_names():
    assert len(set(Order(0, [10], [3.0], 1).epoch(0))) == 30


def test_fewer_images_than_a_step_takes_are_refused():
    with pytest.raises(DataError, match=r"an epoch has 3 images, fewer than one step takes \(4\)"):
        Order(0, [3], [1.0], 4)


def test_a_position_between_steps_is_refused():
    with pytest.raises(DataError, match="image 6, which is no multiple"):
        Order(0, [30], [1.0], 4).global_batch(6)
