"""Each mistake in a store that `mailsni doctor` knows, planted in a certbot directory: named, placed, mended."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from mailsni.doctor.finding import Finding
from mailsni.sandbox.authority import Issued
from tests.support.doctor_host import ERROR, LONG_AGO, NAME, WARNING, DoctorHost, Mistake, edit_of, run_fix


def _open_key(host: DoctorHost) -> str:
    key = host.archive / "one.test" / "privkey1.pem"
    key.chmod(0o644)
    host.archive.chmod(0o755)
    return str(key)


def _loose_key(host: DoctorHost) -> str:
    key = host.archive / "two.test" / "privkey1.pem"
    key.chmod(0o644)
    return str(key)


def _open_pin(host: DoctorHost) -> str:
    pins = host.mail_host.pin_directory
    pins.chmod(0o755)
    pin = min(pins.iterdir())
    pin.chmod(0o644)
    return str(pin)


def _open_archive(host: DoctorHost) -> str:
    path = host.archive / "one.test"
    path.chmod(0o777)
    return str(path)


def _leaf_alone(host: DoctorHost) -> str:
    issued = host.mail_host.authority.issue(["mail.alone.test"])
    alone = Issued(issued.key_pem, issued.leaf_pem, b"", issued.leaf_pem, issued.fingerprint, *_rest(issued))
    host.mail_host.store.add("alone.test", alone)
    return str(host.live / "alone.test" / "fullchain.pem")


def _rest(issued: Issued) -> tuple[tuple[str, ...], datetime, datetime]:
    return issued.names, issued.not_before, issued.not_after


def _completed(host: DoctorHost, finding: Finding) -> None:
    assert "--cert-name alone.test" in (finding.fix.command or "")
    host.mail_host.store.renew("alone.test", host.mail_host.authority.issue(["mail.alone.test"]))


def _default_alone(host: DoctorHost) -> str:
    pem = host.etc / "alone.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(host.mail_host.default.key_pem + host.mail_host.default.leaf_pem)
    host.postconf("-e", f"smtpd_tls_chain_files={pem}")
    return host.line(host.main_cf, "smtpd_tls_chain_files")


def _issuer_added(host: DoctorHost, finding: Finding) -> None:
    assert "append the issuer's certificate" in (finding.fix.note or "")
    with (host.etc / "alone.pem").open("ab") as pem:
        pem.write(host.mail_host.default.chain_pem)


def _service_alone(host: DoctorHost) -> str:
    """A service with a default certificate of its own."""
    lineage = host.live / "one.test"
    return host.option(0, f"{{ smtpd_tls_chain_files = {lineage}/privkey.pem {lineage}/cert.pem }}")


def _service_completed(host: DoctorHost, finding: Finding) -> None:
    lineage = host.live / "one.test"
    assert edit_of(finding) == f"name {lineage}/fullchain.pem instead of {lineage}/cert.pem"
    host.master_cf.write_text(host.master_cf.read_text().replace(f"{lineage}/cert.pem", f"{lineage}/fullchain.pem"))
    left = host.find()
    assert set(left) == {"service_certificate"}
    run_fix(host, left["service_certificate"])


def _two_for_a_name(host: DoctorHost) -> str:
    issued = host.mail_host.authority.issue([NAME, "imap.one.test"], not_before=datetime.now(UTC) - timedelta(days=9))
    host.mail_host.store.add("one.test-0001", issued)
    return str(host.mail_host.store.renewal / "one.test-0001.conf")


def _deleted(host: DoctorHost, finding: Finding) -> None:
    assert finding.fix.command == "certbot delete --cert-name one.test-0001"
    host.mail_host.store.delete("one.test-0001")


def _forgotten(host: DoctorHost) -> str:
    (host.mail_host.store.renewal / "one.test.conf").unlink()
    return str(host.live / "one.test")


def _remembered(host: DoctorHost, finding: Finding) -> None:
    assert str(host.mail_host.store.renewal / "one.test.conf") in edit_of(finding)
    host.mail_host.store._write_renewal("one.test")


def _dead_lineage(host: DoctorHost) -> str:
    old = host.mail_host.authority.issue(["www.old.test"], not_before=datetime.now(UTC) - timedelta(days=100))
    host.mail_host.store.add("old.test", old)
    (host.mail_host.store.renewal / "old.test.conf").unlink()
    return str(host.live / "old.test")


def _torn(host: DoctorHost) -> str:
    key = host.archive / "one.test" / "privkey1.pem"
    key.write_bytes(host.mail_host.authority.issue(["x.test"]).key_pem)
    os.utime(key, (LONG_AGO, LONG_AGO))
    return str(host.live / "one.test")


def _renewed(host: DoctorHost, finding: Finding) -> None:
    assert "certbot renew --cert-name one.test" in (finding.fix.command or "")
    host.mail_host.store.renew("one.test", host.mail_host.authority.issue([NAME, "imap.one.test"]))


def _no_store(host: DoctorHost) -> str:
    host.live.rename(host.live.with_name("elsewhere"))
    return str(host.live)


def _back_again(host: DoctorHost, finding: Finding) -> None:
    assert str(host.live) in finding.what
    host.live.with_name("elsewhere").rename(host.live)


STORES = [
    Mistake("key_world_readable", ERROR, _open_key, run_fix),
    Mistake("key_mode_too_open", WARNING, _loose_key, run_fix),
    Mistake("pin_world_readable", ERROR, _open_pin, run_fix),
    Mistake("store_writable", ERROR, _open_archive, run_fix),
    Mistake("chain_incomplete", WARNING, _leaf_alone, _completed),
    Mistake("chain_incomplete", WARNING, _default_alone, _issuer_added),
    Mistake("chain_incomplete", WARNING, _service_alone, _service_completed, also=("service_certificate",)),
    Mistake("lineages_compete", WARNING, _two_for_a_name, _deleted),
    Mistake("lineage_not_renewed", WARNING, _forgotten, _remembered),
    Mistake(
        "lineage_expired_not_renewed",
        WARNING,
        _dead_lineage,
        run_fix,
    ),
    Mistake("lineage_key_mismatch", WARNING, _torn, _renewed),
    Mistake(
        "store_missing",
        ERROR,
        _no_store,
        _back_again,
    ),
]


@pytest.mark.shared
@pytest.mark.parametrize("mistake", STORES, ids=[f"{one.code}-{at}" for at, one in enumerate(STORES)])
def test_a_mistake_in_a_store_is_named_and_its_fix_mends_it(doctor_host: DoctorHost, mistake: Mistake) -> None:
    mistake.try_on(doctor_host)
