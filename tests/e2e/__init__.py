"""The program against a real Postfix, Dovecot and certbot (see tests/lab)."""
