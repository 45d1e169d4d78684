"""SimSiam on PaddlePaddle: train, check, trust and hand on a representation."""

from passl_simsiam.api import extract, load_backbone

__all__ = ["extract", "load_backbone"]
__version__ = "0.1.0"
