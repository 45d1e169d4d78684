"""Seconds and memory of exact cosine kNN: this project against scikit-learn's brute force, with the same cores.

    python tools/bench/knn.py                                    # 50,000 x 512 in the bank, 10,000 queries
    python tools/bench/knn.py --bank BANK.npy --queries QUERIES.npy
    python tools/bench/knn.py --rows 1280000 --dim 2048 --count 1024 --folder FOLDER --alone

Without files the features are random, in 1,000 clusters. With --folder the bank is a memory map there, made once;
--alone leaves out scikit-learn, which would need the bank in memory. Competitors take turns; the table shows medians
over rounds of wall-clock seconds, the most memory of the process's own (mapped files do not count) above what it had
before, and the share of neighbours that are the same (those of equal similarity may change places).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
arguments.add_argument("--bank", type=Path, help="features, float [n, d], .npy")
arguments.add_argument("--queries", type=Path, help="features, float [m, d], .npy")
arguments.add_argument("--rows", type=int, default=50_000)
arguments.add_argument("--dim", type=int, default=512)
arguments.add_argument("--count", type=int, default=10_000, help="random queries")
arguments.add_argument("--folder", type=Path, help="where to make a random bank as a file")
arguments.add_argument("-k", type=int, default=200)
arguments.add_argument("--rounds", type=int, default=3)
arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
arguments.add_argument("--alone", action="store_true", help="this project only")
arguments.add_argument("--json", action="store_true")
given = arguments.parse_args()

# Before NumPy is imported.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = str(given.threads)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402

from passl_simsiam.evaluation.knn import nearest  # noqa: E402

Search = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def ours(bank: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    return nearest(bank, queries, k)[1]


def scikit_learn(bank: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute", n_jobs=given.threads).fit(bank)
    return search.kneighbors(queries, return_distance=False)


def random_features(rows: int, dim: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(0).normal(size=(1000, dim)).astype(np.float32)
    rng = np.random.default_rng((1, seed))
    return centres[rng.integers(0, 1000, rows)] + rng.standard_normal((rows, dim), np.float32)


def mapped_bank(folder: Path, rows: int, dim: int) -> np.ndarray:
    """A random float32 bank of any size, made a part at a time."""
    path = folder / f"bank_{rows}x{dim}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        bank = np.lib.format.open_memmap(aside, "w+", np.float32, (rows, dim))
        for low in range(0, rows, 20_000):
            bank[low : low + 20_000] = random_features(min(20_000, rows - low), dim, low)
        aside.rename(path)
    return np.load(path, mmap_mode="r")


def own_memory() -> int:
    """Bytes of the process's own, without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measured(search: Search, bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[float, float, np.ndarray]:
    """Seconds, MiB above what was there before, and the neighbours."""
    before, most, done = own_memory(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    index = search(bank, queries, k)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return seconds, (most[0] - before) / 2**20, index


def main() -> None:
    if given.bank:
        bank, queries = np.load(given.bank, mmap_mode="r"), np.load(given.queries)
    else:
        bank = (
            mapped_bank(given.folder, given.rows, given.dim)
            if given.folder
            else random_features(given.rows, given.dim, 0)
        )
        queries = random_features(given.count, given.dim, 2**31)
    competitors = {"ours": ours} | ({} if given.alone else {"scikit-learn": scikit_learn})
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    memory: dict[str, float] = dict.fromkeys(competitors, 0.0)
    found: dict[str, np.ndarray] = {}
    for _ in range(given.rounds):
        for name, search in competitors.items():
            taken, used, found[name] = measured(search, bank, queries, given.k)
            seconds[name].append(taken)
            memory[name] = max(memory[name], used)
    same = 1.0
    if len(found) > 1:
        same = float(np.mean([len(np.intersect1d(a, b)) / given.k for a, b in zip(*found.values(), strict=True)]))
    setting = f"bank {bank.shape} {bank.dtype}, {len(queries)} queries, k={given.k}"
    setting += f", {given.threads} thread(s), {given.rounds} round(s)"
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    if given.json:
        print(json.dumps({"setting": setting, "seconds": medians, "MiB": memory, "same": same}))
        return
    print(setting)
    for name, value in medians.items():
        print(f"{name:14} {value:8.2f} s  {memory[name]:8.0f} MiB")
    if len(found) > 1:
        print(f"the same neighbours: {same:.4%}")


if __name__ == "__main__":
    main()
