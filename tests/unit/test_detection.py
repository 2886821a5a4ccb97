"""Finding the stores of a host, on trees that are laid out as their tools leave them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from mailsni.config import parser
from mailsni.config.settings import NameSettings
from mailsni.core.names import NamePatterns
from mailsni.sources import detection, kinds
from mailsni.sources.detection import HostStore, Survey, survey
from mailsni.sources.kinds import SourceSettings
from tests.support.builders import authority
from tests.support.command_line import invoke
from tests.support.document_stores import JSON_KIND
from tests.support.stores import BUILDERS

pytestmark = pytest.mark.usefixtures("short_pauses")

PATTERNS = NameSettings().patterns()
KINDS = [name for name, kind in kinds.KINDS.items() if kind.usual_places]


def look(root: Path, *configured: SourceSettings, patterns: NamePatterns = PATTERNS) -> Survey:
    return survey(configured, patterns, datetime.now(UTC), root=root)


def shown(found: Survey) -> list[tuple[str, str]]:
    return [(store.settings.type, str(store.settings.values["path"])) for store in found.stores]


def plant(kind: str, place: Path, *names: str) -> None:
    """A store of a kind at a place, with a certificate for each name."""
    place.parent.mkdir(parents=True, exist_ok=True)
    builder = BUILDERS[kind](place.parent / f".of-{kind}")
    for name in names:
        builder.put(name, authority().issue([name]))
    place.symlink_to(builder.path)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found_at_each_of_its_usual_places_and_as_no_other(kind: str, tmp_path: Path) -> None:
    for number, pattern in enumerate(kinds.KINDS[kind].usual_places):
        root = tmp_path / str(number)
        place = root / pattern.replace("*", "x").strip("/") if pattern[0] == "/" else root / f"opt/x/{pattern}"
        place = Path(str(place).replace("*", "x"))
        plant(kind, place, "mail.a.test", "www.a.test")
        found = look(root)
        assert shown(found) == [(kind, str(place))]
        assert found.unseen == {}
        assert found.stores[0] == HostStore(
            found.stores[0].settings, 2, ("mail.a.test",), ("mail.a.test",), configured=False
        )


def test_a_store_without_a_certificate_and_a_missing_one_are_none(tmp_path: Path) -> None:
    plant("certbot", tmp_path / "etc/letsencrypt/live")
    (tmp_path / "opt/x/lego").mkdir(parents=True)
    (tmp_path / "opt/loop").symlink_to(tmp_path / "opt")
    assert look(tmp_path) == Survey((), {})


def test_certificates_count_once_whichever_kinds_and_places_show_them(tmp_path: Path) -> None:
    """A copy, and a link to the whole store; the one with more certificates stays."""
    plant("certbot", tmp_path / "etc/letsencrypt/live", "mail.a.test", "mail.b.test")
    (tmp_path / "opt/x").mkdir(parents=True)
    (tmp_path / "opt/x/letsencrypt").symlink_to(tmp_path / "etc/letsencrypt")
    copy = tmp_path / "var/lib/dehydrated/certs/a"
    copy.mkdir(parents=True)
    for name in ("privkey.pem", "fullchain.pem"):
        (copy / name).write_bytes((tmp_path / f"etc/letsencrypt/live/mail.a.test/{name}").read_bytes())
    assert shown(look(tmp_path)) == [("certbot", str(tmp_path / "etc/letsencrypt/live"))]


def test_a_configured_store_is_marked_and_only_its_names_are_not_new(tmp_path: Path) -> None:
    plant("certbot", tmp_path / "etc/letsencrypt/live", "mail.a.test", "mail.b.test")
    plant("lego", tmp_path / "opt/x/lego", "mail.b.test", "mail.c.test")
    configured = SourceSettings.of("certbot", path=tmp_path / "etc/letsencrypt/live")
    found = look(tmp_path, configured).stores
    assert [(store.settings.type, store.configured) for store in found] == [("certbot", True), ("lego", False)]
    assert [store.new_names for store in found] == [(), ("mail.c.test",)]
    assert found[1].names == ("mail.b.test", "mail.c.test")


def test_a_configured_store_that_is_gone_is_told(tmp_path: Path) -> None:
    plant("lego", tmp_path / "opt/x/lego", "mail.a.test")
    gone = tmp_path / "gone"
    found = look(tmp_path, SourceSettings.of("certbot", path=gone))
    assert [store.settings.type for store in found.stores] == ["lego"]
    assert list(found.unseen) == [str(gone)]


def test_a_mail_name_counts_only_with_a_valid_certificate_of_an_authority(tmp_path: Path) -> None:
    store = BUILDERS["lego"](tmp_path / "opt/x/lego")
    (tmp_path / "opt/x").mkdir(parents=True, exist_ok=True)
    old = datetime.now(UTC) - timedelta(days=900)
    store.put("expired", authority().issue(["mail.expired.test"], not_before=old))
    store.put("self", authority().issue(["mail.self.test"], self_signed=True))
    found = look(tmp_path).stores[0]
    assert (found.certificates, found.names) == (2, ())


def test_other_patterns_are_other_mail_names(tmp_path: Path) -> None:
    plant("lego", tmp_path / "opt/x/lego", "www.a.test", "mail.a.test")
    assert look(tmp_path, patterns=NamePatterns(("www.*",))).stores[0].names == ("www.a.test",)


def test_a_path_that_no_configuration_takes_is_told(tmp_path: Path) -> None:
    plant("lego", tmp_path / "opt/with space/lego", "mail.a.test")
    found = look(tmp_path)
    assert found.stores == ()
    assert "cannot be used" in found.unseen[str(tmp_path / "opt/with space/lego")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_this_user_may_not_see_is_told(tmp_path: Path) -> None:
    plant("certbot", tmp_path / "etc/letsencrypt/live", "mail.a.test")
    plant("lego", tmp_path / "var/lib/lego", "mail.b.test")
    closed = [tmp_path / "etc/letsencrypt/live", tmp_path / "root"]
    closed[1].mkdir()
    for path in closed:
        path.chmod(0)
    (tmp_path / "var/lib/.of-lego/certificates/mail.b.test.key").chmod(0)
    found = look(tmp_path)
    for path in closed:
        path.chmod(0o700)
    assert found.stores == ()
    assert set(found.unseen) == {*map(str, closed), str(tmp_path / "var/lib/lego")}


@pytest.mark.parametrize(("limit", "value"), [("ENTRY_LIMIT", 3), ("TIME_LIMIT", -1.0)])
def test_the_search_ends_at_its_limits_and_says_so(
    limit: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, limit, value)
    for number in range(9):
        (tmp_path / f"opt/{number}/letsencrypt").mkdir(parents=True)
    assert "not searched to the end" in look(tmp_path).unseen[str(tmp_path)]


def test_a_directory_with_very_many_entries_is_not_searched_and_the_others_are(tmp_path: Path) -> None:
    for number in range(detection.DIRECTORY_LIMIT + 1):
        (tmp_path / f"srv/mail/{number}").mkdir(parents=True)
    plant("lego", tmp_path / "srv/x/lego", "mail.a.test")
    found = look(tmp_path)
    assert shown(found) == [("lego", str(tmp_path / "srv/x/lego"))]
    assert list(found.unseen) == [str(tmp_path / "srv/mail")]


def test_a_scan_ends_with_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant("certbot", tmp_path / "etc/letsencrypt/live", *(f"mail.{number}.test" for number in range(9)))
    ticks = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(detection, "TIME_LIMIT", 8.0)
    found = look(tmp_path)
    assert found.stores == ()
    assert set(found.unseen) == {str(tmp_path)}


def test_a_kind_that_a_path_alone_does_not_configure_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("json", tmp_path / "opt/x/certificates.json", "mail.a.test")
    found_by: Mapping[str, kinds.SourceKind] = {
        "json": JSON_KIND,
        "keyed": kinds.SourceKind(JSON_KIND.factory, {**JSON_KIND.keys, "token": kinds.Key(str)}),
    }
    for name, kind in found_by.items():
        places = ("certificates.json",)
        monkeypatch.setitem(kinds.KINDS, name, kinds.SourceKind(kind.factory, kind.keys, usual_places=places))
    assert [kind for kind, _ in shown(look(tmp_path))] == ["json"]


def test_what_is_printed_is_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant("certbot", tmp_path / "etc/letsencrypt/live", "mail.a.test")
    plant("lego", tmp_path / "opt/x/lego", "mail.b.test", "www.b.test")
    monkeypatch.setattr(detection, "survey", partial(survey, root=tmp_path))
    config = tmp_path / "config.toml"
    certbot = f'[[sources]]\ntype = "certbot"\npath = "{tmp_path}/etc/letsencrypt/live"\n'
    lego = f'[[sources]]\ntype = "lego"\npath = "{tmp_path}/opt/x/lego"\n'
    config.write_text("")
    for own, comment, printed in (("", "", certbot), (certbot, "configured already: ", "")):
        config.write_text(own)
        result = invoke("--config", str(config), "sources", "--detect")
        first, second = result.stdout.split("\n\n")
        assert first.startswith(f"# {comment}1 certificate, 1 mail name: mail.a.test\n")
        assert second == f"# 2 certificates, 1 mail name: mail.b.test\n{lego}"
        assert parser.parse(result.stdout, config).sources == parser.parse(printed + lego, config).sources
        assert ("1 store" if own else "2 stores") + f" to configure: paste the lines into {config}" in result.stderr
    config.write_text(certbot + lego)
    result = invoke("--config", str(config), "sources", "--detect")
    assert not parser.parse(result.stdout, config).has_own_sources
    assert "found no store that is not configured" in result.stderr
    assert invoke("--config", str(config), "-q", "sources", "--detect").stderr == ""


def test_nginx_proxy_managers_lineages_are_not_certbots(tmp_path: Path) -> None:
    """The same files, in the layout of both."""
    plant("nginx-proxy-manager", tmp_path / "opt/npm", "mail.a.test")
    assert shown(look(tmp_path)) == [("nginx-proxy-manager", str(tmp_path / "opt/npm"))]
