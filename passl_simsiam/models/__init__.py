"""Backbones, necks, heads, methods and losses. Importing the package registers them: one line a component file."""

from passl_simsiam.models import backbones, classifier, heads, losses, necks, simclr, simsiam

__all__ = ["backbones", "classifier", "heads", "losses", "necks", "simclr", "simsiam"]
