"""Published weights by name: what there is, fetching it, finding it again."""

from passl_simsiam.zoo.manifest import Entry, catalog, entry_of
from passl_simsiam.zoo.store import cache_folder, download, place_of, resolve

__all__ = ["Entry", "cache_folder", "catalog", "download", "entry_of", "place_of", "resolve"]
