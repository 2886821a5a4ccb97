"""The sandbox and the mail host themselves: what every other end-to-end test takes for granted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailsni.errors import HostError
from mailsni.host.commands import require_tool, run
from mailsni.sandbox.authority import Issued
from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import ABORTED, Certbot, MailHost, require, served
from tests.support.servers import PrivateDovecot, PrivatePostfix

pytestmark = pytest.mark.shared

NAME = "mail.example.test"


def pinned(directory: Path, issued: Issued) -> Path:
    """Key and chain in one file, as mailsni hands them to both servers."""
    path = directory / f"{issued.fingerprint}.pem"
    path.touch(mode=0o600)
    path.write_bytes(issued.key_pem + issued.fullchain_pem)
    return path


def build_map(postfix: PrivatePostfix, lines: str) -> None:
    source = postfix.config_directory / "mailsni"
    source.touch(mode=0o600)
    source.write_text(lines)
    done = run([require_tool("postmap"), "-c", postfix.config_directory, "-F", f"cdb:{source}"])
    assert (done.returncode, done.stderr) == (0, "")


def block(dovecot: PrivateDovecot, name: str, path: Path) -> str:
    if dovecot.version == "2.4":
        settings = f"  ssl_server_cert_file = {path}\n  ssl_server_key_file = {path}"
    else:
        settings = f"  ssl_cert = <{path}\n  ssl_key = <{path}"
    return f"local_name {name} {{\n{settings}\n}}\n"


def test_postfix_serves_a_hand_made_map(mail_host: MailHost, default: Issued) -> None:
    postfix, issued = mail_host.postfix, mail_host.authority.issue([NAME])
    build_map(postfix, f"{NAME} {pinned(postfix.config_directory, issued)}\n")
    for service, port in postfix.endpoints.items():
        assert served(port, NAME, service) == issued.fingerprint
        assert served(port, "other.test", service) == default.fingerprint
        assert served(port, None, service) == default.fingerprint


@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb", "cdb"])
def test_every_type_of_map_is_there_from_the_start(shared_tmp: Path, default: Issued, kind: str) -> None:
    require(PrivatePostfix.unavailable())
    with PrivatePostfix(shared_tmp, default, sni_map=f"{kind}:{shared_tmp}/mailsni") as server:
        assert served(server.endpoints["smtp"], NAME, "smtp") == default.fingerprint
    left = [path.name for path in shared_tmp.iterdir() if "empty" in path.name]
    assert left == []


def test_a_stale_process_number_is_not_taken_for_the_server(mail_host: MailHost) -> None:
    postfix = mail_host.postfix
    postfix.stop()
    (postfix.directory / "queue/pid/master.pid").write_text(f"{os.getpid()}\n")
    assert not postfix.running()
    postfix.stop()


def test_a_closed_directory_is_refused(shared_tmp: Path, default: Issued) -> None:
    require(PrivatePostfix.unavailable())
    (shared_tmp / "closed").mkdir(mode=0o700)
    (shared_tmp / "closed/inner").mkdir(mode=0o755)
    with pytest.raises(HostError, match=r"cannot pass through .*/closed$"):
        PrivatePostfix(shared_tmp / "closed/inner", default)


def test_a_broken_entry_is_seen_as_an_aborted_handshake(mail_host: MailHost, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate\n")
    build_map(mail_host.postfix, f"{NAME} {broken}\n")
    for service, port in mail_host.postfix.endpoints.items():
        assert served(port, NAME, service) == ABORTED


def test_dovecot_serves_a_hand_made_block(mail_host: MailHost, default: Issued) -> None:
    dovecot, issued = mail_host.dovecot, mail_host.authority.issue([NAME])
    for service, port in dovecot.endpoints.items():
        assert served(port, NAME, service) == default.fingerprint
    path = pinned(dovecot.config_directory, issued)
    (dovecot.include_directory / "99-mailsni.conf").write_text(block(dovecot, NAME, path))
    dovecot.restart()
    for service, port in dovecot.endpoints.items():
        assert served(port, NAME, service) == issued.fingerprint
        assert served(port, "other.test", service) == default.fingerprint
        assert served(port, None, service) == default.fingerprint


def test_servers_stop_and_start_on_the_same_ports(mail_host: MailHost) -> None:
    for server, service in ((mail_host.postfix, "smtp"), (mail_host.dovecot, "imap")):
        ports = dict(server.endpoints)
        first = server.pid()
        server.stop()
        assert not server.running()
        with pytest.raises(ConnectionRefusedError):
            served(ports[service], None, service)
        server.start()
        assert server.running()
        assert server.pid() != first
        assert server.endpoints == ports
        server.reload()


def state_of(*roots: str) -> dict[str, int]:
    """When each file and directory below the roots was last changed in any way."""
    below = [Path(top, name) for root in roots for top, names, files in os.walk(root) for name in (*names, *files)]
    return {str(path): path.lstat().st_ctime_ns for path in below}


@pytest.mark.real_host
def test_the_hosts_own_configuration_is_left_alone(request: pytest.FixtureRequest) -> None:
    before = state_of("/etc", "/var/lib", "/var/spool")
    mail_host: MailHost = request.getfixturevalue("mail_host")
    for server in (mail_host.postfix, mail_host.dovecot):
        server.reload()
        server.restart()
        server.stop()
    assert state_of("/etc", "/var/lib", "/var/spool") == before


def test_the_sandbox_lays_a_lineage_out_as_certbot_does(
    certbot: Certbot, store: CertbotDirectory, authority: Authority
) -> None:
    certbot.issue(NAME)
    certbot.renew()
    store.add(NAME, authority.issue([NAME]))
    store.renew(NAME, authority.issue([NAME]))
    assert _shape(store.root) == _shape(certbot.config_directory)
    certbot.delete(NAME)
    store.delete(NAME)
    assert not (certbot.config_directory / "live" / NAME).exists()
    assert _shape(store.root) == _shape(certbot.config_directory)


def _shape(root: Path) -> dict[str, tuple[int, str]]:
    """Mode and link target of everything in live, archive and renewal."""
    found = [path for top in ("live", "archive", "renewal") for path in [root / top, *(root / top).rglob("*")]]
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, str(path.readlink()) if path.is_symlink() else "")
        for path in found
    }
