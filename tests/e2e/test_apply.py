"""The main job on real servers: what lies in the certbot directory is what every client is shown."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailsni.config.parser import load
from mailsni.deploy.snapshot import take_snapshot
from mailsni.errors import HostError
from mailsni.host.commands import LocalExecutor, require_tool, run
from mailsni.sandbox.authority import Issued
from mailsni.targets.postfix import map_build, target
from mailsni.targets.postfix.map_read import look_up, map_entries
from mailsni.targets.postfix.map_types import PostfixMap
from mailsni.targets.postfix.postconf import Installation
from tests.support.authority import Authority
from tests.support.mail_host import DEFAULT_NAME, MailHost

MAP_TYPES = ("hash", "btree", "lmdb", "cdb", "texthash")


def applied(mail_host: MailHost, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Apply, and give what it says of itself."""
    document = json.loads(mail_host.apply("--json", *arguments, code=code).stdout)
    assert isinstance(document, dict)
    return document


def set_map_type(mail_host: MailHost, map_type: str) -> None:
    """Have Postfix's configuration name a map of another type."""
    setting = f"tls_server_sni_maps={map_type}:{mail_host.map}"
    run([require_tool("postconf"), "-c", mail_host.postfix.config_directory, "-e", setting])


def test_every_name_gets_its_own_certificate_and_a_second_run_touches_nothing(mail_host: MailHost) -> None:
    """RSA, ECDSA, several names, a wildcard, a lineage whose name means nothing, a certificate with a CN."""
    authority, store = mail_host.authority, mail_host.store
    issued = {
        "a": authority.issue(["mail.a.test", "imap.a.test", "www.a.test"]),
        "b": authority.issue(["mail.b.test"], algorithm="rsa"),
        "c": authority.issue(["*.c.test"]),
        "npm-7": authority.issue(["smtp.d.test"], common_name="smtp.other.test"),
    }
    for lineage, one in issued.items():
        store.add(lineage, one)
    applied(mail_host)
    expected = {
        "mail.a.test": "a",
        "imap.a.test": "a",
        "mail.b.test": "b",
        "mail.c.test": "c",
        "mx.c.test": "c",
        "smtp.d.test": "npm-7",
    }
    for name, lineage in expected.items():
        mail_host.assert_served(name, issued[lineage])
    for other in (None, DEFAULT_NAME, "www.a.test", "www.c.test", "smtp.other.test", "mail.unknown.test"):
        mail_host.assert_served(other, mail_host.default)

    def touched() -> dict[str, object]:
        """All but the scan cache, which remembers a file once it is two seconds old."""
        return {path: what for path, what in mail_host.snapshot().items() if not str(path).endswith("readings.json")}

    before, log = touched(), mail_host.dovecot.log.read_text()
    again = applied(mail_host)
    assert (again["result"], again["published"], again["servers"]) == ("unchanged", [], {})
    assert touched() == before
    assert mail_host.dovecot.log.read_text() == log


@pytest.mark.shared
def test_what_an_earlier_run_read_is_believed_only_while_the_files_are_the_same(mail_host: MailHost) -> None:
    """The cache of readings: used once the files have settled, and never for a file that changed."""
    names = [f"mail.d{number}.test" for number in range(5)]
    issued = {name: mail_host.issue(name) for name in names}
    cache = mail_host.directory / "state" / "readings.json"
    time.sleep(2.1)
    applied(mail_host)
    assert len(json.loads(cache.read_text())["content"]["lineages"]) == len(names)
    changed = mail_host.authority.issue([names[0]])
    for kind, content in (("privkey", changed.key_pem), ("fullchain", changed.fullchain_pem)):
        mail_host.store.path(names[0], kind).resolve().write_bytes(content)
    applied(mail_host)
    mail_host.assert_served(names[0], changed)
    shutil.rmtree(mail_host.pin_directory)
    applied(mail_host)
    mail_host.dovecot.restart()
    mail_host.assert_served(names[4], issued[names[4]])
    cache.write_text("{")
    assert applied(mail_host)["result"] == "unchanged"


