"""What a program of the user's calls: three lines from images to features.

    import passl_simsiam
    backbone = passl_simsiam.load_backbone("output/simsiam_r18_pt_digits")
    features = passl_simsiam.extract(backbone, "photos/")

Paddle is imported by the first call, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passl_simsiam import runtime
from passl_simsiam.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from paddle import nn


def load_backbone(path_or_name: str | Path) -> nn.Layer:
    """The backbone of a run, a checkpoint or a weight file, with its weights, in evaluation mode.

    Args:
        path_or_name: a run's folder (its best checkpoint, else its latest), a checkpoint's folder, or a weight file of
            this or another project (.safetensors, .pdparams, .pth; the network is found from its tensors).

    Returns:
        A paddle.nn.Layer, normalised images float32 [b, in_channels, H, W] -> features [b, out_channels]. Beside
        `out_channels` it says how its images are to be prepared, which `extract` goes by and a caller may change:
        `in_channels`; `transform`, the view that it was evaluated on, and `image_size`, that view's pixels a side;
        `mean` and `std` of each channel in 0..1. A bare weight file does not know them: ImageNet's are taken, with a
        warning.

    Raises:
        UserError: nothing is there, or it is no network that is known here.
    """
    runtime.prepare_environment()
    from passl_simsiam.tasks.pretrained import load_pretrained

    loaded = load_pretrained(path_or_name)
    backbone = loaded.backbone
    backbone.in_channels, backbone.mean, backbone.std = loaded.images.in_channels, loaded.images.mean, loaded.images.std
    backbone.transform, backbone.image_size = loaded.transform, loaded.transform.size
    return backbone


def extract(
    backbone: nn.Layer,
    images: str | Path | Sequence[Any] | np.ndarray[Any, Any],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
) -> np.ndarray[Any, Any]:
    """Features of images, one row each, in their order.

    Args:
        backbone: from `load_backbone`.
        images: a folder, a list in a text or CSV file, or one image's file; or a list of files; or a list of uint8
            arrays [h, w, 3] or [h, w] of any sizes (PIL images will do), or one uint8 array [n, h, w, 3]. RGB order.
        batch_size: images at a time.
        num_workers: processes that read and prepare them; 0 does it here. The features are bitwise the same.

    Returns:
        float32 [n, out_channels], as the backbone gives them: not normalised to length 1.

    Raises:
        UserError: no images; one that cannot be read, for then rows and images would not correspond (`passl-extract`
            leaves such images out and says which); a backbone that does not say how to prepare its images.
    """
    if missing := [name for name in ("in_channels", "transform", "mean", "std") if not hasattr(backbone, name)]:
        raise UserError(f"this {type(backbone).__name__} has no {', '.join(missing)}: take it from load_backbone")
    from passl_simsiam.data.loader import Loader
    from passl_simsiam.evaluation import features
    from passl_simsiam.tasks.images import encoder, open_images

    data = open_images(images, backbone.in_channels)
    loader = Loader(
        data,
        backbone.transform,
        batch_size=batch_size,
        shuffle=False,
        drop_last=False,
        seed=0,
        num_workers=num_workers,
        max_bad_fraction=1.0,
    )
    with loader:

        def whole_batches() -> Any:
            for batch in loader.epoch(0):
                if loader.bad:
                    raise loader.bad.error("and a row is wanted for each")
                yield batch

        return features.extract(
            encoder(backbone, backbone.mean, backbone.std), whole_batches(), count=len(data)
        ).features
