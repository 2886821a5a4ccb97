"""`mailsni doctor`: checks this host for the known mistakes and says how to fix each."""
