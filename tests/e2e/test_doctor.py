"""`mailsni doctor` as a command on a real mail host: what is in order, what cannot be checked, hostile input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mailsni.host.commands import run
from mailsni.sandbox.servers import LOOPBACK
from tests.support.doctor_host import DoctorHost
from tests.support.processes import AS_NOBODY, run_mailsni


def test_nothing_is_found_where_everything_is_in_order(doctor_host: DoctorHost) -> None:
    said = doctor_host.mail_host.mailsni("doctor")
    assert (said.returncode, said.stdout, said.stderr) == (0, "no findings\n", "")


def _chain_lengths(doctor_host: DoctorHost) -> list[int]:
    """How many certificates a client of SMTP gets without a name, and for a name of the table of others."""
    postfix = doctor_host.mail_host.postfix
    postfix.settle()
    postfix.reload()
    client = ["openssl", "s_client", "-showcerts", "-starttls", "smtp"]
    client += ["-connect", f"{LOOPBACK}:{postfix.endpoints['smtp']}"]
    asked = (["-noservername"], ["-servername", "extra.test"])
    return [run([*client, *words], timeout=20).text.count("-----BEGIN CERTIFICATE-----") for words in asked]


def test_postfix_completes_a_leaf_alone_from_its_authorities_and_that_is_no_finding(doctor_host: DoctorHost) -> None:
    doctor_host.shell(
        """
        default_certificate "$LIVE/default.test/privkey.pem" "$LIVE/default.test/cert.pem"
        add_map cdb "extra.test $SPARE/live/theirs/privkey.pem $SPARE/live/theirs/cert.pem"
        """
    )
    assert _chain_lengths(doctor_host) == [1, 1]
    assert set(doctor_host.find()) == {"chain_incomplete", "map_chain_incomplete"}
    doctor_host.shell('postconf -e "smtpd_tls_CAfile=$LIVE/one.test/chain.pem"')
    assert _chain_lengths(doctor_host) == [2, 2]
    assert doctor_host.find() == {}


# ── what cannot be looked at, and bad input ──────────────────────────────────────────────────────────────────────────


def test_a_main_cf_that_does_not_parse_is_a_finding_and_the_stores_are_looked_at_all_the_same(
    doctor_host: DoctorHost,
) -> None:
    (doctor_host.archive / "two.test" / "privkey1.pem").chmod(0o644)
    doctor_host.main_cf.write_bytes(doctor_host.main_cf.read_bytes() + b"smtpd_tls\xff\x1b[31m thing\n")
    broken = f"{doctor_host.main_cf}:{len(doctor_host.main_cf.read_bytes().splitlines())}"
    said = doctor_host.mail_host.mailsni("doctor", "--json")
    assert said.returncode == 4
    document = json.loads(said.stdout)
    found = {one["code"]: one for one in document["findings"]}
    assert set(found) == {"postfix_unreadable", "key_mode_too_open"}
    assert (found["postfix_unreadable"]["where"], found["postfix_unreadable"]["severity"]) == (broken, "error")
    assert document["counts"] == {"error": 1, "warning": 1, "note": 0}
    assert "\x1b" not in said.stdout
    assert "Traceback" not in said.stderr


def test_text_that_is_no_utf_8_does_no_harm(doctor_host: DoctorHost) -> None:
    with doctor_host.main_cf.open("ab") as main_cf:
        main_cf.write(b"# \xff\xfe\nmail_name = \xff\xfeostfix\nsni_\xff = x\n")
    doctor_host.shell("true")
    found = doctor_host.find()
    assert all(one.what.isprintable() and one.where.isprintable() for one in found.values())
    assert "postfix_unreadable" not in found


def test_a_chain_that_postfix_completes_is_whole_where_no_dovecot_serves_it(doctor_host: DoctorHost) -> None:
    doctor_host.shell(
        """
        add_lineage extra.test
        cp "$LIVE/extra.test/cert.pem" "$ARCHIVE/extra.test/fullchain1.pem"
        postconf -e "smtpd_tls_CAfile=$LIVE/one.test/chain.pem"
        """
    )
    assert set(doctor_host.find()) == {"chain_incomplete"}
    doctor_host.shell("""sed -i '/^\\[dovecot\\]/,/^$/s/^enabled = .*/enabled = false/' "$MAILSNI_CONFIG\"""")
    assert doctor_host.find() == {}


