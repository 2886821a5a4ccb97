"""The stores that certificates come from. The rest of the program knows :mod:`mailsni.sources.base` alone."""
