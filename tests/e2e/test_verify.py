"""``mailsni verify`` on real servers: what is wrong on the wire is named, with its name, port and server."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailsni.host.commands import require_tool, run
from mailsni.sandbox.authority import Issued
from tests.support.mail_host import DEFAULT_NAME, MailHost
from tests.support.processes import run_mailsni

A, B = "mail.a.test", "imap.b.test"


def deploy(mail_host: MailHost) -> MailHost:
    """Two names are served, the second one with RSA and ECDSA."""
    mail_host.issue(A)
    for algorithm in ("ecdsa", "rsa"):
        mail_host.store.add(f"b-{algorithm}", mail_host.authority.issue([B], algorithm=algorithm))
    mail_host.apply()
    return mail_host


@pytest.fixture(scope="module")
def unchanged(lasting_mail_host: MailHost) -> MailHost:
    """For tests that only look."""
    return deploy(lasting_mail_host)


@pytest.fixture
def deployed(mail_host: MailHost) -> MailHost:
    """For tests that break something."""
    return deploy(mail_host)


def verified(mail_host: MailHost, *words: str, code: int) -> list[dict[str, Any]]:
    """What ``verify --json`` found."""
    done = mail_host.mailsni("verify", "--json", *words)
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["exit_code"] == code
    assert document["probed"] == len(document["answers"])
    assert document["wrong"] == sum(one["wrong"] for one in document["answers"])
    answers: list[dict[str, Any]] = document["answers"]
    return answers


def wrong(answers: Sequence[dict[str, Any]]) -> set[tuple[str, str | None, str]]:
    """Server, name and problem of each answer that is wrong."""
    return {
        (one["server"], one["name"], problem)
        for one in answers
        if one["wrong"]
        for problem in one["problems"]
        if problem != "untrusted"
    }


def put_into_the_map(mail_host: MailHost, name: str, issued: Issued, *chain: bytes) -> None:
    """What somebody's own script does: another certificate for one name, in the live map."""
    mail_host.directory.chmod(0o755)
    file = mail_host.directory / "by-hand.pem"
    file.touch(mode=0o600)
    file.write_bytes(issued.key_pem + issued.leaf_pem + b"".join(chain))
    lines = mail_host.map.read_text().splitlines()
    changed = [f"{name} {file}" if line.startswith(f"{name} ") else line for line in lines]
    assert changed != lines
    source = mail_host.directory / "by-hand"
    source.touch(mode=0o600)
    source.write_text("\n".join(changed) + "\n")
    done = run([require_tool("postmap"), "-c", mail_host.postfix.config_directory, "-F", f"cdb:{source}"])
    assert (done.returncode, done.stderr) == (0, "")
    shutil.move(f"{source}.cdb", mail_host.map.with_name("mailsni.cdb"))


