"""Every recipe in configs/: it loads, every argument in it is one that its component takes, and it trains a step."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from passl_simsiam import build
from passl_simsiam.config import load_config
from passl_simsiam.tasks import run

RECIPES = sorted(Path(__file__).parents[1].glob("configs/**/*.yaml"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs-to-be in two classes, for train and val."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(4):
                cv2.imwrite(str(folder / split / name / f"{i}.png"), rng.integers(0, 256, (48, 40, 3), np.uint8))
    return folder


def test_there_are_recipes() -> None:
    names = {path.name for path in RECIPES}
    assert {"simsiam_r50_pt.yaml", "simsiam_r50_lp.yaml"} <= names
    assert {f"simsiam_r18_{t}_{d}.yaml" for t in ("pt", "lp") for d in ("cifar10", "cifar100", "digits")} <= names


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = path.read_text().split("\n\n")[0]
    assert "# Command:" in head, "a recipe's head says how to run it"
    build.check(load_config(path))  # as it stands, with the data set that it names

    tiny = ["DataLoader.Train.sampler.batch_size=4", "DataLoader.Train.loader.num_workers=0", "Global.device=cpu"]
    if load_config(path).DataLoader.Train.dataset.name != "Digits":
        tiny += [f"DataLoader.Train.dataset={{name: ImageFolder, root: {images}, split: train}}"]
        transform = load_config(path).DataLoader.Train.dataset.transform
        tiny += [f"DataLoader.Train.dataset.transform={{name: {transform.name}, size: {transform.arguments['size']}}}"]
        tiny += ["DataLoader.Eval.dataset.name=ImageFolder", "DataLoader.Eval.loader.num_workers=0"]
    if load_config(path).Global.pretrained_model:
        tiny += ["Global.pretrained_model=null"]
    run.dry_run(load_config(path, tiny), {})
    said = capsys.readouterr().out
    assert "one step of 4 images: loss" in said
    assert "nan" not in said
