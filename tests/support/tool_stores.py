"""Stores of the kinds whose layouts take code, filled as their own tools fill them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mailsni.sandbox.authority import Issued
from tests.support.layout_stores import ACCOUNT_KEY, BROKEN, LayoutBuilder, write
from tests.support.store_builder import StoreBuilder


class AcmeShBuilder(LayoutBuilder):
    """As acme.sh 3.1 leaves its home, with ECDSA keys.

    Args:
        root: the home.
        suffix: of the directories.
    """

    def __init__(self, root: Path, suffix: str = "_ecc") -> None:
        decoys = {
            "acme.sh": b"#!/usr/bin/env sh\n",
            "account.conf": b"DNS_TOKEN='not for us'\n",
            "http.header": b"HTTP/2 200\n",
            "ca/acme-v02.api.letsencrypt.org/directory/account.key": ACCOUNT_KEY,
            "ca/acme-v02.api.letsencrypt.org/directory/ca.conf": b"",
            "deploy/haproxy.sh": b"",
            "dnsapi/dns_cf.sh": b"",
            "mail.never.test_ecc/mail.never.test.key": ACCOUNT_KEY,
            "mail.never.test_ecc/mail.never.test.csr": b"",
            "mail.never.test_ecc/mail.never.test.conf": b"Le_Domain='mail.never.test'\n",
        }
        at = f"{{}}{suffix}"
        beside = {
            f"{at}/{{}}.conf": b"Le_Domain='x'\nLe_RealKeyPath=''\nLe_CertCreateTime='1760000000'\n",
            f"{at}/{{}}.cer": BROKEN,
            f"{at}/ca.cer": BROKEN,
            f"{at}/{{}}.csr": b"",
            f"{at}/{{}}.csr.conf": b"",
            f"{at}/{{}}.key.next": ACCOUNT_KEY,
            f"{at}/fullchain.cer.alt": BROKEN,
            f"{at}/backup/key.bak": ACCOUNT_KEY,
            f"{at}/backup/fullchain.bak": BROKEN,
        }
        super().__init__(root, "acme.sh", f"{at}/{{}}.key", f"{at}/fullchain.cer", "", beside, decoys)
        self._suffix = suffix

    def origin(self, name: str) -> str:
        return f"{self.root}/{name}{self._suffix}"

    def conf(self, name: str) -> Path:
        """What acme.sh notes about a certificate."""
        return self.key(name).with_suffix(".conf")

    def install(self, name: str, key: Path, chain: Path) -> None:
        """What ``--install-cert`` does: the conf first, then the key and last the chain, in place."""
        text = f"Le_RealKeyPath='{key}'\nLe_RealFullChainPath='{chain}'\n"
        write(self.conf(name), b"Le_CertCreateTime='1760000000'\n" + text.encode())
        write(key, self.key(name).read_bytes())
        write(chain, self.chain(name).read_bytes())


COMPOSE = """\
services:
  mailserver:
    image: ghcr.io/docker-mailserver/docker-mailserver:latest
    container_name: mailserver
    # Provide the FQDN of your mail server here (Your DNS MX record should point to this value)
    hostname: mail.a.test
    env_file: mailserver.env
    ports:
      - "25:25"    # SMTP  (explicit TLS => STARTTLS, Authentication is DISABLED => use port 465/587 instead)
      - "993:993"  # IMAP4 (implicit TLS)
    volumes:
      - ./docker-data/dms/mail-data/:/var/mail/
      - ./docker-data/dms/config/:/tmp/docker-mailserver/
      - ./docker-data/dms/custom-certs/:/tmp/dms/custom-certs/:ro
      - ./docker-data/certbot/certs/:/etc/letsencrypt/:ro
      - /etc/localtime:/etc/localtime:ro
    restart: always
"""


class DockerMailserverBuilder(StoreBuilder):
    """The directory of docker-mailserver 15, with certificates of an administrator's: one and an alternate."""

    kind, separator, capacity = "docker-mailserver", "#", 2

    def __init__(self, root: Path) -> None:
        super().__init__(root, root)
        self._names: list[str] = []
        write(root / "compose.yaml", COMPOSE.encode())
        write(root / "mailserver.env", b"# comment\nSSL_TYPE=\nTLS_LEVEL=modern\n")
        for name, content in _DOCKER_MAILSERVER_DECOYS.items():
            write(root / name, content)

    def origin(self, name: str) -> str:
        return f"{self.root}#{self._what(name)}"

    def put(self, name: str, issued: Issued) -> None:
        self.damage(name, chain=issued.fullchain_pem, key=issued.key_pem)
        lines = ["SSL_TYPE=manual"]
        for prefix, what in (("SSL", "certificate"), ("SSL_ALT", "alternate")):
            paths = (("CERT", "crt"), ("KEY", "key"))
            lines += [f"{prefix}_{part}_PATH=/tmp/dms/custom-certs/{what}.{end}" for part, end in paths]
        write(self.root / "mailserver.env", "\n".join(lines).encode())

    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        for end, content in (("crt", chain), ("key", key)):
            if content is not None:
                write(self._file(name, end), content)

    def remove(self, name: str) -> None:
        for end in ("crt", "key"):
            self._file(name, end).unlink()

    def interrupt(self, name: str, issued: Issued) -> None:
        """The key is the new one, the chain is empty."""
        self.damage(name, chain=b"", key=issued.key_pem)

    def point_outside(self, name: str, target: Path) -> None:
        self.replace_file(name, lambda path: path.symlink_to(target))

    def replace_file(self, name: str, make: Callable[[Path], object]) -> None:
        self._file(name, "key").unlink()
        make(self._file(name, "key"))

    def _file(self, name: str, end: str) -> Path:
        return self.root / f"docker-data/dms/custom-certs/{self._what(name)}.{end}"

    def _what(self, name: str) -> str:
        """The first one that is put is the certificate, the second the alternate one."""
        if name not in self._names:
            self._names.append(name)
        return ("certificate", "alternate")[self._names.index(name)]


_DOCKER_MAILSERVER_DECOYS = {
    "docker-data/dms/config/ssl/mail.a.test-key.pem": ACCOUNT_KEY,
    "docker-data/dms/config/ssl/mail.a.test-cert.pem": BROKEN,
    "docker-data/dms/config/ssl/demoCA/private/cakey.pem": ACCOUNT_KEY,
    "docker-data/dms/config/dhparams.pem": b"",
    "docker-data/dms/config/postfix-accounts.cf": b"",
    "docker-data/dms/custom-certs/old-key.pem": ACCOUNT_KEY,
    "docker-data/dms/mail-data/a.test/me/cur/1": b"",
    "docker-data/certbot/certs/live/mail.a.test/privkey.pem": ACCOUNT_KEY,
}


TOOL_BUILDERS: Mapping[str, Callable[[Path], StoreBuilder]] = {
    "acme.sh": AcmeShBuilder,
    "acme.sh+rsa": lambda root: AcmeShBuilder(root, ""),
    "docker-mailserver": DockerMailserverBuilder,
}
