"""SimSiam on PaddlePaddle: train, check, trust and hand on a representation."""

__version__ = "0.1.0"