@pytest.mark.shared
def test_what_is_renewed_added_and_removed_is_followed(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test")
    gone = mail_host.issue("mail.b.test")
    applied(mail_host)
    mail_host.assert_served("mail.b.test", gone)

    renewed = mail_host.renew("mail.a.test")
    mail_host.store.delete("mail.b.test")
    added = mail_host.issue("mail.c.test")
    plan = json.loads(mail_host.mailsni("plan", "--json").stdout)
    kinds = {change["name"]: change["kind"] for change in plan["changes"]}
    assert kinds == {"mail.a.test": "renew", "mail.b.test": "remove", "mail.c.test": "add"}
    applied(mail_host)
    mail_host.assert_served("mail.a.test", renewed)
    mail_host.assert_served("mail.b.test", mail_host.default)
    mail_host.assert_served("mail.c.test", added)
    pins = mail_host.pin_directory
    assert len(list(pins.iterdir())) == 4, "a server that starts slowly may be about to open the old ones"
    assert applied(mail_host)["result"] == "unchanged"
    assert len(list(pins.iterdir())) == 4
    mail_host.age_retired_files()
    assert applied(mail_host)["result"] == "unchanged"
    assert len(list(pins.iterdir())) == 2, "the keys of the old certificates are removed"


def test_dovecot_starts_after_a_lineage_was_deleted_behind_its_back(mail_host: MailHost) -> None:
    """The measured disaster: `certbot delete` runs no hook, and a block with a dead path stops the whole server."""
    issued = mail_host.issue("mail.a.test")
    applied(mail_host)
    mail_host.store.delete("mail.a.test")
    mail_host.dovecot.restart()
    assert mail_host.served("imaps", "mail.a.test") == issued.fingerprint


def test_rsa_and_ecdsa_of_one_name_are_served_together(mail_host: MailHost) -> None:
    ecdsa = mail_host.authority.issue(["mail.a.test"])
    rsa = mail_host.authority.issue(["mail.a.test"], algorithm="rsa")
    mail_host.store.add("a.test", ecdsa)
    mail_host.store.add("a.test-rsa", rsa)
    document = applied(mail_host)
    assert {answer["problem"] for server in document["confirmations"] for answer in server["answers"]} == {None}
    for service in mail_host.endpoints:
        assert mail_host.served(service, "mail.a.test", algorithm="ecdsa") == ecdsa.fingerprint
        assert mail_host.served(service, "mail.a.test", algorithm="rsa") == rsa.fingerprint


@pytest.mark.shared
def test_of_two_certificates_for_a_name_both_servers_serve_the_later_one(mail_host: MailHost) -> None:
    """`-0001` beside the old lineage: Postfix takes the first of two lines, Dovecot the last of two blocks."""
    now = datetime.now(UTC)
    later = mail_host.authority.issue(["mail.a.test"], not_before=now - timedelta(days=1))
    mail_host.store.add("a.test-0001", later)
    mail_host.store.add("a.test", mail_host.authority.issue(["mail.a.test"], not_before=now - timedelta(days=2)))
    document = applied(mail_host)
    assert [(one["reason"], one["information"]) for one in document["skipped"]] == [("lost_to_other", True)]
    mail_host.assert_served("mail.a.test", later)


def test_real_wildcards_give_way_to_exact_names_on_both_servers(mail_host: MailHost) -> None:
    mail_host.configure(names={"include": ["*"]})
    exact = mail_host.issue("mail.a.test")
    wildcard = mail_host.issue("*.a.test")
    other = mail_host.issue("*.z.a.test")
    applied(mail_host)
    mail_host.assert_served("mail.a.test", exact)
    mail_host.assert_served("anything.a.test", wildcard)
    mail_host.assert_served("mail.z.a.test", other)
    mail_host.assert_served("a.test", mail_host.default)


@pytest.mark.parametrize("map_type", MAP_TYPES)
def test_every_map_type_is_served_and_renewed(
    map_type: str, shared_tmp: Path, tmp_path: Path, authority: Authority, default: Issued
) -> None:
    """The type is what the running configuration says; a renewal is served; an old loose map becomes private."""
    mail_host = MailHost.build(tmp_path, shared_tmp, authority, default, map_type=map_type)
    if map_type == "texthash":
        mail_host.map.write_text("")
    with mail_host.postfix, mail_host.dovecot:
        suffix = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "texthash": ""}[map_type]
        live = mail_host.map.with_name(mail_host.map.name + suffix)
        live.chmod(0o644)
        loose = live.stat().st_ino
        first, second = mail_host.issue("mail.a.test"), mail_host.issue("mail.b.test")
        applied(mail_host)
        assert stat.S_IMODE(live.stat().st_mode) == 0o600
        assert live.stat().st_ino != loose, "whoever opened the old map before sees no key through it"
        assert stat.S_IMODE(mail_host.map.stat().st_mode) == 0o600
        mail_host.assert_served("mail.a.test", first)
        renewed = mail_host.renew("mail.a.test")
        applied(mail_host)
        mail_host.assert_served("mail.a.test", renewed)
        mail_host.assert_served("mail.b.test", second)
        assert applied(mail_host)["result"] == "unchanged"


