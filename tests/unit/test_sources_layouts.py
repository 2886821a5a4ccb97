"""The traps of each kind that is a layout: where path may lead, decoys, and the order in which its tool writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mailsni.core.model import Inventory, Reason
from mailsni.core.names import NamePatterns
from mailsni.core.selection import Selection, select
from mailsni.deploy.host_facts import HostFacts
from mailsni.deploy.snapshot import take_snapshot
from mailsni.doctor.checks.stores import competing_lineages
from mailsni.doctor.finding import Facts, Finding
from mailsni.errors import HostError
from mailsni.sandbox.authority import Issued
from mailsni.sources.directory import RECENT, DirectoryStore
from mailsni.sources.kinds import SourceSettings
from mailsni.watch.events import StoreEvents
from mailsni.watch.requests import Request
from tests.support.builders import authority, without_servers
from tests.support.layout_stores import (
    LAYOUT_BUILDERS,
    CertbotBuilder,
    DehydratedBuilder,
    KubernetesBuilder,
    LayoutBuilder,
    ProxyManagerBuilder,
    acme_companion,
    caddy,
    caddy_1,
    lego,
    mailcow,
    mod_md,
    synology,
    uploads_of_proxy_manager,
    write,
)
from tests.support.processes import until
from tests.support.store_builder import StoreBuilder
from tests.support.tool_stores import TOOL_BUILDERS

NAME = "mail.a.test"
BUILDERS = {**LAYOUT_BUILDERS, **TOOL_BUILDERS}


def issue(*names: str, **how: Any) -> Issued:  # noqa: ANN401  # what Authority.issue takes
    return authority().issue(names or [NAME], **how)


def rsa(*names: str) -> Issued:
    return issue(*names, algorithm="rsa")


class Pause:
    """Instead of waiting: notes it, and does the next thing that happens meanwhile."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.count = 0
        self._steps = iter(steps)

    def __call__(self, _seconds: float) -> None:
        """Note it, and do the next thing."""
        self.count += 1
        next(self._steps, lambda: None)()


def scan(kind: str, path: Path, pause: Pause | None = None) -> Inventory:
    store = SourceSettings.of(kind, path=path).open()
    assert isinstance(store, DirectoryStore)
    return DirectoryStore(store.path, store.layout, None, pause or Pause()).scan({})


def fingerprints(inventory: Inventory) -> dict[str, str]:
    return {each.source: each.fingerprint for each in inventory.certificates}


def selection(inventory: Inventory) -> Selection:
    return select(inventory, NamePatterns(["mail.*"]), datetime.now(UTC))


def served(inventory: Inventory) -> dict[str, set[str]]:
    return {winner.name: {each.fingerprint for each in winner.certificates} for winner in selection(inventory).winners}


