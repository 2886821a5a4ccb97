"""One run of `apply`: when it starts, what it records, whom it alerts."""
