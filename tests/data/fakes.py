"""Small data sets and transforms with known contents. Their own module, so that worker processes can import them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from passl_simsiam.data.base import Dataset
from passl_simsiam.data.datasets.files import ImageFiles
from passl_simsiam.data.datasets.paths import PathList
from passl_simsiam.data.decode import Reduction


class Noise(Dataset):
    """`count` random images of 12x10 pixels, each its own; those in `bad` cannot be read."""

    mean = (0.5, 0.5, 0.5)
    std = (0.25, 0.25, 0.25)

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, 12, 10, 3), np.uint8)
        self.labels = np.arange(count) % 10
        self.bad = bad

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        if index in self.bad:
            raise OSError(f"image {index} is broken")
        return self.images[index]


class Trap(Noise):
    """Noise that does something to the process that reads sample `at`: the first time, or, without `once`, always."""

    def __init__(self, count: int, at: int, what: str, marks: Path, once: bool = True) -> None:
        super().__init__(count)
        self.at, self.what, self.marks, self.once = at, what, marks, once

    def read(self, index: int) -> np.ndarray:
        mark = self.marks / f"read-{index}"
        if index == self.at and not (self.once and mark.exists()):
            mark.touch()
            if self.what == "sleep":
                time.sleep(60)
            elif self.what == "exit":
                os._exit(3)
            else:
                os.kill(os.getpid(), getattr(signal, self.what))
        return super().read(index)


class Slow(Noise):
    def read(self, index: int) -> np.ndarray:
        time.sleep(0.02)
        return super().read(index)


class Recorded(Noise):
    """Noise that leaves a file in `marks` for each sample read."""

    def __init__(self, count: int, marks: Path) -> None:
        super().__init__(count)
        self.marks = marks

    def read(self, index: int) -> np.ndarray:
        (self.marks / str(index)).touch()
        return super().read(index)


class RandomCrops:
    """Two crops of 8 pixels at a place, and with an offset in brightness, that the view's generator draws."""

    num_views = 2
    size = 8

    def __call__(self, image: np.ndarray, rngs: list[np.random.Generator]) -> list[np.ndarray]:
        return [self.view(image, rng) for rng in rngs]

    def view(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        y, x = (int(rng.integers(0, side - self.size + 1)) for side in image.shape[:2])
        return image[y : y + self.size, x : x + self.size] + rng.integers(0, 256, dtype=np.uint8)


class Corner:
    """One view: the upper left corner, unchanged."""

    num_views = 1
    size = 8

    def __call__(self, image: np.ndarray, rngs: list[np.random.Generator]) -> list[np.ndarray]:
        return [np.ascontiguousarray(image[: self.size, : self.size])]


class Mistaken(Corner):
    """Makes views of another size than it says."""

    def __call__(self, image: np.ndarray, rngs: list[np.random.Generator]) -> list[np.ndarray]:
        return [np.zeros((4, 4, 3), np.uint8)]


class MadeUpPaths(ImageFiles):
    """`count` paths like ImageNet's, to files that do not exist: their images are made here."""

    def __init__(self, count: int) -> None:
        size = count // 1000
        groups = (
            (b"n%08d" % folder, [b"n%08d_%d.JPEG" % (folder, number) for number in range(size)])
            for folder in range(1000)
        )
        labels = np.repeat(np.arange(1000), size)
        super().__init__("/data/imagenet/train", PathList(groups), labels, None, 3, None, None, 10**9)

    def read(self, index: int, reduction: Reduction | None = None) -> np.ndarray:
        return np.full((32, 32, 3), len(self.name(index)), np.uint8)
