"""Kinds of lineages by what is wrong with them; importing this package registers all of them."""

from tests.e2e.lineages import harmless, keys, links, names, pem

__all__ = ["harmless", "keys", "links", "names", "pem"]
