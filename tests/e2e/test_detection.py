"""``mailsni sources --detect`` at a real host's paths, as root and as a user who may see little."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailsni.config import parser
from tests.support.authority import Authority
from tests.support.mail_host import require
from tests.support.processes import AS_NOBODY, run_mailsni
from tests.support.stores import BUILDERS

pytestmark = [pytest.mark.shared, pytest.mark.real_host, pytest.mark.usefixtures("_planted")]

PLACES = {
    "certbot": "/etc/letsencrypt",
    "caddy": "/var/lib/docker/volumes/caddy_data/_data/caddy",
    "dehydrated": "/var/lib/dehydrated",
    "lego": "/root/.lego",
    "mailcow": "/opt/mailcow-dockerized",
    "nginx-proxy-manager": "/srv/npm",
    "traefik": "/home/me/traefik/letsencrypt",
}
SEEN_BY_ALL = {"caddy", "mailcow", "nginx-proxy-manager", "traefik"}


@pytest.fixture
def _planted(authority: Authority, tmp_path: Path) -> Iterator[None]:
    """A store of each kind with a mail name and a web site's, at paths that are gone afterwards."""
    require(None if os.environ.get("MAILSNI_LAB_REQUIRED") else "writes to /etc and /opt: only in the lab")
    names = {kind: f"mail.{kind.replace('_', '-')}.test" for kind in PLACES}
    roots = [Path(place) for place in PLACES.values()]
    taken = [root for root in roots if root.exists()]
    for root in taken:
        shutil.move(root, tmp_path / f"kept{root.name}")
    for kind, root in zip(PLACES, roots, strict=True):
        root.parent.mkdir(parents=True, exist_ok=True)
        builder = BUILDERS[kind](root)
        builder.put("1", authority.issue([names[kind]]))
        builder.put("2", authority.issue(["www.example.test"]))
    yield
    for root in roots:
        shutil.rmtree(root)
    for root in taken:
        shutil.move(tmp_path / f"kept{root.name}", root)


def test_every_store_of_a_host_is_found_and_what_is_printed_serves_all_names(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'state = {{ directory = "{tmp_path}/state", lock = "{tmp_path}/lock" }}\n')
    done = run_mailsni(config, "sources", "--detect")
    assert done.returncode == 0, done.stderr
    assert sorted(store.type for store in parser.parse(done.stdout, config).sources) == sorted(PLACES)
    assert done.stdout.count("\n# ") + 1 == len(PLACES)
    assert "# configured already: 2 certificates, 1 mail name: mail.certbot.test\n" in done.stdout
    config.write_text(config.read_text() + done.stdout)
    status = run_mailsni(config, "status").stdout
    assert all(f"mail.{kind}.test " in status for kind in PLACES)
    again = run_mailsni(config, "sources", "--detect")
    assert not parser.parse(again.stdout, config).has_own_sources
    assert "found no store that is not configured" in again.stderr


def test_a_plain_user_is_told_what_could_not_be_seen(tmp_path: Path) -> None:
    closed = {Path("/etc/letsencrypt/live"), Path("/var/lib/dehydrated"), Path("/root")}
    modes = {path: path.stat().st_mode for path in closed}
    for path in closed:
        path.chmod(0o700)
    config = tmp_path / "config.toml"
    config.touch()
    config.chmod(0o600)
    assert run_mailsni(config, "sources", before=AS_NOBODY).returncode == 0
    done = run_mailsni(config, "sources", "--detect", before=AS_NOBODY)
    for path, mode in modes.items():
        path.chmod(mode)
    assert done.returncode == 0, done.stderr
    found = {store.type for store in parser.parse(done.stdout, Path("/x.toml")).sources}
    assert found <= SEEN_BY_ALL
    for path in closed:
        assert f"not seen: {path}: " in done.stderr
    assert "what is configured already is not known" in done.stderr
