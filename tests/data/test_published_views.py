"""The views against torchvision's: each operation, and the whole recipe as a distribution.

The reference files are those of the shared folder, or of the folder that PASSL_GOLDEN names: augment_ops.npz,
augment_views.npz and the photographs in images/.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from passl_simsiam.data.decode import decode
from passl_simsiam.data.keys import generator
from passl_simsiam.data.transforms import blur, color, geometry
from passl_simsiam.data.transforms.views import MoCoV2

COLOR_LIMIT = 1.5
RESIZE_LIMIT = 3.0
# The probability that any of the tests of the recipe fails by chance.
FAMILY_LEVEL = 0.01
VIEWS = 400


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    named = os.environ.get("PASSL_GOLDEN")
    folder = Path(named) if named else request.getfixturevalue("shared") / "golden"
    missing = [name for name in ("augment_ops.npz", "augment_views.npz", "images") if not (folder / name).exists()]
    if missing:
        pytest.skip(f"{folder} has no {', '.join(missing)}")
    return folder


def photograph(golden: Path, name: str) -> np.ndarray:
    path = golden / "images" / name
    return decode(path.read_bytes(), str(path))


def operate(operation: str, parameter: str, image: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """What the reference file calls `operation`, on the whole photograph or on the reference crop of it."""
    if operation == "resized_crop":
        top, left, height, width = map(int, parameter.split(","))
        return geometry.resized_crop(image, (top, left, height, width), 96, 96)
    if operation == "resize256_center_crop96":
        return geometry.center_crop(geometry.resize_shorter_side(image, 256), 96)
    if operation == "rgb_to_grayscale":
        return color.repeat_grey(color.grayscale(crop))
    if operation == "hflip":
        return geometry.horizontal_flip(crop)
    functions = {
        "adjust_brightness": color.adjust_brightness,
        "adjust_contrast": color.adjust_contrast,
        "adjust_saturation": color.adjust_saturation,
        "adjust_hue": color.adjust_hue,
        "pil_gaussian_blur": blur.gaussian_blur,
    }
    return functions[operation](crop, float(parameter))


def test_each_operation(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = np.load(golden / "augment_ops.npz")
    assert reference.files
    worst: dict[str, float] = {}
    images: dict[str, np.ndarray] = {}
    for key in reference.files:
        name, operation, parameter = key.split("|")
        if name not in images:
            images[name] = photograph(golden, name)
        crop = reference[f"{name}|resized_crop|10,20,150,180"]
        made = operate(operation, parameter, images[name], crop)
        assert made.shape == reference[key].shape, key
        difference = float(np.abs(made.astype(float) - reference[key]).mean())
        assert difference <= (RESIZE_LIMIT if "resize" in operation else COLOR_LIMIT), (key, difference)
        worst[operation] = max(worst.get(operation, 0.0), difference)
    with capsys.disabled():
        print("\nlargest mean absolute difference in grey levels:", {k: round(v, 2) for k, v in worst.items()})


def statistics(views: np.ndarray) -> np.ndarray:
    """The nine columns of augment_views.npz for views uint8 [n, h, w, 3], one row a view."""
    x = views.astype(np.float32) / 255
    pixels = x.reshape(len(x), -1, 3)
    chroma = (x.max(axis=3) - x.min(axis=3)).mean(axis=(1, 2))
    gradients = [np.abs(np.diff(x, axis=axis)).mean(axis=(1, 2, 3)) for axis in (2, 1)]
    return np.column_stack([pixels.mean(axis=1), pixels.std(axis=1), chroma, *gradients])


def p_values(recipe: MoCoV2, image: np.ndarray, reference: np.ndarray) -> list[float]:
    """Two-sample Kolmogorov-Smirnov for each statistic, VIEWS views against the rows of `reference`."""
    stats = pytest.importorskip("scipy.stats")
    pairs = (recipe(image, [generator(0, 0, k, 0), generator(0, 0, k, 1)]) for k in range(VIEWS // 2))
    ours = statistics(np.array([view for pair in pairs for view in pair]))
    return [stats.ks_2samp(ours[:, k], reference[:, k]).pvalue for k in range(reference.shape[1])]


def test_the_recipe_as_a_distribution(golden: Path) -> None:
    """Each statistic of each photograph, at a level that Bonferroni corrects for their number.

    With that many tests a bias would show in many p-values before it shows in the smallest: so their share below 0.05
    is held as well, to five times what it would be without any bias (tests of one photograph depend on each other).
    """
    reference = np.load(golden / "augment_views.npz")
    recipe = MoCoV2(size=64)
    p = np.array([p_values(recipe, photograph(golden, name), reference[name]) for name in reference.files])
    assert p.min() > FAMILY_LEVEL / p.size, f"smallest p-value {p.min():.2g} of {p.size}"
    assert (p < 0.05).mean() <= 0.25, f"{(p < 0.05).mean():.0%} of {p.size} p-values are below 0.05"


def test_the_test_of_the_recipe_can_fail(golden: Path) -> None:
    """Without its blur, the recipe is told from the published one."""
    reference = np.load(golden / "augment_views.npz")
    name = reference.files[0]
    p = p_values(MoCoV2(size=64, blur_probability=0.0), photograph(golden, name), reference[name])
    assert min(p) < FAMILY_LEVEL / (9 * len(reference.files))
