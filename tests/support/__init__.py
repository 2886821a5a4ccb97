"""What the tests share: harnesses, fake servers, and the guard that keeps them off the host."""
