"""Pictures of features: their numbers are right, and so is what stands where."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import NearestNeighbors

from passl_simsiam.evaluation import feature_pictures as draw
from passl_simsiam.evaluation.pictures import BLUE, ORANGE, pixels

RNG = np.random.default_rng(0)


def rgb(color: str) -> list[int]:
    return list(bytes.fromhex(color[1:]))


def clusters(count=60, classes=3, channels=8):
    labels = np.arange(count) % classes
    centres = np.random.default_rng(1).normal(size=(classes, channels)) * 5
    return (centres[labels] + RNG.normal(size=(count, channels))).astype(np.float32), labels


def test_a_sample_is_balanced_and_the_same_each_time():
    labels = np.r_[np.zeros(500, int), np.ones(20, int), np.full(30, 2)]
    chosen = draw.balanced_sample(labels, len(labels), 45)
    assert np.bincount(labels[chosen]).tolist() == [15, 15, 15]
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, draw.balanced_sample(labels, len(labels), 45))
    assert len(draw.balanced_sample(None, 10, 45)) == 10
    many = np.arange(1000) % 100
    assert len(np.unique(many[draw.balanced_sample(many, 1000, 100)])) == draw.MAP_CLASSES


def test_neighbours_are_scikit_learns():
    features = RNG.normal(size=(80, 16)).astype(np.float32)
    queries = np.array([3, 40, 79])
    found = draw.nearest(features, queries, 5)
    reference = NearestNeighbors(n_neighbors=6, metric="cosine").fit(features).kneighbors(features[queries])[1]
    np.testing.assert_array_equal(found, reference[:, 1:])
    assert (found != queries[:, None]).all()
    assert draw.first_of_each(np.array([2, 0, 0, 1, 2]), 5, 2).tolist() == [1, 3]
    assert draw.first_of_each(None, 5, 2).tolist() == [0, 1]


def test_frames_tell_right_from_wrong():
    images = np.stack([np.full((8, 8, 3), shade, np.uint8) for shade in (10, 60, 110)])
    grid = draw.neighbour_grid(images, np.array([0]), np.array([[1, 2]]), np.array([5, 5, 7]))
    cell = 72 + 10 + 6
    gap = cell + 24 + 6
    assert grid.dtype == np.uint8
    assert grid[40, 40].tolist() == [10] * 3  # the query
    for place, frame, shade in ((gap, BLUE, 60), (gap + cell, ORANGE, 110)):
        assert grid[2, place + 40].tolist() == rgb(frame)
        assert grid[40, place + 40].tolist() == [shade] * 3
    bare = draw.neighbour_grid(images, np.array([0]), np.array([[1, 2]]), None)
    assert rgb(BLUE) not in bare.reshape(-1, 3).tolist()


def test_images_stand_at_their_places_in_the_map():
    at = np.array([[0.0, 0.0], [10.0, 10.0], [10.0, 0.0]])
    images = np.stack([np.full((16, 16, 1), shade, np.uint8) for shade in (10, 60, 110)])
    picture = draw.thumbnail_map(at, images, np.array([0, 1, 2]))
    last = draw.CELLS * draw.CELL - draw.CELL // 2
    assert picture[last, draw.CELL // 2].tolist() == [10] * 3  # down, left
    assert picture[draw.CELL // 2, last].tolist() == [60] * 3  # up, right
    assert picture[last, last].tolist() == [110] * 3
    assert picture[draw.CELL // 2, draw.CELL // 2].tolist() == [255] * 3


def test_the_map_keeps_clusters_together():
    features, labels = clusters(120)
    at = draw.places(features)
    assert at.shape == (120, 2)
    np.testing.assert_array_equal(at, draw.places(features))
    near = NearestNeighbors(n_neighbors=6).fit(at).kneighbors(return_distance=False)
    assert (labels[near] == labels[:, None]).mean() > 0.95
    figure = draw.feature_map(at, labels, ["a", "b", "c"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]
    drawn = np.concatenate([points.get_offsets() for points in figure.axes[0].collections])
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(at, axis=0))
    assert pixels(draw.feature_map(at, None, None)).std() > 5
    assert draw.places(features[:6]).shape == (6, 2)


def test_similarities_and_how_far_they_are_apart():
    first = RNG.normal(size=(30, 16))
    same, different = draw.similarities(first, first + 0.01 * RNG.normal(size=first.shape))
    assert same.shape == (30,)
    assert different.shape == (30 * 29,)
    assert same.min() > 0.99
    assert draw.separation(same, different) == 1.0
    assert draw.separation(np.array([0.1, 0.5]), np.array([0.3])) == 0.5
    collapsed = draw.similarities(np.ones((5, 4)), np.ones((5, 4)))
    np.testing.assert_allclose(np.concatenate(collapsed), 1)
    figure = draw.similarity_histogram([("features", same, different), ("z", *collapsed)])
    heights = [sum(bar.get_height() for bar in bars) for bars in figure.axes[0].containers]
    np.testing.assert_allclose(heights, 100)
    assert len(figure.axes) == 2


@pytest.mark.parametrize("classes", [3, 40])
def test_confusion_is_scikit_learns(classes):
    labels, predictions = RNG.integers(0, classes, (2, 500))
    counts = draw.confusion_counts(predictions, labels, classes)
    np.testing.assert_array_equal(counts, confusion_matrix(labels, predictions, labels=range(classes)))
    figure = draw.confusion_matrix(counts, [f"class {k}" for k in range(classes)])
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown.sum(axis=1), 100)
    assert bool(figure.axes[0].texts) == (classes == 3)


def test_the_worst_confusions_are_said():
    counts = np.array([[5, 5, 0], [0, 10, 0], [2, 1, 7]])
    assert draw.worst_confusions(counts, ["cat", "dog", "ship"]) == [
        "cat called dog (50 %)",
        "ship called cat (20 %)",
        "ship called dog (10 %)",
    ]
    assert draw.worst_confusions(np.eye(3, dtype=int), ["a", "b", "c"]) == []
