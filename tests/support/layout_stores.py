"""Stores of the kinds that are layouts, filled as their own tools fill them, with what else lies there.

The kinds are in :mod:`mailsni.sources.layouts`, the facts from the tools' source code.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mailsni.sandbox.authority import Issued
from tests.support.lineages import CertbotDirectory
from tests.support.store_builder import StoreBuilder

ACCOUNT_KEY = b"-----BEGIN EC PRIVATE KEY-----\nan account's\n-----END EC PRIVATE KEY-----\n"
BROKEN = b"-----BEGIN CERTIFICATE-----\nno certificate\n-----END CERTIFICATE-----\n"


class CertbotBuilder(StoreBuilder):
    """certbot's directory."""

    kind, separator = "certbot", "/"

    def __init__(self, root: Path) -> None:
        self._store = CertbotDirectory(root)
        super().__init__(root, self._store.live)

    def put(self, name: str, issued: Issued) -> None:
        self._store.put(name, issued)

    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        for kind, content in (("fullchain", chain), ("privkey", key)):
            if content is not None:
                self._store.path(name, kind).write_bytes(content)

    def remove(self, name: str) -> None:
        self._store.delete(name)

    def interrupt(self, name: str, issued: Issued) -> None:
        """The key is the new one, the chain is not there."""
        for step in self._store.renewal_steps(name, issued):
            if step == "unlink fullchain.pem":
                return

    def point_outside(self, name: str, target: Path) -> None:
        self.replace_file(name, lambda path: path.symlink_to(target))

    def replace_file(self, name: str, make: Callable[[Path], object]) -> None:
        self._store.path(name, "privkey").unlink()
        make(self._store.path(name, "privkey"))


