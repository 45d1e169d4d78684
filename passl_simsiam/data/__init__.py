"""Data sets, views and loading. Importing this registers every built-in data set and transform."""

from passl_simsiam.data import switch
from passl_simsiam.data.datasets import cifar, digits, folder, shards
from passl_simsiam.data.transforms import digits as digits_views
from passl_simsiam.data.transforms import evaluation, views

__all__ = ["cifar", "digits", "digits_views", "evaluation", "folder", "shards", "switch", "views"]