@pytest.mark.shared
def test_another_map_type_in_the_running_configuration_is_followed(mail_host: MailHost) -> None:
    """Hash and btree share the suffix .db, and a table of the wrong one cuts off every client that sends SNI."""
    issued = mail_host.issue("mail.a.test")
    applied(mail_host)
    for map_type in ("hash", "btree"):
        set_map_type(mail_host, map_type)
        applied(mail_host)
        assert mail_host.served("smtps", "mail.a.test") == issued.fingerprint
    mail_host.age_retired_files()
    applied(mail_host)
    assert not mail_host.map.with_name("mailsni.cdb").exists(), "the keys in the old map are removed"


@pytest.mark.shared
def test_a_map_that_postmap_cannot_read_says_why(mail_host: MailHost) -> None:
    """Exit status 1 of ``postmap -q`` is "not found" and "fatal error" alike (measured)."""
    mail_host.issue("mail.a.test")
    applied(mail_host)
    postfix = Installation(mail_host.postfix.config_directory)
    table, keys = PostfixMap("cdb", mail_host.map), [b"mail.a.test", b"mail.other.test"]
    assert [key for key, _ in look_up(postfix, table, keys)] == [b"mail.a.test"]
    with (postfix.config_directory / "main.cf").open("a") as file:
        # Where the table types that are packages of their own are listed.
        file.write(f"meta_directory = {mail_host.directory}\n")
    with pytest.raises(HostError, match=r"cannot be read back: .*unsupported dictionary type: cdb"):
        list(look_up(postfix, table, keys))


@pytest.mark.parametrize("map_type", ["hash", "btree"])
def test_a_map_made_without_postfix_is_read_by_postfix(map_type: str, mail_host: MailHost, tmp_path: Path) -> None:
    """The berkeleydb package writes it where no Postfix is installed; here one is, to read it."""
    issued = mail_host.issue("mail.a.test")
    mail_host.configure(postfix={"map_type": map_type})
    settings = load(mail_host.config, required=True)
    mail_host.apply("--no-reload")
    snapshot = take_snapshot(settings, datetime.now(UTC))

    class WithoutTools(LocalExecutor):
        def find_tool(self, name: str) -> None:
            del name

    elsewhere = target.find(settings.postfix, WithoutTools())
    assert elsewhere is not None
    assert not elsewhere.installed
    entries = map_entries(snapshot.selection, snapshot.pins)
    source = tmp_path / "built"
    source.write_bytes(b"")
    _, compiled = map_build.compile_map(elsewhere.installation, source, entries, elsewhere.types.maps[0])
    assert stat.S_IMODE(compiled.stat().st_mode) == 0o600
    live = mail_host.map.with_name("mailsni.db")
    shutil.copy(compiled, live)
    set_map_type(mail_host, map_type)
    mail_host.postfix.reload()
    assert mail_host.served("smtp", "mail.a.test") == issued.fingerprint
    assert mail_host.served("smtp", "mail.unknown.test") == mail_host.default.fingerprint


def test_live_certificates_are_named_in_the_blocks_and_followed(mail_host: MailHost) -> None:
    mail_host.configure(dovecot={"certificates": "live"})
    issued = mail_host.issue("mail.a.test")
    applied(mail_host)
    assert f"{mail_host.store.live}/mail.a.test/fullchain.pem" in mail_host.include_file.read_text()
    mail_host.assert_served("mail.a.test", issued)
    renewed = mail_host.renew("mail.a.test")
    applied(mail_host)
    mail_host.assert_served("mail.a.test", renewed)


def test_the_services_to_ask_are_found_in_the_running_configuration(mail_host: MailHost) -> None:
    mail_host.configure(verify={"endpoints": "auto"})
    mail_host.issue("mail.a.test")
    document = applied(mail_host)
    probed = [answer for server in document["confirmations"] for answer in server["answers"]]
    asked = {answer["endpoint"].rpartition(":")[2] for answer in probed}
    assert asked == {str(port) for port in mail_host.endpoints.values()}