class LayoutBuilder(StoreBuilder):
    """A store whose tool writes in place.

    Args:
        root: what ``path`` names.
        kind: of store.
        key: the path of a certificate's key, relative to the root; ``{}`` is its name.
        chain: likewise.
        below: what stands between the root and a name in an origin.
        beside: files that the tool writes after the key and the chain, by path: their contents.
        decoys: what else the tool leaves there, by path.
    """

    separator = "/"

    def __init__(
        self,
        root: Path,
        kind: str,
        key: str,
        chain: str,
        below: str = "",
        beside: Mapping[str, bytes] | None = None,
        decoys: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(root, root)
        self.kind = kind  # type: ignore[misc]  # one class for all of them
        self._key = key
        self._chain = chain
        self._below = below
        self._beside = beside or {}
        root.mkdir(parents=True)
        for name, content in (decoys or {}).items():
            write(root / name, content)

    def origin(self, name: str) -> str:
        return f"{self.root}/{self._below}{name}"

    def key(self, name: str) -> Path:
        """Of a certificate."""
        return self._at(self._key, name)

    def chain(self, name: str) -> Path:
        """Likewise."""
        return self._at(self._chain, name)

    def put(self, name: str, issued: Issued) -> None:
        self.damage(name, chain=issued.fullchain_pem, key=issued.key_pem)
        for pattern, content in self._beside.items():
            write(self._at(pattern, name), content)

    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        for path, content in ((self.chain(name), chain), (self.key(name), key)):
            if content is not None:
                write(path, content)

    def remove(self, name: str) -> None:
        for pattern in (self._key, self._chain, *self._beside):
            self._at(pattern, name).unlink(missing_ok=True)

    def interrupt(self, name: str, issued: Issued) -> None:
        """The key is the new one, the chain is empty."""
        self.damage(name, chain=b"", key=issued.key_pem)

    def point_outside(self, name: str, target: Path) -> None:
        self.replace_file(name, lambda path: path.symlink_to(target))

    def replace_file(self, name: str, make: Callable[[Path], object]) -> None:
        self.key(name).unlink()
        make(self.key(name))

    def _at(self, pattern: str, name: str) -> Path:
        return self.root / pattern.replace("{}", name)


def write(path: Path, content: bytes) -> None:
    """Write a file in place; its directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def acme_companion(root: Path) -> LayoutBuilder:
    """nginx-proxy's certs folder, without the links for the names."""
    decoys = {
        "default.crt": BROKEN,
        "default.key": ACCOUNT_KEY,
        "dhparam.pem": b"",
        "dhparam/ffdhe4096.pem": b"",
    }
    beside = {"{}/cert.pem": b"", "{}/chain.pem": b"", "{}/.companion": b""}
    return LayoutBuilder(root, "acme-companion", "{}/key.pem", "{}/fullchain.pem", "", beside, decoys)


def hand_made_for_nginx_proxy(root: Path) -> LayoutBuilder:
    """The same folder, with pairs of the administrator's."""
    decoys = {"mail.old.test.chain.pem": BROKEN, "mail.old.test.dhparam.pem": b"", "default.crt": BROKEN}
    return LayoutBuilder(root, "acme-companion", "{}.key", "{}.crt", "", {}, decoys)


_ACME = "acme-v02.api.letsencrypt.org-directory"


def caddy(root: Path) -> LayoutBuilder:
    """As Caddy 2.6 leaves it."""
    decoys = {
        f"acme/{_ACME}/users/default/default.key": ACCOUNT_KEY,
        f"acme/{_ACME}/users/default/default.json": b"{}",
        "pki/authorities/local/root.crt": BROKEN,
        "pki/authorities/local/root.key": ACCOUNT_KEY,
        "pki/authorities/local/intermediate.crt": BROKEN,
        "pki/authorities/local/intermediate.key": ACCOUNT_KEY,
        "ocsp/mail.old.test-0123abcd": b"",
        "locks/.keep": b"",
        "last_clean.json": b"{}",
        "instance.uuid": b"",
    }
    at = f"certificates/{_ACME}/"
    names = (f"{at}{{}}/{{}}.key", f"{at}{{}}/{{}}.crt")
    return LayoutBuilder(root, "caddy", *names, at, {f"{at}{{}}/{{}}.json": b'{"sans":[]}'}, decoys)


def caddy_1(root: Path) -> LayoutBuilder:
    """As Caddy 1 leaves it."""
    at = "acme/acme-v02.api.letsencrypt.org/sites/"
    decoys = {
        "acme/acme-v02.api.letsencrypt.org/users/me@a.test/me.key": ACCOUNT_KEY,
        "ocsp/mail.old.test-0123abcd": b"",
    }
    names = (f"{at}{{}}/{{}}.key", f"{at}{{}}/{{}}.crt")
    return LayoutBuilder(root, "caddy", *names, at, {f"{at}{{}}/{{}}.json": b"{}"}, decoys)


class DehydratedBuilder(LayoutBuilder):
    """As dehydrated 0.7 leaves it: links to files with the time in their names."""

    def __init__(self, root: Path) -> None:
        decoys = {
            "accounts/abc/account_key.pem": ACCOUNT_KEY,
            "archive/old.test/privkey-1.pem": ACCOUNT_KEY,
            "chains/e1.chain": b"",
            "certs/never.issued.test/privkey-1700000000.pem": ACCOUNT_KEY,
            "certs/never.issued.test/cert-1700000000.csr": b"",
            "domains.txt": b"mail.a.test > a\n",
        }
        super().__init__(root, "dehydrated", "certs/{}/privkey.pem", "certs/{}/fullchain.pem", "certs/", decoys=decoys)
        self._epoch = itertools.count(1_760_000_000)

    def put(self, name: str, issued: Issued) -> None:
        for _ in self.renewal_steps(name, issued):
            pass

    def renewal_steps(self, name: str, issued: Issued) -> Iterator[str]:
        """One change at a time: the new files, then the links, each replaced by rename."""
        epoch = next(self._epoch)
        directory = self.key(name).parent
        contents = {
            "privkey": issued.key_pem,
            "cert": issued.leaf_pem,
            "chain": issued.chain_pem,
            "fullchain": issued.fullchain_pem,
        }
        write(directory / "privkey.roll.pem", ACCOUNT_KEY)
        for kind, content in contents.items():
            write(directory / f"{kind}-{epoch}.pem", content)
            yield f"write {kind}"
        for kind in ("privkey", "chain", "fullchain", "cert"):
            (directory / "new").symlink_to(f"{kind}-{epoch}.pem")
            (directory / "new").rename(directory / f"{kind}.pem")
            yield f"link {kind}"

    def interrupt(self, name: str, issued: Issued) -> None:
        for step in self.renewal_steps(name, issued):
            if step == "link privkey":
                return

    def remove(self, name: str) -> None:
        shutil.rmtree(self.key(name).parent)


def lego(root: Path) -> LayoutBuilder:
    """As lego 4.25 leaves it."""
    decoys = {
        "accounts/acme-v02.api.letsencrypt.org/me@a.test/keys/me@a.test.key": ACCOUNT_KEY,
        "accounts/acme-v02.api.letsencrypt.org/me@a.test/account.json": b"{}",
        "certificates/README": b"",
        "certificates/mail.old.test.pfx": b"",
        "archives/1700000000.old.test.key": ACCOUNT_KEY,
    }
    at = "certificates/"
    beside = {f"{at}{{}}.pem": BROKEN, f"{at}{{}}.json": b'{"certUrl": "https://ca.test/"}'}
    return LayoutBuilder(root, "lego", f"{at}{{}}.key", f"{at}{{}}.crt", at, beside, decoys)


def mailcow(root: Path) -> LayoutBuilder:
    """As mailcow of 2026 leaves it, its default pair left out."""
    at = "data/assets/ssl/"
    decoys = {
        f"{at}acme/key.pem": ACCOUNT_KEY,
        f"{at}acme/account.pem": ACCOUNT_KEY,
        f"{at}acme-sh/account.conf": b"",
        f"{at}backups/mail.old.test/2026-01-01_00_00_00/key.pem": ACCOUNT_KEY,
        f"{at}backups/key.pem": ACCOUNT_KEY,
        f"{at}backups/cert.pem": BROKEN,
        f"{at}dhparams.pem": b"",
        f"{at}force_renew": b"",
        "data/assets/ssl-example/cert.pem": BROKEN,
        "data/assets/ssl-example/key.pem": ACCOUNT_KEY,
        "mailcow.conf": b"",
    }
    beside = {f"{at}{{}}/domains": b"mail.a.test", f"{at}{{}}/acme.csr": b""}
    return LayoutBuilder(root, "mailcow", f"{at}{{}}/key.pem", f"{at}{{}}/cert.pem", at, beside, decoys)


def mod_md(root: Path) -> LayoutBuilder:
    """As Apache 2.4.68 leaves it."""
    decoys = {
        "accounts/ACME-api.letsencrypt.org-0000/account.pem": ACCOUNT_KEY,
        "staging/mail.a.test/privkey.pem": ACCOUNT_KEY,
        "staging/mail.a.test/pubcert.pem": BROKEN,
        "archive/mail.a.test.1/privkey.pem": ACCOUNT_KEY,
        "archive/mail.a.test.1/pubcert.pem": BROKEN,
        "challenges/mail.a.test/acme-tls-alpn-01.rsa-key.pem": ACCOUNT_KEY,
        "domains/never.issued.test/fallback-pubcert.pem": BROKEN,
        "domains/never.issued.test/fallback-privkey.pem": ACCOUNT_KEY,
        "domains/never.issued.test/md.json": b"{}",
        "md_store.json": b"{}",
    }
    beside = {"domains/{}/md.json": b"{}", "domains/{}/fallback-privkey.pem": ACCOUNT_KEY}
    return LayoutBuilder(root, "mod_md", "domains/{}/privkey.pem", "domains/{}/pubcert.pem", "domains/", beside, decoys)


class ProxyManagerBuilder(CertbotBuilder):
    """Nginx Proxy Manager's two volumes, beside each other: its certbot's lineages."""

    kind = "nginx-proxy-manager"

    def __init__(self, root: Path) -> None:
        StoreBuilder.__init__(self, root, root)
        self._store = CertbotDirectory(root / "letsencrypt")
        for name, content in _PROXY_MANAGER_DECOYS.items():
            write(root / name, content)

    def origin(self, name: str) -> str:
        return f"{self._store.live}/npm-{name}"

    def put(self, name: str, issued: Issued) -> None:
        super().put(f"npm-{name}", issued)

    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        super().damage(f"npm-{name}", chain=chain, key=key)

    def remove(self, name: str) -> None:
        super().remove(f"npm-{name}")

    def interrupt(self, name: str, issued: Issued) -> None:
        super().interrupt(f"npm-{name}", issued)

    def replace_file(self, name: str, make: Callable[[Path], object]) -> None:
        super().replace_file(f"npm-{name}", make)


_PROXY_MANAGER_DECOYS = {
    "letsencrypt/accounts/acme-v02.api.letsencrypt.org/directory/abc/private_key.json": b"{}",
    "letsencrypt/credentials/credentials-1": b"dns_token = not-for-us\n",
    "letsencrypt/live/by-hand/privkey.pem": ACCOUNT_KEY,
    "letsencrypt/live/by-hand/fullchain.pem": BROKEN,
    "data/database.sqlite": b"",
    "data/keys.json": b"{}",
    "data/nginx/dummykey.pem": ACCOUNT_KEY,
    "data/nginx/dummycert.pem": BROKEN,
}


def uploads_of_proxy_manager(root: Path) -> LayoutBuilder:
    """Nginx Proxy Manager's two volumes: the certificates that people uploaded."""
    at = "data/custom_ssl/npm-"
    names = (f"{at}{{}}/privkey.pem", f"{at}{{}}/fullchain.pem")
    return LayoutBuilder(root, "nginx-proxy-manager", *names, at, {}, _PROXY_MANAGER_DECOYS)


def synology(root: Path) -> LayoutBuilder:
    """As DSM 7 leaves it; the files of the chain are one here."""
    at = "_archive/"
    decoys = {
        "_archive/DEFAULT": b"dQPaUd\n",
        "_archive/INFO": b'{"dQPaUd": {"desc": "", "services": []}}',
        "_archive/SERVICES": b"{}",
        "system/default/privkey.pem": ACCOUNT_KEY,
        "system/default/fullchain.pem": BROKEN,
        "smbftpd/ftpd/privkey.pem": ACCOUNT_KEY,
    }
    names = (f"{at}{{}}/privkey.pem", f"{at}{{}}/fullchain.pem")
    return LayoutBuilder(root, "synology", *names, at, {f"{at}{{}}/renew.json": b"{}"}, decoys)


class KubernetesBuilder(StoreBuilder):
    """A directory of mounts, each as the kubelet writes a TLS secret of cert-manager's."""

    kind, separator = "kubernetes", "/"

    def __init__(self, root: Path) -> None:
        super().__init__(root, root)
        root.mkdir(parents=True)
        self._moment = itertools.count()

    def put(self, name: str, issued: Issued) -> None:
        for _ in self.update_steps(name, issued):
            pass

    def update_steps(self, name: str, issued: Issued) -> Iterator[str]:
        """The new directory, the link to it, and the end of the old one."""
        mount = self.root / name
        mount.mkdir(exist_ok=True)
        new, old = mount / f"..2026_11_21_10_00_00.{next(self._moment):09}", self._data(name)
        files = {
            "tls.crt": issued.fullchain_pem,
            "tls.key": issued.key_pem,
            "ca.crt": issued.chain_pem,
            "tls-combined.pem": issued.key_pem + issued.fullchain_pem,
        }
        for file, content in files.items():
            write(new / file, content)
        yield "write"
        (mount / "..data_tmp").symlink_to(new.name)
        (mount / "..data_tmp").rename(mount / "..data")
        yield "rename"
        for file in files:
            if not (mount / file).is_symlink():
                (mount / file).symlink_to(f"..data/{file}")
        if old is not None:
            shutil.rmtree(old)
        yield "remove"

    def damage(self, name: str, *, chain: bytes | None = None, key: bytes | None = None) -> None:
        data = self._data(name) or self.root / name
        for file, content in (("tls.crt", chain), ("tls.key", key)):
            if content is not None:
                write(data / file, content)

    def remove(self, name: str) -> None:
        shutil.rmtree(self.root / name)

    def interrupt(self, name: str, issued: Issued) -> None:
        """The new files are there, the link is not replaced."""
        next(self.update_steps(name, issued))

    def point_outside(self, name: str, target: Path) -> None:
        self.replace_file(name, lambda path: path.symlink_to(target))

    def replace_file(self, name: str, make: Callable[[Path], object]) -> None:
        path = (self._data(name) or self.root / name) / "tls.key"
        path.unlink()
        make(path)

    def _data(self, name: str) -> Path | None:
        link = self.root / name / "..data"
        return Path(os.path.realpath(link)) if link.is_symlink() else None


LAYOUT_BUILDERS: Mapping[str, Callable[[Path], StoreBuilder]] = {
    "certbot": CertbotBuilder,
    "acme-companion": acme_companion,
    "acme-companion+by-hand": hand_made_for_nginx_proxy,
    "caddy": caddy,
    "caddy+v1": caddy_1,
    "dehydrated": DehydratedBuilder,
    "kubernetes": KubernetesBuilder,
    "lego": lego,
    "mailcow": mailcow,
    "mod_md": mod_md,
    "nginx-proxy-manager": ProxyManagerBuilder,
    "nginx-proxy-manager+uploads": uploads_of_proxy_manager,
    "synology": synology,
}
"""By kind; a kind with several ways of laying a store out has one for each, after a plus sign."""
