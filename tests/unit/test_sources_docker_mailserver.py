"""docker-mailserver's directory: which certificate its container would serve, and where that lies on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailsni.errors import HostError
from mailsni.sandbox.authority import Issued
from mailsni.sources import compose_file
from mailsni.sources.kinds import SourceSettings
from mailsni.watch.events import to_watch
from tests.support.builders import authority
from tests.support.layout_stores import write
from tests.support.lineages import CertbotDirectory
from tests.support.tool_stores import COMPOSE

pytestmark = pytest.mark.usefixtures("short_pauses")

HOST = "mail.a.test"
CERTS = "docker-data/dms/custom-certs"


def issue(*names: str, **how: Any) -> Issued:  # noqa: ANN401  # what Authority.issue takes
    return authority().issue(names or [HOST], **how)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "stack"
    write(directory / "compose.yaml", COMPOSE.encode())
    return directory


def environment(root: Path, *lines: str) -> None:
    write(root / "mailserver.env", "\n".join(lines).encode())


def fingerprints(root: Path, **keys: str) -> list[str]:
    store = SourceSettings.of("docker-mailserver", path=root, **keys).open()
    inventory = store.scan({})
    assert inventory.skipped == ()
    return sorted(each.fingerprint for each in inventory.certificates)


def put(directory: Path, key: str, chain: str, issued: Issued) -> str:
    write(directory / key, issued.key_pem)
    write(directory / chain, issued.fullchain_pem)
    return issued.fingerprint


def test_the_first_directory_with_a_chain_is_the_one(root: Path) -> None:
    certbot = CertbotDirectory(root / "docker-data/certbot/certs")
    environment(root, "SSL_TYPE=letsencrypt", "SSL_DOMAIN=*.b.test")
    issued = {name: issue() for name in ("a.test", "mail.a.test", "b.test")}
    for name, one in issued.items():
        certbot.add(name, one)
        assert fingerprints(root) == [one.fingerprint]
    (certbot.live / "mail.a.test" / "fullchain.pem").unlink()
    assert fingerprints(root) == [issued["b.test"].fingerprint]
    certbot.delete("b.test")
    assert fingerprints(root) == [issued["a.test"].fingerprint]


def test_a_renewal_does_not_make_another_lineage_the_first(root: Path) -> None:
    certbot = CertbotDirectory(root / "docker-data/certbot/certs")
    environment(root, "SSL_TYPE=letsencrypt")
    certbot.add("a.test", issue())
    old, new = issue(), issue()
    certbot.add(HOST, old)
    for _ in certbot.renewal_steps(HOST, new):
        inventory = SourceSettings.of("docker-mailserver", path=root).open().scan({})
        assert inventory.lineages == {f"{root}#certificate"}
        assert {each.fingerprint for each in inventory.certificates} <= {old.fingerprint, new.fingerprint}


def test_the_key_of_other_tools_is_called_key(root: Path) -> None:
    """What simp_le leaves, and what docker-mailserver extracts from Traefik's file."""
    environment(root, "SSL_TYPE=letsencrypt")
    fingerprint = put(root / "docker-data/certbot/certs/live/mail.a.test", "key.pem", "fullchain.pem", issue())
    assert fingerprints(root) == [fingerprint]


def test_both_certificates_of_an_administrator_are_served(root: Path) -> None:
    expected = sorted(
        (
            put(root / CERTS, "ecdsa.key", "ecdsa.crt", issue()),
            put(root / CERTS, "rsa.key", "rsa.crt", issue(algorithm="rsa")),
        )
    )
    inside = "/tmp/dms/custom-certs"
    environment(
        root,
        "SSL_TYPE=manual",
        f"SSL_CERT_PATH={inside}/ecdsa.crt",
        f"SSL_KEY_PATH={inside}/ecdsa.key",
        f"SSL_ALT_CERT_PATH='{inside}/rsa.crt'",
        f'SSL_ALT_KEY_PATH="{inside}/rsa.key"',
    )
    assert fingerprints(root) == expected


def test_self_signed_and_combined_files_are_named_after_the_host(root: Path) -> None:
    ssl = root / "docker-data/dms/config/ssl"
    environment(root, "SSL_TYPE=self-signed")
    fingerprint = put(ssl, f"{HOST}-key.pem", f"{HOST}-cert.pem", issue())
    write(ssl / "demoCA/cacert.pem", authority().root_pem)
    assert fingerprints(root) == [fingerprint]
    environment(root, "SSL_TYPE=custom")
    both = issue()
    write(ssl / f"{HOST}-full.pem", both.key_pem + both.fullchain_pem)
    assert fingerprints(root) == [both.fingerprint]


@pytest.mark.parametrize(
    ("compose", "env", "hostname"),
    [
        (COMPOSE.replace("hostname: mail.a.test", "hostname: mail\n    domainname: a.test"), "", ""),
        (COMPOSE.replace("hostname: mail.a.test", 'hostname: "mail.${DOMAIN}"'), "", ""),
        (COMPOSE.replace("hostname: mail.a.test", "hostname: ${NOT_SET:-mail.a.test}  # comment"), "", ""),
        (COMPOSE.replace("hostname: mail.a.test", "hostname: docker"), "OVERRIDE_HOSTNAME=mail.a.test", ""),
        (COMPOSE.replace("    hostname: mail.a.test\n", ""), "", "mail.a.test"),
    ],
)
def test_the_name_of_the_container(root: Path, compose: str, env: str, hostname: str) -> None:
    write(root / "compose.yaml", compose.encode())
    write(root / ".env", b"DOMAIN=a.test\n")
    environment(root, "SSL_TYPE=custom", env)
    issued = issue()
    write(root / f"docker-data/dms/config/ssl/{HOST}-full.pem", issued.key_pem + issued.fullchain_pem)
    assert fingerprints(root, hostname=hostname) == [issued.fingerprint]


