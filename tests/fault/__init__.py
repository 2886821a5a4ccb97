"""Faults: what a run leaves behind when it is killed, when a system call fails, when the disk is full."""
