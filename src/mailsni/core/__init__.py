"""The rules, without I/O: names, certificates, which one wins, what changes."""
