"""Kinds of lineages by what is wrong with them."""
