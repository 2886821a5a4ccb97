"""Everything this program knows about Dovecot."""