@pytest.mark.shared
def test_a_lineage_that_breaks_keeps_its_last_good_certificate_until_it_is_whole_or_gone(
    mail_host: MailHost,
) -> None:
    good = mail_host.issue("mail.a.test")
    other = mail_host.issue("mail.b.test")
    applied(mail_host)
    key = mail_host.authority.issue(["mail.x.test"]).key_pem
    mail_host.store.path("mail.a.test", "privkey").resolve().write_bytes(key)
    document = applied(mail_host, code=4)
    reasons = {one["reason"] for one in document["skipped"]}
    assert reasons == {"key_mismatch", "kept_last_good"}
    assert (document["result"], document["servers"]) == ("unchanged", {}), "no name changes: no publish and no reload"
    state = json.loads(mail_host.mailsni("status", "--json").stdout)
    assert {one["name"]: one["state"] for one in state["names"]} == {"mail.a.test": "kept", "mail.b.test": "deployed"}
    mail_host.dovecot.restart()
    mail_host.assert_served("mail.a.test", good)

    whole = mail_host.renew("mail.a.test")
    applied(mail_host)
    mail_host.assert_served("mail.a.test", whole)
    mail_host.store.delete("mail.a.test")
    applied(mail_host)
    mail_host.assert_served("mail.a.test", mail_host.default)
    mail_host.assert_served("mail.b.test", other)


def dovecot_template(mail_host: MailHost, certificate_file: Path) -> str:
    """An administrator's own template that names another file than it should."""
    modern = mail_host.dovecot.version == "2.4"
    certificate = "ssl_server_cert_file = " if modern else "ssl_cert = <"
    key = "ssl_server_key_file = " if modern else "ssl_key = <"
    return (
        "{% for block in blocks %}{% for name in block.names %}\n"
        f"local_name {{{{ name }}}} {{\n  {certificate}{certificate_file}\n  {key}{certificate_file}\n}}\n"
        "{% endfor %}{% endfor %}"
    )


@pytest.mark.parametrize("kind", ["aborts the handshake", "shows another certificate"])
def test_what_is_wrong_on_the_wire_is_rolled_back(mail_host: MailHost, kind: str) -> None:
    """An own template of the administrator's makes Dovecot serve something else: both servers go back."""
    first = mail_host.issue("mail.a.test")
    applied(mail_host)
    named = mail_host.dovecot.default_file
    if kind == "aborts the handshake":
        named = mail_host.dovecot.directory / "garbage.pem"
        named.write_text("garbage\n")
    version = "2.4" if mail_host.dovecot.version == "2.4" else "2.3"
    templates = mail_host.put_template(dovecot_template(mail_host, named), f"dovecot-{version}.conf.j2")
    renewed = mail_host.renew("mail.a.test")
    mail_host.configure(verify={"timeout": 3})
    assert "mail.a.test" in mail_host.apply(code=5).stderr
    mail_host.assert_served("mail.a.test", first)

    shutil.rmtree(templates)
    applied(mail_host)
    mail_host.assert_served("mail.a.test", renewed)


@pytest.mark.shared
def test_an_own_template_wins_over_the_shipped_one(mail_host: MailHost) -> None:
    mail_host.put_template(
        "# mine\n{% for entry in entries %}{{ entry.key }} {{ entry.certificates[0].pinned_path }}\n{% endfor %}"
    )
    issued = mail_host.issue("mail.a.test")
    applied(mail_host)
    assert mail_host.map.read_text().startswith("# mine\n")
    mail_host.assert_served("mail.a.test", issued)
    mail_host.put_template("{% for %}")
    mail_host.apply(code=78)


@pytest.mark.shared
def test_a_template_that_loses_a_name_is_found_by_reading_the_map_back(mail_host: MailHost) -> None:
    issued = mail_host.issue("mail.a.test")
    applied(mail_host)
    mail_host.put_template(
        "{% for entry in entries[1:] %}{{ entry.key }} {{ entry.certificates[0].pinned_path }}\n{% endfor %}"
    )
    mail_host.issue("mail.b.test")
    assert "lacks 1 of the entries" in mail_host.apply(code=1).stderr
    mail_host.assert_served("mail.a.test", issued)
    mail_host.assert_served("mail.b.test", mail_host.default)


def test_servers_that_do_not_run_serve_it_when_they_start(mail_host: MailHost) -> None:
    mail_host.postfix.stop()
    mail_host.dovecot.stop()
    issued = mail_host.issue("mail.a.test")
    document = applied(mail_host)
    assert document["servers"] == {"postfix": "not running", "dovecot": "not running"}
    mail_host.postfix.start()
    mail_host.dovecot.start()
    mail_host.assert_served("mail.a.test", issued)


