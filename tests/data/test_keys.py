"""The generator of a view: keyed by (seed, epoch, index, view) and nothing else."""

from __future__ import annotations

from itertools import product

import numpy as np

from passl_simsiam.data.keys import generator


def test_streams_are_fixed() -> None:
    """Runs of earlier versions must stay reproducible: these numbers never change."""
    assert generator(0, 0, 0, 0).integers(2**63, size=2).tolist() == [106500010600983629, 2227898105101312729]
    assert generator(7, 3, 1234567, 1).integers(2**63, size=2).tolist() == [4009554648822981294, 8337934357816246797]


def test_the_key_is_philox_own() -> None:
    key, counter = np.array([5, 6], np.uint64), np.array([0, 0, 1, 9], np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(100)
    np.testing.assert_array_equal(generator(5, 6, 9, 1).random(100), expected)


def test_every_part_of_the_key_matters() -> None:
    first = {generator(*key).random() for key in product(range(4), repeat=4)}
    assert len(first) == 4**4


def test_streams_of_neighbours_do_not_overlap() -> None:
    views = [generator(0, 0, index, view).random(1000) for index in range(3) for view in range(2)]
    assert len(np.unique(np.concatenate(views))) == 6000


def test_extreme_keys() -> None:
    assert generator(-1, 0, 2**63, 2**31).random() != generator(1, 0, 2**63, 2**31).random()
