"""Nothing stops the loader: bad samples, and workers that are killed, stopped, stuck or that crash."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import Corner, Noise, RandomCrops, Slow, Trap

from passl_simsiam.data.loader import Loader, LoaderError
from passl_simsiam.errors import UserError

TRAINING = {"batch_size": 32, "shuffle": True, "drop_last": True, "seed": 3}


def indices_and_views(batches):
    return [(batch["index"].tobytes(), *(view.tobytes() for view in batch["views"])) for batch in batches]


@pytest.fixture(scope="module")
def undisturbed():
    return indices_and_views(Loader(Noise(200), RandomCrops(), **TRAINING).epoch(0))


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- bad samples


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_replaced_counted_and_logged_once(caplog, workers):
    bad = tuple(range(0, 200, 10))
    with Loader(Noise(200, bad), RandomCrops(), **TRAINING, num_workers=workers, max_bad_fraction=0.1) as loader:
        seen = [batch["index"] for epoch in range(3) for batch in loader.epoch(epoch)]
        assert [len(indices) for indices in seen] == [32] * len(loader) * 3
        assert not np.isin(np.concatenate(seen), bad).any()
        assert sorted(loader.bad) == list(bad)
        assert loader.bad[10].name == "Noise[10]"
        assert loader.bad[10].reason == "OSError: image 10 is broken"
    assert sorted(warnings(caplog)) == sorted(
        f"bad sample {index} left out: Noise[{index}] (OSError: image {index} is broken)" for index in bad
    )


def test_replacements_do_not_depend_on_workers_or_ranks():
    def run(**changes):
        with Loader(Noise(200, tuple(range(20))), RandomCrops(), **TRAINING, max_bad_fraction=0.2, **changes) as loader:
            return [(b["index"].copy(), np.stack(b["views"])) for b in loader.epoch(2)]

    alone = run()
    for workers, world in ((2, 1), (1, 2)):
        ranks = [run(num_workers=workers, world=world, rank=rank) for rank in range(world)]
        for step, (index, views) in enumerate(alone):
            for rank in range(world):
                np.testing.assert_array_equal(ranks[rank][step][0], index[rank::world])
                np.testing.assert_array_equal(ranks[rank][step][1], views[:, rank::world])


@pytest.mark.parametrize("workers", [0, 2])
def test_in_evaluation_a_bad_sample_is_left_out_and_none_counts_twice(workers):
    with Loader(
        Noise(100, (5, 6)), Corner(), batch_size=32, shuffle=False, drop_last=False, seed=0, max_bad_fraction=0.02,
        num_workers=workers,
    ) as loader:  # fmt: skip
        batches = [(batch["index"].copy(), batch["views"][0].copy(), batch["label"]) for batch in loader.epoch(0)]
    index = np.concatenate([batch[0] for batch in batches])
    np.testing.assert_array_equal(index, np.delete(np.arange(100), [5, 6]))
    np.testing.assert_array_equal(np.concatenate([batch[1] for batch in batches]), Noise(100).images[index][:, :8, :8])
    np.testing.assert_array_equal(np.concatenate([batch[2] for batch in batches]), index % 10)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_end_the_run_with_the_list(workers):
    bad = tuple(range(0, 200, 8))
    with (
        Loader(Noise(200, bad), RandomCrops(), **TRAINING, num_workers=workers, max_bad_fraction=0.1) as loader,
        pytest.raises(UserError, match=r"^21 of 200 samples \(10.5%\) are bad.*Noise\[\d+\] \(.*11 more") as error,
    ):
        [list(loader.epoch(epoch)) for epoch in range(10)]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_without_a_good_sample_ends_at_once(workers):
    with (
        Loader(Noise(200, range(200)), RandomCrops(), **TRAINING, num_workers=workers, max_bad_fraction=1) as loader,
        pytest.raises(UserError, match="nearly no sample can be read"),
    ):
        next(loader.epoch(0))


def test_the_count_of_bad_samples_survives_lost_workers():
    bad = tuple(range(0, 200, 10))
    with Loader(Noise(200, bad), RandomCrops(), **TRAINING, num_workers=1, max_bad_fraction=0.1) as loader:
        list(loader.epoch(0))
        before = set(loader.bad)
        loader._pool.workers[0].process.kill()
        list(loader.epoch(1))
        assert set(loader.bad) >= before
        assert len(before) > 10


# --- lost workers


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("SIGKILL", "was killed by SIGKILL, as the kernel does when memory runs out"),
        ("SIGSEGV", "was killed by SIGSEGV"),
        ("exit", "exited with code 3"),
        ("SIGSTOP", "made no progress for 1 s (stopped by a signal)"),
        ("sleep", "made no progress for 1 s"),
    ],
)
def test_a_lost_worker_is_named_replaced_and_its_work_done_again(tmp_path, caplog, undisturbed, what, words):
    start = time.monotonic()
    with Loader(Trap(200, 17, what, tmp_path), RandomCrops(), **TRAINING, num_workers=2, timeout=1) as loader:
        batches = indices_and_views(loader.epoch(0))
        assert not loader.bad
    assert time.monotonic() - start < 10
    assert batches == undisturbed
    (message,) = warnings(caplog)
    assert words in message
    assert "(pid " in message
    assert "at sample 17 (Trap[17]), making rows" in message
    assert "starting another (1 of 20 an hour)" in message


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_signals_from_outside_change_nothing(caplog, undisturbed, number):
    with Loader(Noise(200), RandomCrops(), **TRAINING, num_workers=2, timeout=1) as loader:
        list(loader.epoch(1))
        hit = loader._pool.workers[0].process.pid
        os.kill(hit, number)
        assert indices_and_views(loader.epoch(0)) == undisturbed
        assert hit not in [worker.process.pid for worker in loader._pool.workers]
    assert f"(pid {hit})" in warnings(caplog)[0]


def test_a_sample_that_kills_every_worker_becomes_a_bad_sample(tmp_path, caplog):
    dataset = Trap(200, 17, "SIGSEGV", tmp_path, once=False)
    with Loader(dataset, RandomCrops(), **TRAINING, num_workers=2) as loader:
        for epoch in range(3):
            assert not any(17 in batch["index"] for batch in loader.epoch(epoch))
        assert loader.bad[17].reason == "2 workers were lost at it; the last one was killed by SIGSEGV"
    assert sum("starting another" in message for message in warnings(caplog)) == 2


def test_too_many_lost_workers_end_the_run(tmp_path):
    dataset = Trap(200, 17, "exit", tmp_path, once=False)
    with Loader(dataset, RandomCrops(), **TRAINING, num_workers=2, max_restarts=1) as loader:
        with pytest.raises(LoaderError, match=r"exited with code 3 at sample 17.*more than 1 workers were lost"):
            list(loader.epoch(0))
        assert loader._pool is None


def test_workers_that_cannot_start_end_the_run(monkeypatch, capfd):
    monkeypatch.setattr("passl_simsiam.data.worker.BOOT", "import no_such_module")
    with Loader(Noise(200), RandomCrops(), **TRAINING, num_workers=1, max_restarts=2) as loader:  # noqa: SIM117
        with pytest.raises(LoaderError, match="exited with code 1"):
            next(loader.epoch(0))
    assert "no_such_module" in capfd.readouterr().err


def test_a_pause_of_the_whole_job_is_not_held_against_the_workers(caplog):
    """As when a container is frozen: nobody moves for longer than the timeout, and the trainer was not waiting."""
    with Loader(
        Slow(128), Corner(), batch_size=16, shuffle=False, drop_last=True, seed=0, num_workers=2, timeout=0.5
    ) as loader:
        batches = loader.epoch(0)
        next(batches)
        pids = [worker.process.pid for worker in loader._pool.workers]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert len(list(batches)) == 7
    assert not warnings(caplog)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_die_with_the_trainer_even_stopped_ones(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, time
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from fakes import Noise, RandomCrops
            from passl_simsiam.data.loader import Loader
            loader = Loader(Noise(200), RandomCrops(), num_workers=2, **{TRAINING!r})
            next(loader.epoch(0))
            print(*(worker.process.pid for worker in loader._pool.workers), flush=True)
            time.sleep(60)
            """
        )
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as trainer:
        pids = [int(pid) for pid in trainer.stdout.readline().split()]
        until(lambda: all(os.getpgid(pid) == pid for pid in pids), "workers have process groups of their own")
        os.kill(pids[0], signal.SIGSTOP)
        trainer.send_signal(number)
        trainer.wait(20)
    until(lambda: not any(runs(pid) for pid in pids), "workers are gone")


def until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
