"""The kinds of store that are only a layout: where each tool leaves keys and chains.

The facts are from the source code of the tools, and each has a builder in ``tests/support/layout_stores.py``, which
lays a store out exactly as its tool does, with what is no certificate beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mailsni.sources.layout import FileLayout, Files


@dataclass(frozen=True, slots=True)
class LayoutKind:
    """A kind of store: see :class:`mailsni.sources.kinds.SourceKind`."""

    what: str
    layout: FileLayout
    path: str = ""
    """The default; empty: the configuration must name it."""
    usual_places: tuple[str, ...] = ()


_CADDY_UNTRUSTED = ("local", "acme-staging*", "*.test-api.*", "*.test4.*")
"""Directories of issuers: Caddy's own authority, and the staging ones of Let's Encrypt, Google and Buypass."""
CERTBOT_IN_PROGRESS = tuple(f"previous_{kind}.pem" for kind in ("cert", "privkey", "chain", "fullchain"))
"""Links that certbot makes before it replaces those of a lineage, and removes after that."""

LAYOUT_KINDS: Mapping[str, LayoutKind] = {
    # letsencrypt_service.sh: acme.sh writes cert, chain, key, fullchain into BASE/ in place, then the links for each
    # name are made, and .companion is written anew. Pairs that are no links are the administrator's own.
    "acme-companion": LayoutKind(
        "acme-companion (nginx-proxy): its certs folder",
        FileLayout(
            (
                Files(
                    key="key.pem",
                    chain=("fullchain.pem",),
                    bases=("certs", ""),
                    commit=".companion",
                    ignored=("*.key", "*.crt", "*.pem"),
                    staging=("_test_*",),
                ),
                Files(
                    key="*.key",
                    chain=("*.crt",),
                    directory="",
                    bases=("certs", ""),
                    links=False,
                    ignored=("default",),
                ),
            )
        ),
        usual_places=("/etc/nginx/certs", "certs", "*/certs", "/var/lib/docker/volumes/*certs*/_data"),
    ),
    # certmagic's storage.go, crypto.go: .key, .crt and last .json, each by rename since 0.21.4, in place before.
    # caddytls/filestorage.go of Caddy 1: the same three in place, below acme/CA/sites.
    "caddy": LayoutKind(
        "Caddy: its data directory, or certificates in it",
        FileLayout(
            (
                Files(
                    key="{}.key",
                    chain=("{}.crt",),
                    directory="*/*",
                    bases=("caddy/certificates", "certificates", ""),
                    commit="{}.json",
                    staging=_CADDY_UNTRUSTED,
                ),
                Files(
                    key="{}.key",
                    chain=("{}.crt",),
                    directory="*/sites/*",
                    bases=(".caddy/acme", "acme", ""),
                    commit="{}.json",
                    staging=_CADDY_UNTRUSTED,
                ),
            )
        ),
        usual_places=(
            "/var/lib/caddy/.local/share/caddy",
            "/root/.local/share/caddy",
            "/home/*/.local/share/caddy",
            "/root/.caddy",
            "/home/*/.caddy",
            *("caddy", "*/caddy", "*/data/caddy"),
        ),
    ),
    # sign_domain of 0.7: new files beside the old ones, then links, each replaced by rename (by unlink and symlink
    # where ln is BusyBox's).
    "dehydrated": LayoutKind(
        "dehydrated: BASEDIR or CERTDIR",
        FileLayout((Files(key="privkey.pem", chain=("fullchain.pem",), bases=("certs", "")),)),
        path="/var/lib/dehydrated",
        usual_places=("/var/lib/dehydrated", "/etc/dehydrated", "dehydrated", "*/dehydrated"),
    ),
    # atomic_writer.go: the files are links through ..data, a link to a directory, which is replaced by rename.
    "kubernetes": LayoutKind(
        "Kubernetes: where a TLS secret or a CSI volume is mounted, or a directory of such mounts",
        FileLayout(
            (
                Files(key="tls.key", chain=("tls.crt",), directory="", through="..data"),
                Files(key="tls.key", chain=("tls.crt",), through="..data"),
            ),
            contents=("..data", "tls.key", "tls.crt"),
        ),
    ),
    # certs_storage.go of v4.25, internal/storage of v5.3: .crt, .issuer.crt, .key and last .json are written in place.
    # With --no-bundle the .crt has the leaf alone.
    "lego": LayoutKind(
        "lego (v4 and v5): what --path names",
        FileLayout(
            (
                Files(
                    key="*.key",
                    chain=("*.crt", "*.issuer.crt"),
                    directory="",
                    bases=("certificates", ""),
                    commit="*.json",
                    authority="*.json",
                ),
            )
        ),
        usual_places=("/var/lib/lego", "/etc/lego", "/root/.lego", "/home/*/.lego", ".lego", "lego", "*/lego"),
    ),
    # data/Dockerfiles/acme of 2026: cert.pem is removed and written by mv from another file system, then domains.
    # With DNS-01 the key is written first. The default pair is copied over the old one, the certificate first.
    "mailcow": LayoutKind(
        "mailcow: its directory, or data/assets/ssl in it",
        FileLayout(
            (
                Files(key="key.pem", chain=("cert.pem",), directory="", bases=("data/assets/ssl", "")),
                Files(
                    key="key.pem",
                    chain=("cert.pem",),
                    bases=("data/assets/ssl", ""),
                    commit="domains",
                    ignored=("acme", "acme-sh", "backups", "mailsni-*"),
                ),
            )
        ),
        path="/opt/mailcow-dockerized",
        usual_places=("/opt/mailcow-dockerized", "data/assets/ssl"),
    ),
    # md_store_fs.c, seen with Apache 2.4.68: a renewal waits in staging/ until httpd restarts; then its directory takes
    # the place of the old one, by two renames. Names without a specification are RSA's.
    "mod_md": LayoutKind(
        "Apache's mod_md: MDStoreDir",
        FileLayout((Files(key="privkey*.pem", chain=("pubcert*.pem",), bases=("md/domains", "domains", "")),)),
        path="/etc/apache2/md",
        usual_places=("/etc/apache2/md", "/etc/httpd/md", "/etc/httpd/state/md"),
    ),
    # internal/certificate.js: certbot lineages named npm-N, and uploads, fullchain.pem first, both in place.
    "nginx-proxy-manager": LayoutKind(
        "Nginx Proxy Manager: the directory with letsencrypt and data, or either of them",
        FileLayout(
            (
                Files(
                    key="privkey.pem",
                    chain=("fullchain.pem",),
                    directory="npm-*",
                    bases=("letsencrypt/live", "live"),
                    others=("cert.pem", "chain.pem"),
                    in_progress=CERTBOT_IN_PROGRESS,
                    authority="../../renewal/{}.conf",
                ),
                Files(
                    key="privkey.pem",
                    chain=("fullchain.pem",),
                    directory="npm-*",
                    bases=("data/custom_ssl", "custom_ssl"),
                ),
            )
        ),
        usual_places=(".", "*"),
    ),
    # Third parties' scripts and docker-mailserver's documentation; not verified on DSM itself. RSA- and ECC- are a
    # newer DSM's names. Other directories beside _archive are copies for each service.
    "synology": LayoutKind(
        "Synology DSM: /usr/syno/etc/certificate",
        FileLayout(
            (
                Files(
                    key="*privkey.pem",
                    chain=("*fullchain.pem", "*cert.pem", "*chain.pem"),
                    bases=("_archive", ""),
                ),
            )
        ),
        path="/usr/syno/etc/certificate",
        usual_places=("/usr/syno/etc/certificate",),
    ),
}
