"""Real processes, as a launcher starts them: how many there are, and how many workers each has, changes no view."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest

COUNT, BATCH, EPOCHS = 44, 12, 2

# Prints, for each epoch, the digest of each sample's views by the sample that its row was drawn for.
SCRIPT = textwrap.dedent(
    f"""
    import hashlib, json, sys
    from passl_simsiam.data.datasets.folder import ImageFolder
    from passl_simsiam.data.loader import Loader
    from passl_simsiam.data.sampler import batch_share, epoch_order
    from passl_simsiam.data.transforms.views import MoCoV2

    root, rank, world, workers = sys.argv[1], *map(int, sys.argv[2:])
    options = dict(batch_size={BATCH}, shuffle=True, drop_last=True, seed=5, max_bad_fraction=0.1)
    epochs = []
    with Loader(
        ImageFolder(root), MoCoV2(size=32), rank=rank, world=world, num_workers=workers, **options
    ) as loader:
        for epoch in range({EPOCHS}):
            order, digests = epoch_order({COUNT}, 5, epoch, shuffle=True), {{}}
            for step, batch in enumerate(loader.epoch(epoch)):
                for row, index in enumerate(batch_share(order, step, {BATCH}, rank, world).tolist()):
                    pixels = b"".join(view[row].tobytes() for view in batch["views"])
                    digests[index] = [int(batch["index"][row]), hashlib.sha256(pixels).hexdigest()]
            epochs.append(digests)
    print(json.dumps(epochs))
    """
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small photographs, two of them broken."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        small = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
        cv2.imwrite(str(root / f"{number:02d}.jpg"), cv2.resize(small, (90, 70), interpolation=cv2.INTER_CUBIC))
    for number in (3, 30):
        path = root / f"{number:02d}.jpg"
        path.write_bytes(path.read_bytes()[:-200])
    return root


def test_processes_and_workers_change_no_view(root: Path, folder: Path) -> None:
    """One process with 0, 1 and 4 workers against two at the same time, with 0 and 2: bitwise the same views."""

    def start(rank: int, world: int, workers: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(folder), str(rank), str(world), str(workers)]
        return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)

    def finish(process: subprocess.Popen[str]) -> list[dict[str, list[object]]]:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        epochs: list[dict[str, list[object]]] = json.loads(output)
        return epochs

    alone = finish(start(0, 1, 0))
    used = COUNT // BATCH * BATCH
    assert [len(digests) for digests in alone] == [used] * EPOCHS
    assert len({digest for digests in alone for _, digest in digests.values()}) == used * EPOCHS
    for workers in (1, 4):
        assert finish(start(0, 1, workers)) == alone
    for workers in (0, 2):
        ranks = [finish(process) for process in [start(rank, 2, workers) for rank in range(2)]]
        assert all(len(digests) == used // 2 for epochs in ranks for digests in epochs)
        assert [first | second for first, second in zip(*ranks, strict=True)] == alone
