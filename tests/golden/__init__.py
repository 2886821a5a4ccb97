"""Output compared with files that a person has read."""
