#!/bin/sh
# acme.sh: `acme.sh --install-cert -d NAME … --reloadcmd /path/to/this`, after each certificate that was issued or
# renewed; acme.sh keeps the command and sets Le_Domain, CERT_PATH, CERT_KEY_PATH, CA_CERT_PATH, CERT_FULLCHAIN_PATH.
# `acme.sh --cron` calls it for one after the other: the first call leaves a process behind that waits for the end of
# acme.sh (ten minutes at most) and then does it once for all. What goes wrong there: syslog, `mailsni status`.
PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/mailsni/bin:/root/.local/bin
MAILSNI_STARTED_BY=acme.sh
export PATH MAILSNI_STARTED_BY
command -v mailsni >/dev/null || { echo "mailsni: error: $0: the mailsni program is not in $PATH" >&2; exit 1; }
exec mailsni apply --quiet --wait 300 --settle 600 --after acme.sh