@pytest.fixture
def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has not been touched for a while."""
    moment = datetime.now(UTC) + timedelta(seconds=2 * RECENT)
    monkeypatch.setattr("mailsni.sources.directory.time.time", moment.timestamp)


# ── where path may lead ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("label", "paths"),
    [
        ("acme-companion", [".", ".."]),
        ("caddy", [".", "..", "certificates"]),
        ("caddy+v1", [".", "acme"]),
        ("dehydrated", [".", "certs"]),
        ("kubernetes", [".", "a"]),
        ("lego", [".", "certificates"]),
        ("mailcow", [".", "data/assets/ssl"]),
        ("mod_md", [".", "..", "domains"]),
        ("nginx-proxy-manager", [".", "letsencrypt"]),
        ("nginx-proxy-manager+uploads", [".", "data"]),
        ("synology", [".", "_archive"]),
    ],
)
def test_path_may_lead_above_or_into_the_store(tmp_path: Path, label: str, paths: list[str]) -> None:
    directory = {"acme-companion": "certs", "caddy": "caddy", "mod_md": "md"}.get(label, "store")
    store = LAYOUT_BUILDERS[label](tmp_path / directory)
    issued = issue()
    store.put("a", issued)
    for path in paths:
        inventory = scan(store.settings.type, (store.root / path).resolve())
        assert fingerprints(inventory) == {store.origin("a"): issued.fingerprint}, path
        assert inventory.skipped == ()


@pytest.mark.parametrize("label", LAYOUT_BUILDERS)
def test_before_the_first_certificate_nothing_else_is_taken_for_one(tmp_path: Path, label: str) -> None:
    store = LAYOUT_BUILDERS[label](tmp_path / "store")
    for name in ("certificates", "certs", "domains", "_archive"):
        shutil.rmtree(store.root / name, ignore_errors=True)
    inventory = store.source().scan({})
    assert (inventory.certificates, inventory.lineages) == ((), frozenset())


def test_a_directory_with_neither_volume_of_proxy_manager_is_no_empty_store(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no letsencrypt/live, live, data/custom_ssl, custom_ssl in it") as caught:
        scan("nginx-proxy-manager", tmp_path)
    assert caught.value.path == tmp_path


@pytest.mark.parametrize("label", BUILDERS)
def test_strangers_beside_the_certificates_break_no_store(tmp_path: Path, label: str) -> None:
    store = BUILDERS[label](tmp_path / "store")
    store.put("a", issued := issue())
    beside = Path(store.origin("a").partition("#")[0]).parent
    (beside / "file").write_text("text\n")
    for name, target in (("to-a-file", "file"), ("to-nothing", "nowhere"), ("loop", "loop"), ("itself", ".")):
        (beside / name).symlink_to(target)
    os.mkfifo(beside / "fifo")
    (beside / "empty").mkdir()
    inventory = store.source().scan({})
    assert fingerprints(inventory) == {store.origin("a"): issued.fingerprint}
    assert {Path(each.source).name for each in inventory.skipped} <= {"to-nothing", "loop"}


# ── how tools write ──────────────────────────────────────────────────────────────────────────────────────────────────

COMMITTED: dict[str, tuple[Callable[[Path], LayoutBuilder], str]] = {
    "acme-companion": (acme_companion, "a/.companion"),
    "caddy": (caddy, "certificates/acme-v02.api.letsencrypt.org-directory/a/a.json"),
    "lego": (lego, "certificates/a.json"),
    "mailcow": (mailcow, "data/assets/ssl/a/domains"),
}


@pytest.mark.parametrize("kind", COMMITTED)
def test_a_pair_is_read_again_until_what_is_written_last_is_there(tmp_path: Path, kind: str) -> None:
    build, marker = COMMITTED[kind]
    store = build(tmp_path / "store")
    store.put("a", issue())
    new, last = issue(), issue()
    store.damage("a", chain=new.fullchain_pem, key=new.key_pem)
    pause = Pause(lambda: store.damage("a", chain=last.fullchain_pem, key=last.key_pem), (store.root / marker).touch)
    inventory = scan(kind, store.root, pause)
    assert pause.count == 2
    assert fingerprints(inventory) == {store.origin("a"): last.fingerprint}


WRITTEN_IN_PLACE = [label for label in LAYOUT_BUILDERS if label != "certbot"]


@pytest.mark.parametrize("label", WRITTEN_IN_PLACE)
def test_a_chain_that_is_short_for_an_instant_is_waited_for(tmp_path: Path, label: str) -> None:
    store = LAYOUT_BUILDERS[label](tmp_path / "store")
    old, new = issue(), issue()
    store.put("a", old)
    for part in (b"", new.leaf_pem, new.fullchain_pem[:-80]):
        store.put("a", new)
        store.damage("a", chain=part)
        inventory = scan(store.settings.type, store.path, Pause(lambda: store.damage("a", chain=new.fullchain_pem)))
        assert inventory.skipped == ()
        (pair,) = inventory.read
        assert pair.pem == new.key_pem + new.fullchain_pem


@pytest.mark.usefixtures("_later")
@pytest.mark.parametrize("label", LAYOUT_BUILDERS)
def test_a_key_that_stays_newer_than_its_chain_costs_no_time_and_drops_nothing(tmp_path: Path, label: str) -> None:
    store = LAYOUT_BUILDERS[label](tmp_path / "store")
    store.put("a", issue())
    store.damage("a", key=issue().key_pem)
    pause = Pause()
    inventory = scan(store.settings.type, store.path, pause)
    assert (pause.count, inventory.certificates) == (0, ())
    assert inventory.lineages == {store.origin("a")}
    assert [(each.reason, each.names) for each in inventory.skipped] == [(Reason.KEY_MISMATCH, (NAME,))]


@pytest.mark.parametrize("label", LAYOUT_BUILDERS)
def test_a_certificate_whose_directory_is_gone_for_an_instant_is_waited_for(tmp_path: Path, label: str) -> None:
    """mod_md replaces the directory by two renames; ``known`` tells that there was one."""
    store = LAYOUT_BUILDERS[label](tmp_path / "store")
    issued = issue()
    store.put("a", issued)
    store.put("b", issue("mail.b.test"))
    known = {lineage.certificate.source: lineage for lineage in store.source().scan({}).cached}
    shutil.copytree(store.root, tmp_path / "copy", symlinks=True)
    store.remove("a")

    def restore() -> None:
        shutil.rmtree(store.root)
        (tmp_path / "copy").rename(store.root)

    pause = Pause(restore)
    assert store.source(pause).scan(known).lineages == {store.origin("a"), store.origin("b")}
    store.remove("a")
    pause = Pause()
    assert store.source(pause).scan(known).lineages == {store.origin("b")}
    assert pause.count == 1


# ── acme-companion ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_links_for_names_and_the_default_pair_are_no_certificates_of_their_own(tmp_path: Path) -> None:
    store = acme_companion(tmp_path / "store")
    store.put("mail.a.test", issue())
    for suffix, file in (("crt", "fullchain"), ("key", "key"), ("chain.pem", "chain")):
        for name in ("mail.a.test", "www.a.test"):
            (store.root / f"{name}.{suffix}").symlink_to(f"./mail.a.test/{file}.pem")
    by_hand = issue("mail.b.test")
    write(store.root / "shared.crt", by_hand.fullchain_pem)
    write(store.root / "shared.key", by_hand.key_pem)
    (store.root / "default.crt").write_bytes(by_hand.fullchain_pem)
    (store.root / "default.key").write_bytes(by_hand.key_pem)
    inventory = scan("acme-companion", store.root)
    assert set(fingerprints(inventory)) == {store.origin("mail.a.test"), store.origin("shared")}
    assert inventory.skipped == ()


def test_a_directory_of_the_staging_authority_is_information(tmp_path: Path) -> None:
    store = acme_companion(tmp_path / "store")
    store.put("_test_mail.a.test", issue())
    store.put("wildcard_a.test", old := issue("*.a.test", not_before=datetime.now(UTC) - timedelta(days=20)))
    chosen = selection(scan("acme-companion", store.root))
    assert [winner.name for winner in chosen.winners] == [NAME]
    assert chosen.winners[0].certificates[0].fingerprint == old.fingerprint
    assert [(each.source, each.reason) for each in chosen.skipped] == [
        (store.origin("_test_mail.a.test"), Reason.STAGING)
    ]
    assert chosen.problems == ()


# ── Caddy ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_caddys_local_and_staging_issuers_are_information(tmp_path: Path) -> None:
    store = caddy(tmp_path / "store")
    issuers = (
        "local",
        "acme-staging-v02.api.letsencrypt.org-directory",
        "dv.acme-v02.test-api.pki.goog-directory",
        "api.test4.buypass.no-acme-directory",
    )
    for number, issuer in enumerate(issuers):
        put_below(store.root / "certificates" / issuer, f"mail.{number}.test", issue(f"mail.{number}.test"))
    store.put("test-api.a.test", good := issue())
    chosen = selection(scan("caddy", store.root))
    assert served(scan("caddy", store.root)) == {NAME: {good.fingerprint}}
    assert [each.reason for each in chosen.skipped] == [Reason.STAGING] * len(issuers)
    assert chosen.problems == ()


def put_below(directory: Path, name: str, issued: Issued) -> None:
    """As Caddy writes a certificate."""
    write(directory / name / f"{name}.key", issued.key_pem)
    write(directory / name / f"{name}.crt", issued.fullchain_pem)
    write(directory / name / f"{name}.json", b"{}")


def test_the_newest_certificate_of_several_issuers_is_served(tmp_path: Path) -> None:
    store = caddy(tmp_path / "store")
    store.put(NAME, issue(not_before=datetime.now(UTC) - timedelta(days=30)))
    put_below(store.root / "certificates/acme.zerossl.com-v2-dv90", NAME, newest := issue())
    put_below(
        store.root / "acme/acme-v01.api.letsencrypt.org/sites", NAME, issue(not_before=datetime(2026, 1, 1, tzinfo=UTC))
    )
    inventory = scan("caddy", store.root)
    assert len(inventory.certificates) == 3
    assert served(inventory) == {NAME: {newest.fingerprint}}


def test_caddys_wildcards_and_temporary_files(tmp_path: Path) -> None:
    store = caddy(tmp_path / "store")
    store.put("wildcard_.a.test", issued := issue("*.a.test"))
    (store.key("wildcard_.a.test").parent / "1234567890").write_bytes(issue().key_pem)
    assert served(scan("caddy", store.root)) == {NAME: {issued.fingerprint}}


def test_the_staging_authority_of_caddy_1(tmp_path: Path) -> None:
    store = caddy_1(tmp_path / "store")
    put_below(store.root / "acme/acme-staging-v02.api.letsencrypt.org/sites", NAME, issue())
    (certificate,) = scan("caddy", store.root).certificates
    assert certificate.staging


def test_every_directory_down_to_a_key_is_examined_and_no_other(tmp_path: Path) -> None:
    store = caddy(tmp_path / "store")
    store.put(NAME, issue())
    files = store.source().files()
    key = store.key(NAME)
    assert files.keys == (key,)
    assert set(files.directories) == {tmp_path, *(path for path in key.parents if path.is_relative_to(store.root))}


# ── certbot and Nginx Proxy Manager ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("server", "staging"),
    [
        ("https://acme-staging-v02.api.letsencrypt.org/directory", True),
        ("https://dv.acme-v02.test-api.pki.goog/directory", True),
        ("https://acme-v02.api.letsencrypt.org/directory", False),
        ("https://ca.internal.test/acme-staging", False),
    ],
)
@pytest.mark.parametrize("build", [CertbotBuilder, ProxyManagerBuilder])
def test_the_renewal_configuration_tells_a_staging_authority(
    tmp_path: Path, build: Callable[[Path], StoreBuilder], server: str, *, staging: bool
) -> None:
    store = build(tmp_path / "store")
    store.put("a", issue())
    (conf,) = store.root.rglob("renewal/*.conf")
    conf.write_text(conf.read_text() + f"server = {server}\n")
    (certificate,) = store.source().scan({}).certificates
    assert certificate.staging is staging


def test_lineages_and_uploads_of_proxy_manager_are_one_store(tmp_path: Path) -> None:
    store = ProxyManagerBuilder(tmp_path / "store")
    store.put("1", issued := issue())
    uploaded = rsa("mail.a.test", "mail.b.test")
    for name, content in (("fullchain", uploaded.fullchain_pem), ("privkey", uploaded.key_pem)):
        write(store.root / f"data/custom_ssl/npm-1/{name}.pem", content)
    inventory = scan("nginx-proxy-manager", store.root)
    assert served(inventory) == {
        "mail.a.test": {issued.fingerprint, uploaded.fingerprint},
        "mail.b.test": {uploaded.fingerprint},
    }
    assert all(each.chain_path and each.key_path for each in inventory.certificates)
    store.interrupt("1", issue())
    (skipped,) = scan("nginx-proxy-manager", store.root).skipped
    assert skipped.reason is Reason.RENEWAL_IN_PROGRESS


def test_the_keys_that_links_lead_to_are_examined(tmp_path: Path) -> None:
    store = ProxyManagerBuilder(tmp_path / "store")
    store.put("1", issue())
    files = store.source().files()
    assert files.keys == (store.root / "letsencrypt/archive/npm-1/privkey1.pem",)
    uploads = uploads_of_proxy_manager(tmp_path / "uploads")
    uploads.put("1", issue())
    assert uploads.source().files().keys == (uploads.key("1"),)


# ── dehydrated ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_step_of_dehydrated_leaves_a_pair_or_a_reason_to_wait(tmp_path: Path) -> None:
    store = DehydratedBuilder(tmp_path / "store")
    old, new = issue(), issue()
    store.put("a", old)
    for step in store.renewal_steps("a", new):
        pause = Pause()
        inventory = scan("dehydrated", store.root, pause)
        assert inventory.lineages == {store.origin("a")}, step
        assert set(fingerprints(inventory).values()) <= {old.fingerprint, new.fingerprint}
        assert (pause.count > 0) is bool(inventory.skipped)
    assert fingerprints(scan("dehydrated", store.root)) == {store.origin("a"): new.fingerprint}


def test_a_link_that_busybox_replaces_is_waited_for(tmp_path: Path) -> None:
    store = DehydratedBuilder(tmp_path / "store")
    store.put("a", issued := issue())
    for name in ("privkey.pem", "fullchain.pem"):
        link = store.key("a").with_name(name)
        target = link.readlink()
        link.unlink()
        inventory = scan("dehydrated", store.root, Pause(partial(link.symlink_to, target)))
        assert fingerprints(inventory) == {store.origin("a"): issued.fingerprint}


def test_aliases_of_dehydrated_are_rsa_and_ecdsa_of_one_name(tmp_path: Path) -> None:
    store = DehydratedBuilder(tmp_path / "store")
    both = {"a_rsa": rsa(), "a_ecdsa": issue(), "star_a_test": issue("*.b.test")}
    for alias, issued in both.items():
        store.put(alias, issued)
    assert served(scan("dehydrated", store.root)) == {
        NAME: {both["a_rsa"].fingerprint, both["a_ecdsa"].fingerprint},
        "mail.b.test": {both["star_a_test"].fingerprint},
    }


# ── Kubernetes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_step_of_an_update_leaves_a_whole_pair(tmp_path: Path) -> None:
    store = KubernetesBuilder(tmp_path / "store")
    old, new = issue(), issue()
    store.put("a", old)
    source = store.source()
    tokens = [source.change_token()]
    expected = {"write": old, "rename": new, "remove": new}
    for step in store.update_steps("a", new):
        pause = Pause()
        inventory = scan("kubernetes", store.root, pause)
        assert fingerprints(inventory) == {store.origin("a"): expected[step].fingerprint}
        assert pause.count == 0
        tokens.append(source.change_token())
    assert tokens[0] == tokens[1] != tokens[2] == tokens[3]


def test_servers_find_the_files_by_paths_that_stay(tmp_path: Path) -> None:
    store = KubernetesBuilder(tmp_path / "store")
    store.put("a", issue())
    for path in (store.root, store.root / "a"):
        (certificate,) = scan("kubernetes", path).certificates
        assert certificate.source == store.origin("a")
        assert (certificate.chain_path, certificate.key_path) == tuple(
            f"{store.root}/a/{name}" for name in ("tls.crt", "tls.key")
        )


def test_the_old_files_may_go_while_they_are_read(tmp_path: Path) -> None:
    store = KubernetesBuilder(tmp_path / "store")
    store.put("a", issue())
    known = {lineage.certificate.source: lineage for lineage in store.source().scan({}).cached}
    (store.root / "a/..data").unlink()
    new = issue()
    inventory = store.source(Pause(lambda: store.put("a", new))).scan(known)
    assert fingerprints(inventory) == {store.origin("a"): new.fingerprint}


def test_the_rename_of_data_is_an_event_that_counts(tmp_path: Path) -> None:
    """Nothing else of an update is: the new files have their names before the link leads to them."""
    store = KubernetesBuilder(tmp_path / "store")
    store.put("a", issue())
    steps = store.update_steps("a", issue())
    next(steps)
    told: list[Request] = []
    events = StoreEvents(told.append, pytest.fail)
    events.arm(store.source().watch_paths(), 0.0)
    try:
        next(steps)
        until(lambda: Request.APPLY in told, lambda: repr(told))
    finally:
        events.disarm()


def test_files_that_are_mounted_one_by_one_are_read(tmp_path: Path) -> None:
    """SubPath mounts: no ``..data``."""
    issued = issue()
    write(tmp_path / "tls.crt", issued.fullchain_pem)
    write(tmp_path / "tls.key", issued.key_pem)
    assert fingerprints(scan("kubernetes", tmp_path)) == {str(tmp_path): issued.fingerprint}


# ── lego ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_certificate_for_a_request_has_no_key(tmp_path: Path) -> None:
    store = lego(tmp_path / "store")
    store.put("a", issue())
    store.key("a").unlink()
    store.put("_.b.test", good := issue("*.b.test"))
    inventory = scan("lego", store.root)
    assert fingerprints(inventory) == {store.origin("_.b.test"): good.fingerprint}
    assert [(each.source, each.reason) for each in inventory.skipped] == [(store.origin("a"), Reason.KEY_MISSING)]


def test_a_leaf_alone_is_completed_by_the_issuer_beside_it(tmp_path: Path) -> None:
    store = lego(tmp_path / "store")
    issued = issue()
    store.put("a", issued)
    store.damage("a", chain=issued.leaf_pem)
    write(store.chain("a").with_name("a.issuer.crt"), issued.chain_pem)
    (pair,) = scan("lego", store.root).read
    assert pair.pem == issued.key_pem + issued.fullchain_pem


def test_the_address_of_a_certificate_tells_a_staging_authority(tmp_path: Path) -> None:
    store = lego(tmp_path / "store")
    store.put("a", issue())
    url = b'{"certUrl": "https://acme-staging-v02.api.letsencrypt.org/acme/cert/1"}'
    write(store.root / "certificates/a.json", url)
    (certificate,) = scan("lego", store.root).certificates
    assert certificate.staging


# ── mailcow ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_default_pair_and_wildcard_directories_of_mailcow(tmp_path: Path) -> None:
    store = mailcow(tmp_path / "store")
    default, wildcard = rsa("mail.a.test"), rsa("*.b.test")
    store.put("mail.a.test", default)
    store.put("*.b.test", wildcard)
    for name, content in (("cert", default.fullchain_pem), ("key", default.key_pem)):
        write(store.root / f"data/assets/ssl/{name}.pem", content)
    inventory = scan("mailcow", store.root)
    assert served(inventory) == {"mail.a.test": {default.fingerprint}, "mail.b.test": {wildcard.fingerprint}}
    assert set(fingerprints(inventory)) == {
        f"{store.root}/data/assets/ssl",
        store.origin("mail.a.test"),
        store.origin("*.b.test"),
    }
    assert selection(inventory).problems == ()


def test_the_copy_of_a_certificate_does_not_compete_with_it(tmp_path: Path) -> None:
    store = mailcow(tmp_path / "store")
    store.put("mail.a.test", issued := rsa())
    ssl = store.root / "data/assets/ssl"
    settings = replace(without_servers(tmp_path, tmp_path), sources=(store.settings,))

    def competing() -> list[Finding]:
        now = datetime.now(UTC)
        return list(competing_lineages(Facts(HostFacts(settings, now, snapshot=take_snapshot(settings, now)))))

    for default, findings in ((issued, 0), (rsa(), 1)):
        write(ssl / "cert.pem", default.fullchain_pem)
        write(ssl / "key.pem", default.key_pem)
        assert len(competing()) == findings


def test_a_file_that_mv_removes_and_writes_is_waited_for(tmp_path: Path) -> None:
    store = mailcow(tmp_path / "store")
    issued = rsa()
    store.put("a", issued)
    store.chain("a").unlink()
    pause = Pause(store.chain("a").touch, lambda: store.damage("a", chain=issued.fullchain_pem))
    assert fingerprints(scan("mailcow", store.root, pause)) == {store.origin("a"): issued.fingerprint}


# ── mod_md and Synology ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("build", "first", "second"),
    [
        (mod_md, "domains/a/{}.pem", "domains/a/{}.secp384r1.pem"),
        (synology, "_archive/a/RSA-{}.pem", "_archive/a/ECC-{}.pem"),
    ],
)
def test_rsa_and_ecdsa_files_in_one_directory_are_both_served(
    tmp_path: Path, build: Callable[[Path], LayoutBuilder], first: str, second: str
) -> None:
    store = build(tmp_path / "store")
    key, chain = ("privkey", "pubcert") if build is mod_md else ("privkey", "fullchain")
    pairs = {first: rsa(), second: issue()}
    for pattern, issued in pairs.items():
        write(store.root / pattern.format(key), issued.key_pem)
        write(store.root / pattern.format(chain), issued.fullchain_pem)
    inventory = scan(store.kind, store.root)
    assert served(inventory) == {NAME: {issued.fingerprint for issued in pairs.values()}}
    assert len(inventory.lineages) == 2


def test_the_parts_of_a_chain_on_synology(tmp_path: Path) -> None:
    """An imported certificate may have no file with both."""
    store = synology(tmp_path / "store")
    issued = issue()
    store.put("dQPaUd", issued)
    for name, content in (("cert", issued.leaf_pem), ("chain", issued.chain_pem), ("short-chain", issued.chain_pem)):
        write(store.root / f"_archive/dQPaUd/{name}.pem", content)
    write(store.root / "_archive/dQPaUd/info", b"{}")
    for _ in range(2):
        (pair,) = scan("synology", store.root).read
        assert pair.pem == issued.key_pem + issued.fullchain_pem
        store.chain("dQPaUd").unlink(missing_ok=True)
