"""The stores that certificates come from, one module per kind."""
