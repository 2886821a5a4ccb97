"""``mailsni setup``: wire the program into Postfix, Dovecot, certbot and what starts it, and take everything back.

``plan`` looks and makes a list of ``steps``; the list is shown, and only then carried out, in order. A step that
fails has those before it undone, so that the host is as it was. ``record`` remembers what was changed; what setup
wrote is known by its marks too, should the record be lost.
"""
