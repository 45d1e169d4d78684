"""kNN against an independent, exact computation and against scikit-learn."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from passl_simsiam import distributed
from passl_simsiam.distributed import World
from passl_simsiam.evaluation import knn
from passl_simsiam.evaluation.knn import knn_predict, nearest


def digits():
    pixels, labels = load_digits(return_X_y=True)
    return pixels[:1200].astype(np.float32), labels[:1200], pixels[1200:].astype(np.float32), labels[1200:]


def by_sorting(bank, queries, k):
    """Neighbours by a full stable sort of float64 similarities."""
    similarity = cosine_similarity(queries.astype(np.float64), bank.astype(np.float64))
    index = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, index, axis=1), index


@pytest.mark.parametrize("block_bytes", [2**26, 4 * 64 * 900, 4 * 64 * 37, 1])
@pytest.mark.parametrize("k", [1, 20, 500])
def test_neighbours_are_those_of_a_full_sort_whatever_the_block(monkeypatch, block_bytes, k):
    monkeypatch.setattr(knn, "BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    bank, queries = (rng.normal(size=(n, 16)).astype(np.float32) for n in (3000 if block_bytes > 4 else 600, 150))
    similarity, index = nearest(bank, queries, k, chunk=64)
    expected, expected_index = by_sorting(bank, queries, k)
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    assert (index == expected_index).mean() > 0.999  # float32 may swap neighbours that are equal to 1e-7
    np.testing.assert_allclose(np.take_along_axis(cosine_similarity(queries, bank), index, axis=1), expected, atol=1e-6)


def test_bank_sorted_by_class_gives_the_same_neighbours(monkeypatch):
    monkeypatch.setattr(knn, "BLOCK_BYTES", 4 * 32 * 2000)
    rng = np.random.default_rng(1)
    labels = np.sort(rng.integers(0, 5, 6000))
    bank = (rng.normal(size=(5, 24))[labels] + 0.3 * rng.normal(size=(6000, 24))).astype(np.float32)
    similarity, _ = nearest(bank, bank[::100], 50, chunk=32)
    np.testing.assert_allclose(similarity, by_sorting(bank, bank[::100], 50)[0], atol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 200])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_equal_scikit_learn_on_digits(k, temperature):
    bank, labels, queries, _ = digits()
    ours = knn_predict(bank, labels, queries, ks=k, temperature=temperature, num_classes=10, chunk=100)
    theirs = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(bank.astype(np.float64), labels)
    assert ours.notes == []
    np.testing.assert_array_equal(ours.classes[k], theirs.predict(queries.astype(np.float64)))


def test_several_k_at_once_equal_one_at_a_time():
    bank, labels, queries, _ = digits()
    together = knn_predict(bank, labels, queries, ks=(1, 20, 200)).classes
    for k, classes in together.items():
        np.testing.assert_array_equal(classes, knn_predict(bank, labels, queries, ks=k).classes[k])


def test_of_equal_neighbours_the_lowest_index_is_taken(monkeypatch):
    monkeypatch.setattr(knn, "BLOCK_BYTES", 4 * 3 * 1000)
    bank = np.tile(np.eye(4, dtype=np.float32), (2000, 1))  # rows 0, 4, 8, ... are equal
    _, index = nearest(bank, np.eye(4, dtype=np.float32)[:3], 7)
    np.testing.assert_array_equal(index, np.arange(3)[:, None] + 4 * np.arange(7))
    # Orthogonal to everything: 0 and -0 are equal too.
    bank[::2] *= -1
    _, index = nearest(np.pad(bank, ((0, 0), (0, 1))), np.eye(5, dtype=np.float32)[4:], 6)
    np.testing.assert_array_equal(index, [np.arange(6)])


def test_of_equal_votes_the_lowest_class_wins():
    bank = np.array([[1, 0], [1, 0], [1, 0], [1, 0]], np.float32)
    assert knn_predict(bank, np.array([3, 1, 1, 3]), bank[:1], ks=4).classes[4] == [1]


def test_k_above_the_bank_is_clamped_and_noted():
    bank, labels, queries, _ = digits()
    result = knn_predict(bank[:30], labels[:30], queries, ks=[5, 200])
    np.testing.assert_array_equal(result.classes[200], knn_predict(bank[:30], labels[:30], queries, ks=30).classes[30])
    assert result.notes == ["k=200 is more than the bank holds; k=30 used"]


def test_a_small_temperature_does_not_overflow():
    bank, labels, queries, truth = digits()
    nearest_alone = knn_predict(bank, labels, queries, ks=1).classes[1]
    cold = knn_predict(bank, labels, queries, ks=50, temperature=1e-5).classes[50]
    assert (cold == nearest_alone).mean() > 0.99
    assert (cold == truth).mean() > 0.9


def test_zero_features_are_similar_to_nothing():
    bank = np.array([[0, 0], [-1, 0], [1, 0]], np.float32)
    similarity, index = nearest(bank, np.array([[2, 0]], np.float32), 3)
    np.testing.assert_array_equal(index, [[2, 0, 1]])
    np.testing.assert_array_equal(similarity, [[1, 0, -1]])


def test_float16_memory_map_is_read_in_place(tmp_path):
    bank, labels, queries, _ = digits()
    np.save(tmp_path / "bank.npy", bank.astype(np.float16))
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        knn_predict(mapped, labels, queries, ks=20).classes[20], knn_predict(bank, labels, queries, ks=20).classes[20]
    )


@pytest.fixture
def ranks(monkeypatch):
    """Call a function once a rank, in threads that gather rows as ranks do; returns what each found."""

    def run(size, work):
        barrier, parts = threading.Barrier(size, timeout=20), [None] * size

        def gather(array, world):
            parts[world.rank] = array
            barrier.wait()
            rows = np.concatenate(parts)
            barrier.wait()
            return rows

        monkeypatch.setattr(distributed, "gather_rows", gather)
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(lambda rank: work(World(rank, size)), range(size)))

    return run


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_a_bank_in_shares_gives_the_neighbours_of_the_whole(ranks, size, k):
    rng = np.random.default_rng(0)
    bank = rng.integers(-2, 3, (300, 3)).astype(np.float32)  # many equals, in one share and across them
    queries = rng.integers(-2, 3, (50, 3)).astype(np.float32)
    similarity, index = nearest(bank, queries, k)

    def work(world):
        holder = np.where(np.arange(300) % size == 1, np.where(np.arange(300) < 8, 1, 0), np.arange(300) % size)
        rows = np.flatnonzero(holder == world.rank)  # the share of rank 1 is smaller than k
        return nearest(bank[rows], queries, k, chunk=16, rows=rows, world=world)

    for found_similarity, found_index in ranks(size, work):
        np.testing.assert_array_equal(found_index, index)
        np.testing.assert_allclose(found_similarity, similarity, atol=1e-6)


def test_votes_of_a_bank_in_shares_are_those_of_the_whole(ranks):
    bank, labels, queries, _ = digits()
    whole = knn_predict(bank, labels, queries, ks=(1, 20, 5000), num_classes=10)

    def work(world):
        rows = np.arange(world.rank, len(bank), world.size)
        return knn_predict(bank[rows], labels[rows], queries, ks=(1, 20, 5000), rows=rows, world=world)

    for found in ranks(2, work):
        assert found.notes == whole.notes == ["k=5000 is more than the bank holds; k=1200 used"]
        for k, classes in whole.classes.items():
            np.testing.assert_array_equal(found.classes[k], classes)


def test_rows_of_a_share_must_rise():
    with pytest.raises(ValueError, match="rising"):
        nearest(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 1, rows=np.array([2, 1, 0]))


def test_memory_is_bounded_by_blocks():
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(60000, 32)).astype(np.float32), rng.normal(size=(2048, 32)).astype(np.float32)
    tracemalloc.start()
    nearest(bank, queries, 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * knn.BLOCK_BYTES < 60000 * 2048 * 4 / 3  # all similarities together


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bank": np.full((4, 2), np.nan, np.float32)}, "NaN"),
        ({"bank_labels": np.array([0, 1, -1, 0])}, "label"),
        ({"bank_labels": np.array([0, 1])}, "label"),
        ({"num_classes": 1}, "label 1 with 1 classes"),
        ({"queries": np.ones((1, 3), np.float32)}, "do not fit"),
        ({"ks": 0}, "at least 1"),
        ({"temperature": 0.0}, "above 0"),
    ],
)
def test_nonsense_is_refused(change, message):
    arguments = {"bank": np.eye(4, 2, dtype=np.float32), "bank_labels": np.array([0, 1, 0, 1]), "ks": 1}
    arguments |= {"queries": np.ones((1, 2), np.float32)} | change
    with pytest.raises(ValueError, match=message):
        knn_predict(**arguments)
