"""Normalisation on the device: batches travel as uint8, a quarter of the bytes of float32."""

from __future__ import annotations

from collections.abc import Sequence

import paddle


class Normalize:
    """uint8 images [b, H, W, C] -> (x / 255 - mean) / std as [b, C, H, W] in Paddle's default float type.

    Args:
        mean, std: one number a channel, in units of 0 to 1.

    Raises:
        ValueError: as many means as standard deviations are needed, as many as the images have channels, none 0.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean {tuple(mean)} and std {tuple(std)} do not normalise the same channels")
        self._dtype = paddle.get_default_dtype()
        self._mean = paddle.to_tensor(list(mean), dtype=self._dtype).reshape([1, -1, 1, 1]) * 255
        self._std = paddle.to_tensor(list(std), dtype=self._dtype).reshape([1, -1, 1, 1]) * 255

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        if images.dtype != paddle.uint8 or images.shape[-1] != self._mean.shape[1]:
            raise ValueError(
                f"expected uint8 images [b, H, W, {self._mean.shape[1]}], got {images.dtype} {list(images.shape)}"
            )
        x = images.transpose([0, 3, 1, 2]).astype(self._dtype)
        return (x - self._mean) / self._std
