"""A schedule of augmentation: one transform for the first epochs, another one after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from passl_simsiam.errors import UserError
from passl_simsiam.registry import TRANSFORMS

if TYPE_CHECKING:
    from passl_simsiam.data.base import Transform


@TRANSFORMS.register
class Switch:
    """Epochs 0 to `after_epochs - 1` use `first`, the later ones `second`.

    The loader asks for the transform of an epoch, so which one is used depends on the epoch alone, also after a resume.

    Args:
        first, second: transform nodes, {name: ..., arguments}. Both must make the same number of views of one size.
        after_epochs: how many epochs `first` is used for, at least 1.

    Raises:
        UserError: for a bad node, or transforms that do not fit together.
    """

    def __init__(self, first: dict[str, Any], second: dict[str, Any], after_epochs: int) -> None:
        if after_epochs < 1:
            raise UserError(f"Switch: after_epochs is {after_epochs}; it must be at least 1")
        self.first = _build(first, "Switch.first")
        self.second = _build(second, "Switch.second")
        self.after_epochs = after_epochs
        for attribute in ("num_views", "size"):
            a, b = getattr(self.first, attribute), getattr(self.second, attribute)
            if a != b:
                raise UserError(f"Switch: {attribute} is {a} in `first` and {b} in `second`; they must agree")
        self.num_views: int = self.first.num_views
        self.size: int = self.first.size

    def at(self, epoch: int) -> Transform:
        return self.first if epoch < self.after_epochs else self.second

    def __call__(self, image: NDArray[np.uint8], rngs: Sequence[np.random.Generator]) -> list[NDArray[np.uint8]]:
        """The views of epoch 0, for callers that know no epoch (a picture of the views, a dry run)."""
        return self.first(image, rngs)


def transform_at(transform: Transform, epoch: int) -> Transform:
    """The transform that `epoch` uses: `transform` itself unless it is a schedule."""
    return transform.at(epoch) if isinstance(transform, Switch) else transform


def _build(node: dict[str, Any], where: str) -> Transform:
    arguments = {key: value for key, value in node.items() if key != "name"}
    name = node.get("name")
    if not isinstance(name, str):
        raise UserError(f"{where}: needs a `name`")
    checked = TRANSFORMS.check(name, arguments, where)
    return cast("Transform", TRANSFORMS.get(name)(**checked))
