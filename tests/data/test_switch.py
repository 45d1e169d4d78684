"""A transform that changes after some epochs."""

import numpy as np
import pytest
from fakes import Noise

from passl_simsiam.data.loader import Loader
from passl_simsiam.errors import UserError
from passl_simsiam.registry import TRANSFORMS

FIRST = {"name": "ResizeCenterCrop", "size": 8, "resize": 8}
SECOND = {"name": "Resize", "size": 8}


def views(transform, epoch, workers=0):
    options = {"shuffle": False, "drop_last": False, "seed": 0, "num_workers": workers}
    with Loader(Noise(20), transform, batch_size=20, **options) as loader:
        return next(loader.epoch(epoch))["views"][0].copy()


def make(node):
    arguments = {key: value for key, value in node.items() if key != "name"}
    return TRANSFORMS.get(node["name"])(**TRANSFORMS.check(node["name"], arguments, "transform"))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_transform_changes_after_the_given_epochs(workers):
    switch = make({"name": "Switch", "first": FIRST, "second": SECOND, "after_epochs": 2})
    first, second = (views(make(node), 0) for node in (FIRST, SECOND))
    assert not np.array_equal(first, second)
    for epoch, expected in enumerate([first, first, second, second]):
        np.testing.assert_array_equal(views(switch, epoch, workers), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"after_epochs": 0}, "after_epochs is 0"),
        ({"second": SECOND | {"size": 16}}, "size is 8 in `first` and 16 in `second`"),
        ({"second": {"name": "CIFAR", "size": 8}}, "num_views is 1 in `first` and 2 in `second`"),
        (
            {"second": {"name": "Resise", "size": 8}},
            "Switch.second.name: unknown transform 'Resise'; did you mean 'Resize'",
        ),
        ({"second": {"size": 8}}, "Switch.second: needs a `name`"),
        ({"second": SECOND | {"resize": 9}}, "Switch.second.resize: Resize takes no argument 'resize'"),
    ],
)
def test_bad_schedules_are_refused(changes, message):
    with pytest.raises(UserError) as error:
        make({"name": "Switch", "first": FIRST, "second": SECOND, "after_epochs": 2} | changes)
    assert message in str(error.value)
