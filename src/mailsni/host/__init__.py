"""The doors to the machine: files, permissions, locks, other programs, templates."""