def test_every_name_is_probed_on_every_port(
    unchanged: MailHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes(unchanged.authority.root_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    answers = verified(unchanged, code=0)
    urls = set(unchanged.urls())
    clients: list[tuple[str, str | None, str | None]] = [("named", A, None), ("named", B, "ecdsa"), ("named", B, "rsa")]
    clients += [("without_sni", None, None), ("unknown_name", "mailsni-unknown.invalid", None)]
    expected = {(*client, url) for client in clients for url in urls}
    assert {(one["client"], one["name"], one["algorithm"], one["endpoint"]) for one in answers} == expected
    assert len(answers) == len(expected)
    assert all(one["problems"] == [] for one in answers), "trusted: the system's store is this authority"
    named = [one for one in answers if one["client"] == "named"]
    assert all(one["served"] == one["expected"] and one["certificates_sent"] == 2 for one in named)
    others = [one for one in answers if one["client"] != "named"]
    assert {one["served"] for one in others} == {unchanged.default.fingerprint}
    done = unchanged.mailsni("verify")
    assert (done.returncode, done.stderr) == (0, "")
    until = f"{unchanged.default.not_after:%Y-%m-%d}"
    for server in ("postfix", "dovecot"):
        default = f"{server} serves a certificate for {DEFAULT_NAME}, until {until}"
        assert f"\n(no SNI) and (unknown name): {default}\n" in done.stdout
    assert (
        f"dovecot: {5 * len(unchanged.dovecot.endpoints)} of {5 * len(unchanged.dovecot.endpoints)} answers"
        in done.stdout
    )


def test_listeners_are_found_in_the_servers_configurations(unchanged: MailHost) -> None:
    unchanged.configure(verify={"endpoints": "auto"})
    answers = verified(unchanged, A, code=0)
    unchanged.configure(verify={"endpoints": unchanged.urls()})
    assert {one["endpoint"] for one in answers} == set(unchanged.urls())
    assert {one["name"] for one in answers} == {A, None, "mailsni-unknown.invalid"}


def test_what_time_does_not_suffice_for_is_counted_and_the_exit_code_says_so(unchanged: MailHost) -> None:
    done = unchanged.mailsni("verify", "--json", "--max-time", "0.1")
    document = json.loads(done.stdout)
    assert (done.returncode, document["wrong"], document["exit_code"]) == (1, 0, 1)
    assert document["probed"] + document["not_asked"] == 5 * len(unchanged.urls())
    assert "probes were not made for lack of time: --max-time sets the limit" in done.stderr


def test_an_authority_of_ones_own_is_a_warning(unchanged: MailHost) -> None:
    done = unchanged.mailsni("verify")
    assert done.returncode == 0
    assert "warning: this system does not trust the certificate of 40 answers, the first: imap.b.test" in done.stderr
    assert "unable to get local issuer certificate" in done.stderr


def test_another_certificate_on_one_of_two_servers_is_wrong(deployed: MailHost) -> None:
    old = deployed.authority.issue([A])
    put_into_the_map(deployed, A, old, old.chain_pem)
    answers = verified(deployed, code=5)
    assert wrong(answers) == {("postfix", A, "wrong_certificate")}
    assert {one["served"] for one in answers if one["wrong"]} == {old.fingerprint}
    done = deployed.mailsni("verify", "--quiet")
    assert done.returncode == 5
    where = ", ".join(url for url in deployed.urls() if url.startswith("smtp"))
    until = f"{old.not_after:%Y-%m-%d}"
    assert done.stdout.count("\n") == 1, "one fault, one line"
    assert done.stdout.startswith(f"wrong: {A} at {where}: wrong_certificate")
    assert (
        f"serves an unknown certificate for {A}, issued by CN=Sandbox E1,O=mailsni sandbox, until {until}"
        in done.stdout
    )


def test_a_renewed_certificate_that_is_not_deployed_is_wrong_until_the_next_apply(deployed: MailHost) -> None:
    deployed.renew(A)
    answers = verified(deployed, code=5)
    assert wrong(answers) == {(server, A, "wrong_certificate") for server in ("postfix", "dovecot")}
    told = {one["detail"].partition(";")[0] for one in answers if one["wrong"]}
    label = f"the deployed certificate of {deployed.store.live / A}, not the newer one in the store"
    assert told == {f"serves {label}: run `mailsni apply`"}
    assert deployed.mailsni("apply").returncode == 0
    assert wrong(verified(deployed, code=0)) == set()


@pytest.mark.shared
def test_a_wrong_chain_a_past_date_and_a_foreign_name_are_told_apart(deployed: MailHost) -> None:
    """Three mistakes of a map that was made by hand."""
    issued = deployed.renew(A)
    assert deployed.mailsni("apply").returncode == 0
    put_into_the_map(deployed, A, issued)
    answers = verified(deployed, A, code=5)
    assert wrong(answers) == {("postfix", A, "wrong_chain")}
    assert {one["certificates_sent"] for one in answers if one["wrong"]} == {1}
    expired = deployed.authority.issue([A], not_before=issued.not_before.replace(year=2020))
    put_into_the_map(deployed, A, expired, expired.chain_pem)
    assert wrong(verified(deployed, A, code=5)) == {
        ("postfix", A, "wrong_certificate"),
        ("postfix", A, "expired"),
    }
    foreign = deployed.authority.issue(["mail.x.test"])
    put_into_the_map(deployed, A, foreign, foreign.chain_pem)
    assert wrong(verified(deployed, A, code=5)) == {
        ("postfix", A, "wrong_certificate"),
        ("postfix", A, "name_mismatch"),
    }
    # Deployed, and expired since: nothing in the store can serve the name, and both servers go on with it.
    soon = datetime.now(UTC) + timedelta(seconds=4)
    last = deployed.authority.issue([A], not_before=issued.not_before, not_after=soon)
    deployed.store.renew(A, last)
    assert deployed.mailsni("apply").returncode == 0
    while datetime.now(UTC) < last.not_after:
        time.sleep(0.1)
    assert wrong(verified(deployed, code=5)) == {(server, A, "expired") for server in ("postfix", "dovecot")}


def test_a_stopped_server_and_an_aborted_handshake_are_told_apart(deployed: MailHost) -> None:
    deployed.dovecot.stop()
    deployed.map.with_name("mailsni.cdb").unlink()
    deployed.postfix.reload()
    answers = verified(deployed, code=5)
    names = (A, B, "mailsni-unknown.invalid")
    assert wrong(answers) == {
        *(("dovecot", name, "not_listening") for name in (*names, None)),
        *(("postfix", name, "handshake_failed") for name in names),
    }
    lines = deployed.mailsni("verify", "--quiet").stdout.splitlines()
    assert [line.partition(" at ")[0] for line in lines] == [f"wrong: {B}, {A}, (unknown name)", "wrong: every client"]


@pytest.mark.shared
def test_servers_of_another_host_are_verified_by_names_and_endpoints_alone(deployed: MailHost) -> None:
    """No store, no configuration, no root: names and endpoints are enough."""
    nothing = deployed.directory / "nothing.toml"
    nothing.write_text(f'[[sources]]\ntype = "certbot"\npath = "{deployed.directory}/no-such-store"\n')
    port = deployed.dovecot.endpoints["imaps"]
    urls = ["--endpoint", f"imaps://localhost:{port}", "-e", f"smtp://127.0.0.1:{deployed.postfix.endpoints['smtp']}"]
    done = run_mailsni(nothing, "verify", A, *urls)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"mailsni: warning: the expected certificates are unknown: {deployed.directory}/no-such-store" in done.stderr
    assert f"imaps:{port}" in done.stdout.splitlines()[0]
    other = deployed.authority.issue([A])
    put_into_the_map(deployed, A, other, other.chain_pem)
    done = run_mailsni(nothing, "verify", A, *urls)
    assert done.returncode == 5
    where = f"imaps://localhost:{port}, smtp://127.0.0.1:{deployed.postfix.endpoints['smtp']}"
    assert f"wrong: {A} at {where}: untrusted, servers_disagree: " in done.stdout
    done = run_mailsni(nothing, "verify", "mail.x.test", *urls)
    assert done.returncode == 5
    assert "name_mismatch" in done.stdout
    done = run_mailsni(nothing, "verify", A)
    assert done.returncode == 1
    assert done.stderr.startswith("mailsni: error: ")


@pytest.mark.shared
def test_what_cannot_be_probed_is_refused(idle_mail_host: MailHost) -> None:
    for words in (["not a name"], [A, "-e", "http://x.test"], [A, "-e", "imaps://x.test:0"], ["--timeout", "0"]):
        done = idle_mail_host.mailsni("verify", *words)
        assert done.returncode == 2, words
        assert "Traceback" not in done.stderr
    idle_mail_host.configure(postfix={"enabled": False}, dovecot={"enabled": False}, verify={"endpoints": "auto"})
    done = idle_mail_host.mailsni("verify")
    assert done.returncode == 1
    assert "mailsni: hint: name the ports with [verify] endpoints in the configuration, or" in done.stderr
