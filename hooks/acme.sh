#!/bin/sh
# acme.sh: `acme.sh --install-cert -d NAME … --reloadcmd /path/to/this` runs it after each certificate that is issued or
# renewed. acme.sh remembers the command, and sets Le_Domain, CERT_PATH, CERT_KEY_PATH, CA_CERT_PATH and
# CERT_FULLCHAIN_PATH. `acme.sh --cron` calls it for one certificate after another. Therefore the first call starts a
# background process that waits for acme.sh to exit (at most ten minutes), then publishes once. Its errors go to syslog
# and `mailsni status`.
PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/mailsni/bin:/root/.local/bin
MAILSNI_STARTED_BY=acme.sh
export PATH MAILSNI_STARTED_BY
command -v mailsni >/dev/null || { echo "mailsni: error: $0: the mailsni program is not in $PATH" >&2; exit 1; }
exec mailsni apply --quiet --wait 300 --settle 600 --after acme.sh
