"""Recipes: YAML and overrides in, a frozen and checked `Config` out."""

from passl_simsiam.config.loader import load_config, to_yaml
from passl_simsiam.config.schema import Component, Config

__all__ = ["Component", "Config", "load_config", "to_yaml"]
