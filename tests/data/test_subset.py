"""Subsets of a data set: by share of each class, and by lists of names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from passl_simsiam import build
from passl_simsiam.config import load_config
from passl_simsiam.data.datasets.digits import Digits
from passl_simsiam.data.datasets.folder import ImageFolder
from passl_simsiam.data.datasets.subset import Subset, listed, share
from passl_simsiam.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    """n01/n01_0.png, ..., n02/n02_0.png, ..., and a same.png in each."""
    for label in ("n01", "n02"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for name in (*(f"{label}_{i}" for i in range(5)), "same"):
            level = 10 * len(list((tmp_path / "images").rglob("*.png")))
            cv2.imwrite(str(tmp_path / "images" / label / f"{name}.png"), np.full((8, 8, 3), level, np.uint8))
    return ImageFolder(str(tmp_path / "images"))


def write(path: Path, *names: str) -> str:
    path.write_text("\n".join(names) + "\n")
    return str(path)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_a_share_is_that_of_each_class(fraction: float) -> None:
    whole = Digits("train")
    part = share(whole, fraction, seed=0)
    assert whole.labels is not None
    assert part.labels is not None
    counts, expected = np.bincount(part.labels, minlength=10), fraction * np.bincount(whole.labels)
    assert (np.abs(counts - np.maximum(1, expected)) <= 0.5).all()
    assert len(np.unique(part.indices)) == len(part)
    for index in (0, len(part) - 1):
        np.testing.assert_array_equal(part.read(index), whole.read(int(part.indices[index])))
        assert part.labels[index] == whole.labels[part.indices[index]]
    assert (part.mean, part.std, part.classes) == (whole.mean, whole.std, whole.classes)


def test_shares_follow_the_seed_and_lie_in_each_other() -> None:
    whole = Digits("train")
    one, ten = share(whole, 0.01, 0), share(whole, 0.1, 0)
    assert set(one.indices) < set(ten.indices)
    np.testing.assert_array_equal(ten.indices, share(whole, 0.1, 0).indices)
    assert set(ten.indices) != set(share(whole, 0.1, 1).indices)


def test_a_share_of_images_without_labels() -> None:
    whole = Digits("train")
    whole.labels = None
    assert len(share(whole, 0.1, 0)) == 143


def test_a_list_names_files_or_ends_of_paths(folder: ImageFolder, tmp_path: Path) -> None:
    part = listed(folder, write(tmp_path / "list.txt", "n02_3.png", "", "n01/same.png", "n01_0.png", "n02_3.png"))
    assert [Path(part.name(i)).name for i in range(len(part))] == ["n01_0.png", "same.png", "n02_3.png"]
    assert part.labels is not None
    assert part.labels.tolist() == [0, 0, 1]
    assert [int(part.read(i)[0, 0, 0]) for i in range(3)] == [int(cv2.imread(part.name(i))[0, 0, 0]) for i in range(3)]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["n01_0.png", "n01_9.png", "n03_1.png"], r"2 of the 3 names in .* fit no image .*such as 'n01_9.png'"),
        (["n03/n01_0.png"], "1 of the 1 names in .* fit no image"),
        (["01_0.png"], "fit no image"),
        (["same.png"], "fit several images"),
        ([], "names no images"),
    ],
)
def test_names_that_fit_nothing_are_counted(folder: ImageFolder, tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        listed(folder, write(tmp_path / "list.txt", *names))


def test_a_missing_list_is_named(folder: ImageFolder) -> None:
    with pytest.raises(UserError, match=r"nowhere\.txt cannot be read"):
        listed(folder, "nowhere.txt")


def test_recipes_take_either_and_only_for_training(root: Path, folder: ImageFolder, tmp_path: Path) -> None:
    recipe = root / "configs/simsiam_r18_ft_digits.yaml"
    config = load_config(recipe, ["DataLoader.Train.dataset.subset={fraction: 0.1, seed: 3}"])
    train = build.dataset(config.DataLoader.Train, "DataLoader.Train")
    assert isinstance(train, Subset)
    np.testing.assert_array_equal(train.indices, share(Digits("train"), 0.1, 3).indices)
    assert config.DataLoader.Eval is not None
    assert len(build.dataset(config.DataLoader.Eval, "DataLoader.Eval")) == 364

    file = write(tmp_path / "list.txt", "n01_1.png")
    node = f"{{name: ImageFolder, root: {folder.root}, subset: {file}, transform: {{name: Resize, size: 8}}}}"
    config = load_config(recipe, [f"DataLoader.Train.dataset={node}"])
    assert len(build.dataset(config.DataLoader.Train, "DataLoader.Train")) == 1
    with pytest.raises(UserError, match="fraction"):
        load_config(recipe, ["DataLoader.Train.dataset.subset={fraction: 0}"])
