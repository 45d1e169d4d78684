"""Memory shared with workers, where there is none as well."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from fakes import Noise, RandomCrops

from passl_simsiam.data import loader as loader_module
from passl_simsiam.data import shared
from passl_simsiam.data.loader import Loader
from passl_simsiam.data.shared import SharedMemory, SharedPickle, anonymous_file
from passl_simsiam.errors import UserError

OPTIONS = {"batch_size": 48, "shuffle": True, "drop_last": True, "seed": 7}


def no_memfd(*_):
    raise OSError("not permitted")


def test_an_object_comes_back_with_its_arrays_in_shared_memory():
    value = {"pixels": np.arange(100_000), "odd": np.arange(7, dtype=np.uint8), "words": ["a", "b"]}
    pickled = SharedPickle(value)
    assert len(pickled.spans()) == 3, "the pickle and two arrays"
    assert pickled.spans()[0][1] < 1000
    loaded = SharedPickle.load(pickled.fd, pickled.spans())
    np.testing.assert_array_equal(loaded["pixels"], value["pixels"])
    np.testing.assert_array_equal(loaded["odd"], value["odd"])
    assert loaded["words"] == value["words"]
    assert not loaded["pixels"].flags.writeable
    pickled.close()


def test_the_memory_has_no_name_and_ignores_the_size_of_dev_shm():
    before = set(Path("/dev/shm").iterdir())
    memory = SharedMemory(1 << 20)
    memory.map[-1:] = b"x"
    assert "memfd:" in str(Path(f"/proc/self/fd/{memory.fd}").readlink())
    assert set(Path("/dev/shm").iterdir()) == before
    memory.close()


def test_without_memfd_dev_shm_serves_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setattr(os, "memfd_create", no_memfd)
    with Loader(Noise(200), RandomCrops(), **OPTIONS, num_workers=2) as loader:
        views = [np.stack(batch["views"]) for batch in loader.epoch(0)]
    assert "through /dev/shm instead" in caplog.text  # the batches; the pickle goes to a file on disk
    alone = [np.stack(batch["views"]) for batch in Loader(Noise(200), RandomCrops(), **OPTIONS).epoch(0)]
    np.testing.assert_array_equal(views, alone)
    assert not list(Path("/dev/shm").glob("tmp*"))


def test_with_a_full_dev_shm_a_temporary_file_serves(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(os, "memfd_create", no_memfd)
    full = 1 << 50  # no machine has that much memory, but a file without content may be of that size
    monkeypatch.setattr(shared.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(os, "truncate", lambda fd, size: None)
    fd = anonymous_file(full)
    assert str(tmp_path) in str(Path(f"/proc/self/fd/{fd}").readlink())
    assert f"through {tmp_path} instead" in caplog.text
    assert list(tmp_path.iterdir()) == []
    os.close(fd)


def test_where_nothing_has_room_the_way_out_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "memfd_create", no_memfd)
    monkeypatch.setattr(shared.tempfile, "gettempdir", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="set num_workers: 0"):
        anonymous_file(1 << 20, shm=tmp_path / "nowhere")


def test_short_memory_means_fewer_batches_ahead(monkeypatch, caplog):
    """Two batches must fit into half of what is free."""
    caplog.set_level(logging.INFO)
    batch = 48 * 2 * 8 * 8 * 3
    monkeypatch.setattr(loader_module, "available_memory", lambda: 2 * 2 * batch + 1000)
    with Loader(Noise(200), RandomCrops(), **OPTIONS, num_workers=2) as loader:
        assert len(list(loader.epoch(0))) == 4
        assert loader._pool.layout.slots == 2
    assert "1 batches are prepared ahead instead of" in caplog.text
    monkeypatch.setattr(loader_module, "available_memory", lambda: 2 * batch)
    with (
        Loader(Noise(200), RandomCrops(), **OPTIONS, num_workers=2) as loader,
        pytest.raises(UserError, match="smaller"),
    ):
        next(loader.epoch(0))


def test_available_memory_is_that_of_this_machine():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < shared.available_memory() <= total