def test_a_server_that_does_not_read_the_file_is_said_and_no_failure(mail_host: MailHost) -> None:
    run([require_tool("postconf"), "-c", mail_host.postfix.config_directory, "-X", "tls_server_sni_maps"])
    main = mail_host.dovecot.config_file
    main.write_text(main.read_text().replace("!include_try conf.d/*.conf", ""))
    mail_host.issue("mail.a.test")
    document = applied(mail_host)
    assert [note.partition(":")[0] for note in document["warnings"]] == ["postfix", "dovecot"]
    assert document["confirmations"] == []
    assert f"tls_server_sni_maps={'hash'}:{mail_host.map}" in document["warnings"][0]
    assert f"!include_try {mail_host.include_file}" in document["warnings"][1]


@pytest.mark.shared
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda lab: lab.map.with_name("mailsni.cdb").unlink(), id="map removed"),
        pytest.param(lambda lab: lab.map.unlink(), id="source removed"),
        pytest.param(lambda lab: lab.map.with_name("mailsni.cdb").chmod(0o644), id="map loose"),
        pytest.param(lambda lab: lab.map.chmod(0o644), id="source loose"),
        pytest.param(lambda lab: lab.include_file.write_text("# mine\n"), id="include edited"),
        pytest.param(lambda lab: lab.include_file.unlink(), id="include removed"),
        pytest.param(lambda lab: lab.include_file.chmod(0o666), id="include loose"),
        pytest.param(lambda lab: shutil.rmtree(lab.pin_directory), id="pinned files removed"),
        pytest.param(lambda lab: next(lab.pin_directory.iterdir()).write_bytes(b"x"), id="pinned file damaged"),
        pytest.param(lambda lab: next(lab.pin_directory.iterdir()).chmod(0o644), id="pinned file loose"),
        pytest.param(lambda lab: os.chown(lab.include_file, 65534, 65534), id="include of another owner"),
        pytest.param(lambda lab: shutil.rmtree(lab.directory / "state"), id="state removed"),
        pytest.param(lambda lab: (lab.directory / "state/deployment.json").write_text("{"), id="state damaged"),
    ],
)
def test_what_somebody_damaged_is_mended_by_the_next_run(
    lasting_mail_host: MailHost, damage: Callable[[MailHost], object]
) -> None:
    mail_host = lasting_mail_host
    issued = mail_host.renew("mail.a.test")
    applied(mail_host)
    damage(mail_host)
    assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 3
    applied(mail_host)
    mail_host.postfix.restart()
    mail_host.dovecot.restart()
    mail_host.assert_served("mail.a.test", issued)
    assert mail_host.mailsni("plan", "--detailed-exitcode").returncode == 0
    private = [mail_host.map, mail_host.map.with_name("mailsni.cdb"), *mail_host.pin_directory.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


@pytest.mark.shared
def test_no_reload_no_verify_and_force(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test")
    document = applied(mail_host, "--no-reload")
    assert document["servers"] == {"postfix": "left alone", "dovecot": "left alone"}
    assert document["confirmations"] == []
    document = applied(mail_host, "--force", "--no-verify")
    assert document["servers"] == {"postfix": "reloaded", "dovecot": "reloaded"}
    assert document["confirmations"] == []


def test_a_restart_where_that_is_asked_for(mail_host: MailHost) -> None:
    mail_host.configure(postfix={"action": "restart"}, dovecot={"action": "restart"})
    issued = mail_host.issue("mail.a.test")
    masters = (mail_host.postfix.pid(), mail_host.dovecot.pid())
    document = applied(mail_host)
    assert document["servers"] == {"postfix": "restarted", "dovecot": "restarted"}
    mail_host.assert_served("mail.a.test", issued)
    assert mail_host.postfix.pid() != masters[0]
    assert mail_host.dovecot.pid() != masters[1]


@pytest.mark.shared
def test_a_command_that_fails_takes_everything_back(mail_host: MailHost) -> None:
    first = mail_host.issue("mail.a.test")
    applied(mail_host)
    mail_host.configure(dovecot={"action": ["/bin/false"]})
    mail_host.renew("mail.a.test")
    assert "/bin/false" in mail_host.apply(code=1).stderr
    mail_host.assert_served("mail.a.test", first)


def test_render_prints_what_apply_publishes(mail_host: MailHost) -> None:
    mail_host.issue("mail.a.test")
    rendered = [mail_host.mailsni("render", server).stdout for server in ("postfix", "dovecot")]
    applied(mail_host)
    assert rendered == [mail_host.map.read_text(), mail_host.include_file.read_text()]
