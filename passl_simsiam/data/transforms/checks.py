"""What users may get wrong in a transform: parameters out of range, colour operations on images that are not RGB."""

from __future__ import annotations

from typing import Any

from passl_simsiam.errors import UserError


def check_parameters(recipe: Any) -> None:
    """Check the fields of a frozen dataclass by their names. Raises UserError that names the field and its bounds."""
    for name, value in vars(recipe).items():
        if name == "size" and not 1 <= value <= 8192:
            raise UserError(f"size must be between 1 and 8192 pixels, not {value}")
        if name.endswith("_probability") and not 0 <= value <= 1:
            raise UserError(f"{name} must be between 0 and 1, not {value}")
        if name in ("brightness", "contrast", "saturation", "noise") and value < 0:
            raise UserError(f"{name} must be at least 0, not {value}")
        if name == "hue" and not 0 <= value <= 0.5:
            raise UserError(f"hue is a share of the colour circle and must be between 0 and 0.5, not {value}")
        if isinstance(value, tuple) and not 0 < value[0] <= value[1]:
            raise UserError(f"{name} must be a range of positive numbers, lower end first, not {list(value)}")
        if name == "scale" and value[1] > 1:
            raise UserError(f"scale is a share of the image's area and must end at 1 at most, not {list(value)}")


def require_rgb(recipe: Any, channels: int) -> None:
    """Raise UserError when images of `channels` channels meet operations of `recipe` that need RGB."""
    if channels == 3:
        return
    names = ["grayscale_probability"]
    if recipe.jitter_probability > 0:
        names += ["saturation", "hue"]
    if used := [name for name in names if getattr(recipe, name) > 0]:
        off = ", ".join(f"{name}: 0" for name in used)
        raise UserError(f"{type(recipe).__name__}: the images have {channels} channels, not RGB; switch off by {off}")
