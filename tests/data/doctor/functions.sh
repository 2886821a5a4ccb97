# What the scripts of the faults have in common. The variables come from tests/support/doctor_host.py.
set -e

# Postfix's own tools on this host. Every program of Postfix waits until main.cf is more than a second old.
postconf() {
    command postconf -c "$ETC" "$@"
    touch -d '5 seconds ago' "$ETC/main.cf"
}
postmap() {
    command postmap -c "$ETC" "$@"
}

# write_map LINE...: the source of somebody else's map, $THEIRS.
write_map() {
    printf '%s\n' '# made by hand' "$@" >"$THEIRS"
    chmod 600 "$THEIRS"
}
# use_map TYPE: let main.cf name that map before mailsni's.
use_map() {
    postconf -e "tls_server_sni_maps=$1:$THEIRS, cdb:$MAP"
}
# add_map TYPE LINE...: all of it, and compiled as it should be.
add_map() {
    map_type=$1
    shift
    write_map "$@"
    postmap -F "$map_type:$THEIRS"
    use_map "$map_type"
}

# option PORT OPTION: give a service of master.cf an option.
option() {
    sed -i "/^127.0.0.1:$1 /a\\  -o $2" "$ETC/master.cf"
}

# default_certificate FILE...: let main.cf name a private copy of these as its default certificate.
default_certificate() {
    copy "$ETC/default.pem" "$@"
    postconf -e "smtpd_tls_chain_files=$ETC/default.pem"
}

# copy TO FROM...: a file with these contents that only its owner reads.
copy() {
    copied=$1
    shift
    cat "$@" >"$copied"
    chmod 600 "$copied"
}

# add_lineage NAME: move a lineage of the spare store into the store.
add_lineage() {
    cp -a "$SPARE/archive/$1" "$ARCHIVE/"
    cp -a "$SPARE/live/$1" "$LIVE/"
    sed "s,$SPARE,$STORE,g" "$SPARE/renewal/$1.conf" >"$RENEWAL/$1.conf"
}

# hook NAME TEXT: a deploy hook of somebody else's; its third line is the text.
hook() {
    printf '#!/bin/sh\n# from a tutorial\n%s\n' "$2" >"$HOOKS/deploy/$1"
    chmod 755 "$HOOKS/deploy/$1"
}
# cron LINE: a table of cron's with this third line.
cron() {
    printf 'SHELL=/bin/sh\n\n%s\n' "$1" >"$ROOT/etc/cron.d/sni"
}
# no_schedule: as if nothing but a person had ever started mailsni.
no_schedule() {
    rm -f "$STATE/runs.json"
}
# start_by_timer: what `mailsni setup` leaves behind.
start_by_timer() {
    mkdir -p "$ROOT/etc/systemd/system/timers.target.wants"
    ln -s /etc/systemd/system/mailsni.timer "$ROOT/etc/systemd/system/timers.target.wants/"
}

# block NAME CERTIFICATE [KEY]: a local_name block in the syntax of this Dovecot.
block() {
    printf 'local_name %s {\n  %s\n  %s\n}\n' "$1" "$CERT$2" "$KEY${3:-$2}"
}
# key_of FILE, chain_of FILE: the parts of a file with a key and its chain.
key_of() {
    sed '/-----BEGIN CERTIFICATE/,$d' "$1"
}
chain_of() {
    sed -n '/-----BEGIN CERTIFICATE/,$p' "$1"
}

# renewable LINEAGE: move a lineage of the spare store into the store, where the real certbot renews it.
renewable() {
    cp -a "$SPARE/archive/$1" "$ARCHIVE/"
    cp -a "$SPARE/live/$1" "$LIVE/"
    sed "s,acme\.test,$1,g" "$RENEWAL/acme.test.conf" >"$RENEWAL/$1.conf"
}
# in_python SCRIPT: with the modules of the program and its tests.
in_python() {
    (cd "$REPOSITORY" && python -c "$1")
}
# run_ended HOURS: as if the last run had ended so many hours from now.
run_ended() {
    in_python "
from datetime import UTC, datetime, timedelta
from pathlib import Path
from mailsni.runs.history import Run, record
ended = datetime.now(UTC) + timedelta(hours=$1)
record(Path('$STATE'), Run(ended, ended, 0, '1 name served', 'cron', 1))
"
}
