"""A mail host to play with: throw-away certificates, a certbot directory, private Postfix and Dovecot.

Used by ``mailsni demo`` and by the tests. Nothing here reads or writes the host's own mail configuration.
"""
