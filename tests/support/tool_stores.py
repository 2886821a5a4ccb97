"""Stores of the kinds whose layouts take code, filled as their own tools fill them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

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


TOOL_BUILDERS: Mapping[str, Callable[[Path], StoreBuilder]] = {
    "acme.sh": AcmeShBuilder,
    "acme.sh+rsa": lambda root: AcmeShBuilder(root, ""),
}
