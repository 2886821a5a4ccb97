"""Everything this program knows about Postfix."""
