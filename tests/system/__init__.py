"""Tests that start programs or listeners of their own, but no mail server."""
