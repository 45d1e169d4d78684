"""The loader: the right samples, the same views however they are made, and an orderly life."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import Corner, Mistaken, Noise, RandomCrops, Recorded, Slow

from passl_simsiam.data.loader import Loader
from passl_simsiam.data.sampler import batch_share, epoch_order
from passl_simsiam.errors import UserError


def training(dataset=None, transform=None, **changes):
    arguments = {"batch_size": 48, "shuffle": True, "drop_last": True, "seed": 7} | changes
    return Loader(dataset or Noise(200), transform or RandomCrops(), **arguments)


def copied(batches):
    return [
        {"views": np.stack(batch["views"]), "label": batch["label"].copy(), "index": batch["index"].copy()}
        for batch in batches
    ]


def assert_same(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.fixture(scope="module")
def reference():
    """Epochs 0 and 1 made in this process."""
    return [copied(training().epoch(epoch)) for epoch in (0, 1)]


def test_batches_hold_the_samples_of_the_order_with_their_labels(reference):
    dataset = Noise(200)
    for epoch, batches in enumerate(reference):
        order = epoch_order(200, 7, epoch, shuffle=True)
        assert len(batches) == len(training()) == 4
        for step, batch in enumerate(batches):
            np.testing.assert_array_equal(batch["index"], batch_share(order, step, 48))
            np.testing.assert_array_equal(batch["label"], dataset.labels[batch["index"]])
            assert batch["views"].shape == (2, 48, 8, 8, 3)
            assert batch["views"].dtype == np.uint8
    assert not np.array_equal(reference[0][0]["views"][0], reference[0][0]["views"][1])


def test_views_of_unshuffled_samples_are_those_of_the_dataset():
    dataset = Noise(50)
    with Loader(dataset, Corner(), batch_size=16, shuffle=False, drop_last=False, seed=0, num_workers=2) as loader:
        batches = copied(loader.epoch(0))
    np.testing.assert_array_equal(np.concatenate([batch["views"][0] for batch in batches]), dataset.images[:, :8, :8])
    np.testing.assert_array_equal(np.concatenate([batch["index"] for batch in batches]), np.arange(50))


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_nothing(reference, workers):
    with training(num_workers=workers) as loader:
        for epoch, batches in enumerate(reference):
            assert_same(copied(loader.epoch(epoch)), batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_make_what_one_makes(reference, workers):
    ranks = []
    for rank in range(2):
        with training(rank=rank, world=2, num_workers=workers) as loader:
            ranks.append(copied(loader.epoch(1)))
    for step, whole in enumerate(reference[1]):
        for rank in range(2):
            np.testing.assert_array_equal(ranks[rank][step]["index"], whole["index"][rank::2])
            np.testing.assert_array_equal(ranks[rank][step]["views"], whole["views"][:, rank::2])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_start_at_any_step(reference, workers):
    with training(num_workers=workers) as loader:
        assert_same(copied(loader.epoch(1, start=2)), reference[1][2:])
        assert list(loader.epoch(1, start=4)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_half_way_leaves_the_loader_usable(reference, workers):
    with training(num_workers=workers) as loader:
        left = loader.epoch(0)
        next(left)
        assert_same(copied(loader.epoch(1)), reference[1])
        with pytest.raises(RuntimeError, match="this epoch has ended"):
            next(left)


def test_workers_persist_across_epochs_and_end_with_the_loader():
    loader = training(num_workers=2)
    list(loader.epoch(0))
    before = [worker.process for worker in loader._pool.workers]
    list(loader.epoch(1))
    assert [worker.process for worker in loader._pool.workers] == before
    loader.close()
    assert all(process.poll() is not None for process in before)


def test_workers_end_when_the_loader_is_forgotten():
    loader = training(num_workers=1)
    next(loader.epoch(0))
    process = loader._pool.workers[0].process
    del loader
    assert process.wait(5) is not None


def test_prefetching_is_bounded(tmp_path):
    """While the trainer has a batch, workers fill the other slots and then rest."""
    dataset = Recorded(400, tmp_path)
    with Loader(dataset, Corner(), batch_size=4, shuffle=False, drop_last=True, seed=0, num_workers=2) as loader:
        batches = loader.epoch(0)
        next(batches)
        time.sleep(0.5)
        slots = loader._pool.layout.slots
        assert len(list(tmp_path.iterdir())) == slots * 4 <= 32
        assert len(list(batches)) == 99


def test_waiting_is_measured():
    with Loader(Slow(20), Corner(), batch_size=10, shuffle=False, drop_last=True, seed=0) as loader:
        list(loader.epoch(0))
        assert 0.4 <= loader.waited < 2


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_covers_each_sample_once_over_all_ranks(world, workers):
    seen = []
    for rank in range(world):
        with Loader(
            Noise(49), Corner(), batch_size=16, shuffle=False, drop_last=False, seed=0, rank=rank, world=world,
            num_workers=workers,
        ) as loader:  # fmt: skip
            batches = copied(loader.epoch(0))
            assert len(batches) == len(loader)
            assert all(len(batch["index"]) for batch in batches)
            seen.extend(np.concatenate([batch["index"] for batch in batches]))
    assert sorted(seen) == list(range(49))


def test_a_dataset_without_labels_gives_minus_one():
    dataset = Noise(10)
    dataset.labels = None
    with training(dataset, batch_size=10) as loader:
        assert (next(loader.epoch(0))["label"] == -1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 201}, "larger than the data set"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"world": 5}, "cannot be shared out evenly"),
        ({"batch_size": 33, "world": 3, "rank": 2, "drop_last": False}, "set drop_last"),
        ({"timeout": 0}, "timeout is 0"),
    ],
)
def test_values_that_cannot_work_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        training(**changes)


@pytest.mark.parametrize("workers", [0, 1])
def test_views_of_the_wrong_shape_are_a_mistake_not_a_bad_sample(workers):
    with training(transform=Mistaken(), num_workers=workers) as loader, pytest.raises(UserError, match=r"\(4, 4, 3\)"):
        next(loader.epoch(0))


def test_what_cannot_be_pickled_is_named():
    dataset = Noise(50)
    dataset.read = lambda index: None
    with training(dataset, num_workers=1) as loader, pytest.raises(UserError, match="set num_workers: 0"):
        next(loader.epoch(0))


def test_workers_do_not_import_paddle():
    code = "import sys; import passl_simsiam.data.loader, passl_simsiam.data.worker; print('paddle' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_an_exit_half_way_is_silent_and_leaves_no_process(tmp_path):
    """A script that leaves an epoch by an exception prints nothing of the loader, and its workers are gone."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from fakes import Noise, RandomCrops
            from passl_simsiam.data.loader import Loader
            options = dict(shuffle=True, drop_last=True, seed=0, num_workers=2)
            loader = Loader(Noise(200), RandomCrops(), batch_size=8, **options)
            for batch in loader.epoch(0):
                print(*(worker.process.pid for worker in loader._pool.workers), flush=True)
                raise SystemExit(5)
            """
        )
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30)
    assert result.returncode == 5
    assert result.stderr == ""
    assert not any(Path(f"/proc/{pid}").exists() for pid in result.stdout.split())
