"""mailsni: serve every mail name its own certificate by SNI, with Postfix and Dovecot."""

__version__ = "0.1.0"
