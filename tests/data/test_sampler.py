"""Which samples meet in which batch."""

import numpy as np
import pytest

from passl_simsiam.data.sampler import batch_share, epoch_order, steps_per_epoch


def test_an_epoch_visits_every_sample_once_in_an_order_of_its_own():
    orders = [epoch_order(1000, seed, epoch, shuffle=True) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert len({order.tobytes() for order in orders}) == 4
    np.testing.assert_array_equal(orders[1], epoch_order(1000, 0, 1, shuffle=True))


def test_the_shuffle_is_fair():
    """Over many epochs each sample is first about equally often: chi-square, 9 degrees of freedom, 0.1 % point 27.9."""
    firsts = np.bincount([epoch_order(10, 0, epoch, shuffle=True)[0] for epoch in range(1000)], minlength=10)
    assert ((firsts - 100) ** 2 / 100).sum() < 27.9


def test_without_shuffling_samples_come_in_order():
    np.testing.assert_array_equal(epoch_order(5, seed=3, epoch=2, shuffle=False), np.arange(5))


@pytest.mark.parametrize(
    ("count", "drop_last", "steps"), [(10, True, 3), (10, False, 4), (9, True, 3), (9, False, 3), (2, True, 0)]
)
def test_steps_per_epoch(count, drop_last, steps):
    assert steps_per_epoch(count, 3, drop_last) == steps


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_shares_of_the_ranks_make_up_the_global_batch(world):
    order = epoch_order(50, 0, 0, shuffle=True)
    for step in range(steps_per_epoch(50, 12, drop_last=False)):
        whole = batch_share(order, step, 12)
        together = np.empty_like(whole)
        for rank in range(world):
            together[rank::world] = batch_share(order, step, 12, rank, world)
        np.testing.assert_array_equal(together, whole)
