"""A mail host to play with: throw-away certificates, a certbot directory, private Postfix and Dovecot.

Used by ``mailsni demo``; the tests build on it. Nothing here reads or writes the host's own mail configuration.
"""