def test_a_default_certificate_that_postfix_completes_is_whole(doctor_host: DoctorHost) -> None:
    doctor_host.shell(
        """
        postconf -X smtpd_tls_chain_files
        postconf -e "smtpd_tls_cert_file=$LIVE/default.test/cert.pem" \\
            "smtpd_tls_key_file=$LIVE/default.test/privkey.pem"
        """
    )
    assert set(doctor_host.find()) == {"chain_incomplete"}
    doctor_host.shell(
        """
        mkdir "$ETC/authorities"
        cp "$LIVE/default.test/chain.pem" "$ETC/authorities/"
        openssl rehash "$ETC/authorities"
        postconf -e "smtpd_tls_CApath=$ETC/authorities"
        """
    )
    assert doctor_host.find() == {}


@pytest.mark.shared
def test_hostile_sources_hooks_and_tables_end_in_findings(doctor_host: DoctorHost) -> None:
    doctor_host.shell('add_map hash "extra.test $ONE"')
    (doctor_host.main_cf.parent / "theirs").write_bytes(
        os.urandom(2 << 20).replace(b"\n", b"\n\x1b[2J") + b"\nx.test " + b"/a" * 100_000 + b"\ny" + b" /a" * 3_000_000
    )
    os.mkfifo(doctor_host.hooks / "post" / "fifo", 0o755)
    (doctor_host.hooks / "pre" / "big").write_bytes(b"postmap " * (10 << 17))
    (doctor_host.hooks / "pre" / "big").chmod(0o755)
    (doctor_host.hooks / "pre" / "huge").write_bytes(b"x" * (17 << 20))
    (doctor_host.hooks / "pre" / "huge").chmod(0o755)
    (doctor_host.hooks / "deploy" / "garbage").write_bytes(b"#!\xff\x00\x1b]0;x\x07" * 1000)
    (doctor_host.hooks / "deploy" / "garbage").chmod(0o755)
    strange = os.fsencode(doctor_host.hooks / "deploy") + b"/a\x1b[2J\n\xff"
    Path(os.fsdecode(strange)).touch(mode=0o600)
    said = doctor_host.mail_host.mailsni("doctor")
    assert said.returncode == 4
    assert "\x1b" not in said.stdout
    assert said.stderr == ""
    assert f"{doctor_host.hooks}/post/fifo is no regular file" in said.stdout
    assert "huge" in said.stdout
    assert max(map(len, said.stdout.splitlines())) < 3000


def test_no_key_is_in_any_output(doctor_host: DoctorHost) -> None:
    doctor_host.shell(
        """
        write_map "extra.test $ONE"
        postmap "hash:$THEIRS"
        use_map hash
        chmod 644 "$THEIRS" "$ARCHIVE/one.test/privkey1.pem"
        chmod 755 "$ARCHIVE"
        """
    )
    said = doctor_host.mail_host.mailsni("doctor", "--json")
    lines = [line for key in doctor_host.archive.rglob("privkey*.pem") for line in key.read_text().splitlines()[1:-1]]
    assert lines
    assert not any(line in said.stdout + said.stderr for line in lines)


def test_an_unprivileged_user_is_told_what_was_not_seen(doctor_host: DoctorHost) -> None:
    doctor_host.mail_host.config.chmod(0o644)
    copy = doctor_host.root / "config.toml"
    copy.write_bytes(doctor_host.mail_host.config.read_bytes())
    copy.chmod(0o644)
    done = run_mailsni(copy, "doctor", before=AS_NOBODY)
    assert done.stderr == ""
    assert f"note: cannot check the store {doctor_host.mail_host.store.live}" in done.stdout
    assert "run it as root" in done.stdout
    assert "error: " not in done.stdout


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_findings_are_printed_with_their_counts_and_exit_code_4(doctor_host: DoctorHost) -> None:
    doctor_host.shell('write_map "extra.test $ONE"; use_map hash; rm "$RENEWAL/one.test.conf"')
    theirs = doctor_host.main_cf.parent / "theirs"
    said = doctor_host.mail_host.mailsni("doctor")
    assert said.returncode == 4
    place = f"\n  where: {theirs.parent}"
    assert said.stdout.startswith(f"error: hash:{theirs}: {theirs}.db does not exist{place}")
    assert said.stdout.endswith("1 error, 1 warning\n")
    quiet = doctor_host.mail_host.mailsni("doctor", "-q")
    assert quiet.returncode == 4
    assert "warning" not in quiet.stdout
    assert quiet.stdout.startswith("error: ")


def test_notes_alone_leave_the_exit_code_0(doctor_host: DoctorHost) -> None:
    doctor_host.shell("hook theirs~ true")
    said = doctor_host.mail_host.mailsni("doctor")
    assert (said.returncode, said.stdout.splitlines()[-1]) == (0, "1 note")
    assert doctor_host.mail_host.mailsni("doctor", "-q").stdout == ""
