"""Images a second through decoding and two random views, on one core: this project against its peers.

    python tools/bench/views.py --root FOLDER [--json]

Every competitor reads the same files, decodes each once and makes two views by the MoCo v2 recipe. The published
pipeline, `torchvision`, ends with normalised float tensors. This project leaves normalisation to the device and ends
with uint8, and so do the other peers: `torchvision_uint8` is the published pipeline without its last two steps.

Within a round, competitors take turns every 50 images, so that whatever else the machine does hits all alike; a round
ends when each has done all images. Seconds are those of processor time, which other programs do not take away. The
table shows medians over rounds. The peers are not dependencies of the project; one that cannot be imported is left out:

    pip install albumentations torch==2.13.0 && pip install --no-deps torchvision==0.28.0
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

# One thread in every library, before any of them is imported.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2  # noqa: E402

from passl_simsiam.data.datasets.folder import ImageFolder  # noqa: E402
from passl_simsiam.data.keys import generator  # noqa: E402
from passl_simsiam.data.transforms.views import MoCoV2  # noqa: E402

# Reads image k of the folder and makes its two views.
Competitor = Callable[[int], object]


def ours(folder: ImageFolder, size: int) -> Competitor:
    transform = MoCoV2(size=size)

    def run(index: int) -> object:
        return transform(folder.read(index, transform.reduction), [generator(0, 0, index, view) for view in (0, 1)])

    return run


def torchvision(folder: ImageFolder, size: int, finish: bool = True) -> Competitor:
    """The published pipeline: Pillow images all the way, then normalised tensors unless `finish` is false."""
    import torch

    if not torch.cuda.is_available():
        # The CPU build of torch lacks what torchvision's compiled detection operators register; views need none.
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            with contextlib.suppress(RuntimeError):  # it is there already
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from PIL import Image, ImageFilter
    from torchvision import transforms

    torch.set_num_threads(1)

    class Blur:
        def __call__(self, image: Image.Image) -> Image.Image:
            return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))

    steps = [
        transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([Blur()], p=0.5),
        transforms.RandomHorizontalFlip(),
    ]
    if finish:
        steps += [transforms.ToTensor(), transforms.Normalize(folder.mean, folder.std)]
    recipe = transforms.Compose(steps)

    def run(index: int) -> object:
        with Image.open(folder.name(index)) as file:
            image = file.convert("RGB")
        return recipe(image), recipe(image)

    return run


def torchvision_uint8(folder: ImageFolder, size: int) -> Competitor:
    """The same without the last two steps: what the other competitors do."""
    return torchvision(folder, size, finish=False)


def albumentations(folder: ImageFolder, size: int) -> Competitor:
    """The same recipe in albumentations, decoded by OpenCV. Its crops are resized without antialiasing."""
    import albumentations as A

    recipe = A.Compose(
        [
            A.RandomResizedCrop((size, size), scale=(0.2, 1.0)),
            A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), p=0.8),
            A.ToGray(p=0.2),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=0.5),
            A.HorizontalFlip(p=0.5),
        ]
    )

    def run(index: int) -> object:
        image = cv2.imread(folder.name(index), cv2.IMREAD_COLOR_RGB)
        return recipe(image=image)["image"], recipe(image=image)["image"]

    return run


PEERS = (torchvision, torchvision_uint8, albumentations)
# Images that a competitor does before the next one takes over.
TURN = 50


def measure(competitors: dict[str, Competitor], images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median, lowest and highest images a second of each competitor over `rounds` passes."""
    for run in competitors.values():
        for index in range(min(images, 10)):  # imports, caches and the files themselves
            run(index)
    rates: dict[str, list[float]] = {name: [] for name in competitors}
    for _ in range(rounds):
        seconds = dict.fromkeys(competitors, 0.0)
        for first in range(0, images, TURN):
            for name, run in competitors.items():
                start = time.process_time()
                for index in range(first, min(first + TURN, images)):
                    run(index)
                seconds[name] += time.process_time() - start
        for name in competitors:
            rates[name].append(images / seconds[name])
    return {
        name: {
            "images_per_second": round(statistics.median(values), 1),
            "lowest": round(min(values), 1),
            "highest": round(max(values), 1),
        }
        for name, values in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder of images")
    parser.add_argument("--size", type=int, default=224, help="height and width of a view (224)")
    parser.add_argument("--images", type=int, default=200, help="how many of the folder's images to use (200)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each competitor (3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.images < 1:
        parser.error("--rounds and --images must be at least 1")

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    folder = ImageFolder(arguments.root, split="all", labels="none")
    competitors: dict[str, Competitor] = {"ours": ours(folder, arguments.size)}
    for peer in PEERS:
        try:
            competitors[peer.__name__] = peer(folder, arguments.size)
        except ImportError as error:
            print(f"{peer.__name__} is left out: {error}", file=sys.stderr)
    images = min(arguments.images, len(folder))
    results = measure(competitors, images, arguments.rounds)
    mine = results.pop("ours")
    if arguments.json:
        print(json.dumps({"ours": mine, "peers": results}))
        return
    print(f"decode and two {arguments.size} px views, one core, {images} images, medians of {arguments.rounds} rounds")
    for name, result in {"ours": mine, **results}.items():
        ratio = mine["images_per_second"] / result["images_per_second"]
        print(f"{name:18s} {result['images_per_second']:8.1f} images/s   ours is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