def test_without_a_compose_file_the_environment_tells(tmp_path: Path) -> None:
    environment(tmp_path, "SSL_TYPE=letsencrypt", "HOSTNAME=mail.a.test", "DOMAINNAME=b.test")
    certbot = CertbotDirectory(tmp_path / "docker-data/certbot/certs")
    for name in ("b.test", "a.test", "mail.a.test"):
        certbot.add(name, issued := issue())
        assert fingerprints(tmp_path) == [issued.fingerprint]


COMPOSES = {
    "several services, and lists as far left as their keys": """\
services:
  traefik:
    image: traefik:v3
    hostname: wrong.test
    volumes:
    - ./elsewhere:/etc/letsencrypt
  mailserver:
    image: docker.io/mailserver/docker-mailserver:15
    hostname: mail.a.test
    environment:
    - SSL_TYPE=letsencrypt
    volumes:
    - ./certificates:/etc/letsencrypt:ro
volumes:
  x:
""",
    "a table of variables, and mounts in their long form": """\
services:
    mail:
        image: "ghcr.io/docker-mailserver/docker-mailserver"
        hostname: mail.a.test
        environment:
            SSL_TYPE: 'letsencrypt'
            ENABLE_CLAMAV: 1
        volumes:
            - type: bind
              source: ./certificates
              target: /etc/letsencrypt
              read_only: true
            - mail-data:/var/mail
""",
    "one directory of live, and that of archive": """\
services:
  mailserver:
    build: .
    hostname: mail.a.test
    env_file:
      - path: ./other.env
        required: false
    volumes:
      - "./certificates/live/mail.a.test:/etc/letsencrypt/live/mail.a.test"
      - "./certificates/archive:/etc/letsencrypt/archive"
""",
}


@pytest.mark.parametrize("text", COMPOSES.values(), ids=COMPOSES)
def test_each_common_way_of_writing_a_compose_file(root: Path, text: str) -> None:
    write(root / "compose.yaml", text.encode())
    write(root / "other.env", b"SSL_TYPE=letsencrypt\n")
    issued = issue()
    CertbotDirectory(root / "certificates").add(HOST, issued)
    assert fingerprints(root) == [issued.fingerprint]


def test_an_override_adds_to_the_compose_file(root: Path) -> None:
    write(root / "docker-compose.yml", (root / "compose.yaml").read_bytes())
    (root / "compose.yaml").unlink()
    override = "services:\n  mailserver:\n    environment:\n      - SSL_TYPE=custom\n    hostname: mail.b.test\n"
    write(root / "docker-compose.override.yml", override.encode())
    environment(root, "SSL_TYPE=letsencrypt")
    issued = issue()
    write(root / "docker-data/dms/config/ssl/mail.b.test-full.pem", issued.key_pem + issued.fullchain_pem)
    assert fingerprints(root) == [issued.fingerprint]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["SSL_TYPE=letsencrypt"],
            "no fullchain.pem in /etc/letsencrypt/live/NAME for any NAME of mail.a.test",
        ),
        (["SSL_TYPE=manual"], "SSL_KEY_PATH or SSL_CERT_PATH is not set"),
        (["SSL_TYPE=manual", "SSL_KEY_PATH=/x/k", "SSL_CERT_PATH=/x/c"], "no volume of the compose file holds /x/k"),
        (["SSL_TYPE=self-signed"], "SSL_TYPE is self-signed, and none of its files are there"),
        (["TLS_LEVEL=modern"], "SSL_TYPE is not set"),
        (["SSL_TYPE=lets-encrypt"], "SSL_TYPE is none of letsencrypt, manual, self-signed, custom"),
    ],
)
def test_what_cannot_be_followed_is_an_error_of_the_store(root: Path, lines: list[str], message: str) -> None:
    environment(root, *lines)
    with pytest.raises(HostError) as caught:
        fingerprints(root)
    assert message in caught.value.message
    assert caught.value.path == root


@pytest.mark.parametrize(
    ("compose", "message"),
    [
        (None, "there is no compose file and no mailserver.env in it"),
        ("services:\n  web:\n    image: nginx\n  db:\n    image: mariadb\n", "no service of the compose file is"),
        ("\xff- - :\n" * 1000, "no service of the compose file is"),
        ("services:\0", "compose.yaml is no text"),
        ("services: {mailserver: {hostname: x}}", "no service of the compose file is"),
    ],
)
def test_a_directory_without_the_container_is_an_error(tmp_path: Path, compose: str | None, message: str) -> None:
    if compose is not None:
        write(tmp_path / "compose.yaml", compose.encode("latin-1"))
    with pytest.raises(HostError) as caught:
        fingerprints(tmp_path)
    assert message in caught.value.message


def test_the_mail_is_not_watched(root: Path) -> None:
    environment(root, "SSL_TYPE=custom")
    issued = issue()
    write(root / f"docker-data/dms/config/ssl/{HOST}-full.pem", issued.key_pem + issued.fullchain_pem)
    watched = to_watch(SourceSettings.of("docker-mailserver", path=root).open().watch_paths())
    assert not any(each.is_tree for each in watched)
    names = {each.path: each.names for each in watched}
    assert {"mailserver.env", "compose.yaml"} <= names[str(root)]
    assert f"{HOST}-full.pem" in names[str(root / "docker-data/dms/config/ssl")]


def test_no_compose_file_takes_long() -> None:
    nested = "\n".join(f"{' ' * depth}a:" for depth in range(1000))
    assert compose_file.services([nested, "- " * 200_000, "a: b\n" * 100_000, "${" * 200_000], {}) == []
