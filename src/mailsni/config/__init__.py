"""The configuration file: its settings and its parser."""
