"""One TLS question to one port. Knows no certificate store."""
