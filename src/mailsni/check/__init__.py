"""`mailsni check`: the monitoring plugin's checks."""
