"""The servers that take artifacts, and what they have in common."""
