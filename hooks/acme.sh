#!/bin/sh
# acme.sh: `acme.sh --install-cert -d NAME … --reloadcmd /path/to/this` runs it after each certificate that is issued or
# renewed. acme.sh remembers the command, and sets Le_Domain, CERT_PATH, CERT_KEY_PATH, CA_CERT_PATH and
# CERT_FULLCHAIN_PATH. `acme.sh --cron` calls it for one certificate after another. Therefore the first call starts a
# background process that waits for acme.sh to exit (at most ten minutes), then publishes once. Its errors go to syslog
# and `mailsni status`.
PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/mailsni/bin:/root/.local/bin
MAILSNI_STARTED_BY=acme.sh
MAILSNI_HOOK=$$
export PATH MAILSNI_STARTED_BY MAILSNI_HOOK
mailsni apply --quiet --wait 300 --settle 600 --after acme.sh
code=$?
# A program that starts reports failures itself. Of one that does not the journal is told, and root by mail once a day.
[ $code -eq 0 ] || mailsni --version >/dev/null 2>&1 || {
	why="mailsni: error: $0: mailsni does not start (exit code $code): new certificates are not served"
	echo "$why; PATH=$PATH" >&2
	logger -t mailsni -p mail.err "$why" 2>/dev/null
	if [ -z "$(find /run/mailsni.told -mtime -1 2>/dev/null)" ] && command -v sendmail >/dev/null; then
		touch /run/mailsni.told
		printf 'To: root\nSubject: %s\n\nPATH=%s\n' "$why" "$PATH" | sendmail root
	fi
}
exit $code
