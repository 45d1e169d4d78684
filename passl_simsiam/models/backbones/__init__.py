"""Networks from images [b, C, H, W] to pooled features [b, out_channels]; no classifier on top."""

from passl_simsiam.models.backbones import resnet

__all__ = ["resnet"]
