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
from subprocess import CompletedProcess
from typing import Any

import pytest

from mailsni.errors import HostError
from mailsni.host.commands import require_tool, run
from mailsni.sandbox.authority import Authority, Issued
from mailsni.sandbox.lineages import CertbotDirectory
from mailsni.sandbox.servers import PrivateDovecot, PrivatePostfix
from mailsni.targets.postfix.map_read import served_by_map
from tests.support.mail_host import ABORTED, DEFAULT_NAME, Laboratory

MAP_TYPES = ("hash", "btree", "lmdb", "cdb", "texthash")


def applied(laboratory: Laboratory, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Apply, and give what it says of itself."""
    done = laboratory.mailsni("apply", "--json", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def assert_served(laboratory: Laboratory, name: str | None, issued: Issued) -> None:
    """Every service of both servers shows a certificate for a name."""
    assert laboratory.served_everywhere(name) == dict.fromkeys(laboratory.endpoints, issued.fingerprint)


def files_of(laboratory: Laboratory) -> dict[str, tuple[int, int, int]]:
    """What tells of any write: every file that mailsni may write, with inode, change time and mode.

    But for the record of the last run, which every run replaces.
    """
    places = (laboratory.postfix.config_directory, laboratory.dovecot.config_directory, laboratory.directory / "state")
    found = {}
    for place in places:
        for path in (place, *place.rglob("*")):
            status = path.lstat()
            if path.name == "state":  # its time is that of the record
                found[str(path)] = (status.st_ino, 0, status.st_mode)
            elif path.name != "runs.json":
                found[str(path)] = (status.st_ino, status.st_ctime_ns, status.st_mode)
    return found


def test_every_name_gets_its_own_certificate_and_a_second_run_touches_nothing(laboratory: Laboratory) -> None:
    """RSA, ECDSA, several names, a wildcard, a lineage whose name means nothing, a certificate with a CN."""
    authority, store = laboratory.authority, laboratory.store
    issued = {
        "a": authority.issue(["mail.a.test", "imap.a.test", "www.a.test"]),
        "b": authority.issue(["mail.b.test"], algorithm="rsa"),
        "c": authority.issue(["*.c.test"]),
        "npm-7": authority.issue(["smtp.d.test"], common_name="smtp.other.test"),
    }
    for lineage, one in issued.items():
        store.add(lineage, one)
    applied(laboratory)
    expected = {
        "mail.a.test": "a",
        "imap.a.test": "a",
        "mail.b.test": "b",
        "mail.c.test": "c",
        "mx.c.test": "c",
        "smtp.d.test": "npm-7",
    }
    for name, lineage in expected.items():
        assert_served(laboratory, name, issued[lineage])
    for other in (None, "www.a.test", "www.c.test", "smtp.other.test", "mail.unknown.test"):
        assert_served(laboratory, other, laboratory.default)

    before, log = files_of(laboratory), laboratory.dovecot.log.read_text()
    again = applied(laboratory)
    assert (again["result"], again["published"], again["servers"]) == ("unchanged", [], {})
    assert files_of(laboratory) == before
    assert laboratory.dovecot.log.read_text() == log


@pytest.mark.shared
def test_what_an_earlier_run_read_is_believed_only_while_the_files_are_the_same(laboratory: Laboratory) -> None:
    """The cache of readings: used once the files have settled, and never for a file that changed."""
    names = [f"mail.d{number}.test" for number in range(5)]
    issued = {name: laboratory.issue(name) for name in names}
    cache = laboratory.directory / "state" / "readings.json"
    time.sleep(2.1)
    applied(laboratory)
    assert len(json.loads(cache.read_text())["readings"]) == len(names)
    changed = laboratory.authority.issue([names[0]])
    for kind, content in (("privkey", changed.key_pem), ("fullchain", changed.fullchain_pem)):
        laboratory.store.path(names[0], kind).resolve().write_bytes(content)
    applied(laboratory)
    assert_served(laboratory, names[0], changed)
    shutil.rmtree(laboratory.pin_directory)
    applied(laboratory)
    laboratory.dovecot.restart()
    assert_served(laboratory, names[4], issued[names[4]])
    cache.write_text("{")
    assert applied(laboratory)["result"] == "unchanged"


@pytest.mark.shared
def test_what_is_renewed_added_and_removed_is_followed(laboratory: Laboratory) -> None:
    laboratory.issue("mail.a.test")
    gone = laboratory.issue("mail.b.test")
    applied(laboratory)
    assert_served(laboratory, "mail.b.test", gone)

    renewed = laboratory.authority.issue(["mail.a.test"])
    laboratory.store.renew("mail.a.test", renewed)
    laboratory.store.delete("mail.b.test")
    added = laboratory.issue("mail.c.test")
    plan = json.loads(laboratory.mailsni("plan", "--json").stdout)
    kinds = {change["name"]: change["kind"] for change in plan["changes"]}
    assert kinds == {"mail.a.test": "renew", "mail.b.test": "remove", "mail.c.test": "add"}
    applied(laboratory)
    assert_served(laboratory, "mail.a.test", renewed)
    assert_served(laboratory, "mail.b.test", laboratory.default)
    assert_served(laboratory, "mail.c.test", added)
    assert len(list(laboratory.pin_directory.iterdir())) == 2, "the keys of the old certificates are removed"


def test_dovecot_starts_after_a_lineage_was_deleted_behind_its_back(laboratory: Laboratory) -> None:
    """The measured disaster: `certbot delete` runs no hook, and a block with a dead path stops the whole server."""
    issued = laboratory.issue("mail.a.test")
    applied(laboratory)
    laboratory.store.delete("mail.a.test")
    laboratory.dovecot.restart()
    assert laboratory.served("imaps", "mail.a.test") == issued.fingerprint


def test_rsa_and_ecdsa_of_one_name_are_served_together(laboratory: Laboratory) -> None:
    ecdsa = laboratory.authority.issue(["mail.a.test"])
    rsa = laboratory.authority.issue(["mail.a.test"], algorithm="rsa")
    laboratory.store.add("a.test", ecdsa)
    laboratory.store.add("a.test-rsa", rsa)
    document = applied(laboratory)
    assert {answer["verdict"] for survey in document["asked"] for answer in survey["answers"]} == {"right"}
    for service in laboratory.endpoints:
        assert laboratory.served(service, "mail.a.test", algorithm="ecdsa") == ecdsa.fingerprint
        assert laboratory.served(service, "mail.a.test", algorithm="rsa") == rsa.fingerprint


@pytest.mark.shared
def test_of_two_certificates_for_a_name_both_servers_serve_the_later_one(laboratory: Laboratory) -> None:
    """`-0001` beside the old lineage: Postfix takes the first of two lines, Dovecot the last of two blocks."""
    now = datetime.now(UTC)
    later = laboratory.authority.issue(["mail.a.test"], not_before=now - timedelta(days=1))
    laboratory.store.add("a.test-0001", later)
    laboratory.store.add("a.test", laboratory.authority.issue(["mail.a.test"], not_before=now - timedelta(days=2)))
    document = applied(laboratory)
    assert [(one["reason"], one["information"]) for one in document["skipped"]] == [("lost_to_other", True)]
    assert_served(laboratory, "mail.a.test", later)


def test_real_wildcards_give_way_to_exact_names_on_both_servers(laboratory: Laboratory) -> None:
    laboratory.configure(names={"include": ["*"]})
    exact = laboratory.issue("mail.a.test")
    wildcard = laboratory.issue("*.a.test")
    other = laboratory.issue("*.z.a.test")
    applied(laboratory)
    assert_served(laboratory, "mail.a.test", exact)
    assert_served(laboratory, "anything.a.test", wildcard)
    assert_served(laboratory, "mail.z.a.test", other)
    assert_served(laboratory, "a.test", laboratory.default)


@pytest.mark.parametrize("map_type", MAP_TYPES)
def test_every_map_type(
    map_type: str, rooms: Path, tmp_path: Path, authority: Authority, default: Issued, dovecot: PrivateDovecot
) -> None:
    """The type is what the running configuration says; a renewal is served; an old loose map becomes private."""
    directory = rooms / "postfix"
    directory.mkdir(mode=0o755)
    store = CertbotDirectory(tmp_path / "letsencrypt")
    source = directory / "etc" / "mailsni"
    source.parent.mkdir()
    if map_type == "texthash":
        source.write_text("")
    with PrivatePostfix(directory, default, sni_map=f"{map_type}:{source}") as postfix:
        laboratory = Laboratory(tmp_path, authority, store, postfix, dovecot, default)
        suffix = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "texthash": ""}[map_type]
        live = source.with_name(source.name + suffix)
        live.chmod(0o644)
        first, second = laboratory.issue("mail.a.test"), laboratory.issue("mail.b.test")
        applied(laboratory)
        assert stat.S_IMODE(live.stat().st_mode) == 0o600
        assert stat.S_IMODE(source.stat().st_mode) == 0o600
        assert_served(laboratory, "mail.a.test", first)
        renewed = authority.issue(["mail.a.test"])
        store.renew("mail.a.test", renewed)
        applied(laboratory)
        assert_served(laboratory, "mail.a.test", renewed)
        assert_served(laboratory, "mail.b.test", second)
        assert applied(laboratory)["result"] == "unchanged"


@pytest.mark.shared
def test_another_map_type_in_the_running_configuration_is_followed(laboratory: Laboratory) -> None:
    """Hash and btree share the suffix .db, and a table of the wrong one cuts off every client that sends SNI."""
    issued = laboratory.issue("mail.a.test")
    applied(laboratory)
    postconf = require_tool("postconf")
    for map_type in ("hash", "btree"):
        setting = f"tls_server_sni_maps={map_type}:{laboratory.map}"
        run([postconf, "-c", laboratory.postfix.config_directory, "-e", setting])
        applied(laboratory)
        assert laboratory.served("smtps", "mail.a.test") == issued.fingerprint
    assert not laboratory.map.with_name("mailsni.cdb").exists(), "the keys in the old map are removed"


@pytest.mark.shared
def test_a_map_that_postmap_cannot_read_says_why(laboratory: Laboratory) -> None:
    """Exit status 1 of ``postmap -q`` is "not found" and "fatal error" alike (measured)."""
    laboratory.issue("mail.a.test")
    applied(laboratory)
    configuration = laboratory.postfix.config_directory
    assert list(served_by_map("cdb", laboratory.map, ["mail.a.test"], configuration)) == ["mail.a.test"]
    with (configuration / "main.cf").open("a") as file:
        # Where the table types that are packages of their own are listed.
        file.write(f"meta_directory = {laboratory.directory}\n")
    with pytest.raises(HostError, match=r"cannot be read back: .*unsupported dictionary type: cdb"):
        served_by_map("cdb", laboratory.map, ["mail.a.test"], configuration)


@pytest.mark.parametrize("map_type", ["hash", "btree"])
def test_a_map_made_without_postfix_is_read_by_postfix(map_type: str, laboratory: Laboratory, tmp_path: Path) -> None:
    """The berkeleydb package writes it where no Postfix is installed; here one is, to read it."""
    from mailsni.config.parser import load
    from mailsni.deploy.snapshot import take_snapshot
    from mailsni.host.commands import LocalExecutor
    from mailsni.targets.base import MapEntry
    from mailsni.targets.postfix import map_build
    from mailsni.targets.postfix import target as target
    from mailsni.targets.rendering import postfix_key

    issued = laboratory.issue("mail.a.test")
    laboratory.configure(postfix={"map_type": map_type})
    settings = load(laboratory.config, required=True)
    assert laboratory.mailsni("apply", "--no-reload").returncode == 0
    seen = take_snapshot(settings, datetime.now(UTC))

    class WithoutTools(LocalExecutor):
        def find_tool(self, name: str) -> None:
            del name

    elsewhere = target.find(settings.postfix, WithoutTools())
    assert elsewhere is not None
    assert not elsewhere.installed
    entries = [
        MapEntry(
            postfix_key(winner.name),
            tuple(seen.pins.path_of(one) for one in winner.certificates),
            tuple(one.material.digest for one in winner.certificates),
        )
        for winner in seen.selection.winners
    ]
    source = tmp_path / "built"
    source.write_bytes(b"")
    compiled = map_build.compile_map(
        source,
        entries,
        map_types=elsewhere.map_types,
        config_directory=laboratory.postfix.config_directory,
        installed=False,
    )
    assert stat.S_IMODE(compiled.path.stat().st_mode) == 0o600
    live = laboratory.map.with_name("mailsni.db")
    shutil.copy(compiled.path, live)
    run(
        [
            require_tool("postconf"),
            "-c",
            laboratory.postfix.config_directory,
            "-e",
            f"tls_server_sni_maps={map_type}:{laboratory.map}",
        ]
    )
    laboratory.postfix.reload()
    assert laboratory.served("smtp", "mail.a.test") == issued.fingerprint
    assert laboratory.served("smtp", "mail.unknown.test") == laboratory.default.fingerprint


def test_live_certificates_are_named_in_the_blocks_and_followed(laboratory: Laboratory) -> None:
    laboratory.configure(dovecot={"certificates": "live"})
    issued = laboratory.issue("mail.a.test")
    applied(laboratory)
    assert f"{laboratory.store.live}/mail.a.test/fullchain.pem" in laboratory.include_file.read_text()
    assert_served(laboratory, "mail.a.test", issued)
    renewed = laboratory.authority.issue(["mail.a.test"])
    laboratory.store.renew("mail.a.test", renewed)
    applied(laboratory)
    assert_served(laboratory, "mail.a.test", renewed)


def test_the_services_to_ask_are_found_in_the_running_configuration(laboratory: Laboratory) -> None:
    laboratory.configure(verify={"endpoints": "auto"})
    laboratory.issue("mail.a.test")
    document = applied(laboratory)
    asked = {answer["endpoint"].rpartition(":")[2] for survey in document["asked"] for answer in survey["answers"]}
    assert asked == {str(port) for port in laboratory.endpoints.values()}


def break_lineage(store: CertbotDirectory, lineage: str, authority: Authority) -> None:
    """The key of another certificate in the place of the lineage's own."""
    store.path(lineage, "privkey").resolve().write_bytes(authority.issue(["mail.x.test"]).key_pem)


@pytest.mark.shared
def test_a_lineage_that_breaks_keeps_its_last_good_certificate_until_it_is_whole_or_gone(
    laboratory: Laboratory,
) -> None:
    good = laboratory.issue("mail.a.test")
    other = laboratory.issue("mail.b.test")
    applied(laboratory)
    break_lineage(laboratory.store, "mail.a.test", laboratory.authority)
    document = applied(laboratory, code=4)
    reasons = {one["reason"] for one in document["skipped"]}
    assert reasons == {"key_mismatch", "kept_last_good"}
    state = json.loads(laboratory.mailsni("status", "--json").stdout)
    assert {one["name"]: one["state"] for one in state["names"]} == {"mail.a.test": "kept", "mail.b.test": "deployed"}
    laboratory.dovecot.restart()
    assert_served(laboratory, "mail.a.test", good)
    assert applied(laboratory, code=4)["result"] == "unchanged"

    whole = laboratory.authority.issue(["mail.a.test"])
    laboratory.store.renew("mail.a.test", whole)
    applied(laboratory)
    assert_served(laboratory, "mail.a.test", whole)
    laboratory.store.delete("mail.a.test")
    applied(laboratory)
    assert_served(laboratory, "mail.a.test", laboratory.default)
    assert_served(laboratory, "mail.b.test", other)


def dovecot_template(laboratory: Laboratory, certificate_file: Path) -> str:
    """An administrator's own template that names another file than it should."""
    modern = laboratory.dovecot.version >= (2, 4)
    certificate = "ssl_server_cert_file = " if modern else "ssl_cert = <"
    key = "ssl_server_key_file = " if modern else "ssl_key = <"
    return (
        "{% for block in blocks %}{% for name in block.names %}\n"
        f"local_name {{{{ name }}}} {{\n  {certificate}{certificate_file}\n  {key}{certificate_file}\n}}\n"
        "{% endfor %}{% endfor %}"
    )


@pytest.mark.parametrize("kind", ["aborts the handshake", "shows another certificate"])
def test_what_is_wrong_on_the_wire_is_rolled_back(laboratory: Laboratory, kind: str) -> None:
    """An own template of the administrator's makes Dovecot serve something else: both servers go back."""
    first = laboratory.issue("mail.a.test")
    applied(laboratory)
    templates = laboratory.directory / "templates"
    templates.mkdir()
    named = laboratory.dovecot.default_file
    if kind == "aborts the handshake":
        named = laboratory.dovecot.directory / "garbage.pem"
        named.write_text("garbage\n")
    version = "2.4" if laboratory.dovecot.version >= (2, 4) else "2.3"
    (templates / f"dovecot-{version}.conf.j2").write_text(dovecot_template(laboratory, named))
    renewed = laboratory.authority.issue(["mail.a.test"])
    laboratory.store.renew("mail.a.test", renewed)
    laboratory.configure(verify={"timeout": 3})
    done = laboratory.mailsni("apply")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "mail.a.test" in done.stderr
    assert_served(laboratory, "mail.a.test", first)

    shutil.rmtree(templates)
    applied(laboratory)
    assert_served(laboratory, "mail.a.test", renewed)


@pytest.mark.shared
def test_an_own_template_wins_over_the_shipped_one(laboratory: Laboratory) -> None:
    templates = laboratory.directory / "templates"
    templates.mkdir()
    (templates / "postfix-sni.j2").write_text(
        "# mine\n{% for entry in entries %}{{ entry.key }} {{ entry.certificates[0].pinned_path }}\n{% endfor %}"
    )
    issued = laboratory.issue("mail.a.test")
    applied(laboratory)
    assert laboratory.map.read_text().startswith("# mine\n")
    assert_served(laboratory, "mail.a.test", issued)
    (templates / "postfix-sni.j2").write_text("{% for %}")
    assert laboratory.mailsni("apply").returncode == 78


@pytest.mark.shared
def test_a_template_that_loses_a_name_is_found_by_reading_the_map_back(laboratory: Laboratory) -> None:
    issued = laboratory.issue("mail.a.test")
    applied(laboratory)
    templates = laboratory.directory / "templates"
    templates.mkdir()
    (templates / "postfix-sni.j2").write_text(
        "{% for entry in entries[1:] %}{{ entry.key }} {{ entry.certificates[0].pinned_path }}\n{% endfor %}"
    )
    laboratory.issue("mail.b.test")
    done = laboratory.mailsni("apply")
    assert done.returncode == 1
    assert "lacks 1 of the entries" in done.stderr
    assert_served(laboratory, "mail.a.test", issued)
    assert_served(laboratory, "mail.b.test", laboratory.default)


def test_servers_that_do_not_run_serve_it_when_they_start(laboratory: Laboratory) -> None:
    laboratory.postfix.stop()
    laboratory.dovecot.stop()
    issued = laboratory.issue("mail.a.test")
    document = applied(laboratory)
    assert document["servers"] == {"postfix": "not running", "dovecot": "not running"}
    laboratory.postfix.start()
    laboratory.dovecot.start()
    assert_served(laboratory, "mail.a.test", issued)


def test_a_server_that_does_not_read_the_file_is_said_and_no_failure(laboratory: Laboratory) -> None:
    run([require_tool("postconf"), "-c", laboratory.postfix.config_directory, "-X", "tls_server_sni_maps"])
    main = laboratory.dovecot.config_file
    main.write_text(main.read_text().replace("!include_try conf.d/*.conf", ""))
    laboratory.issue("mail.a.test")
    document = applied(laboratory)
    assert [note.partition(":")[0] for note in document["warnings"]] == ["postfix", "dovecot"]
    assert document["asked"] == []
    assert f"tls_server_sni_maps={'hash'}:{laboratory.map}" in document["warnings"][0]
    assert f"!include_try {laboratory.include_file}" in document["warnings"][1]


@pytest.mark.shared
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda lab: lab.map.with_name("mailsni.cdb").unlink(), id="map removed"),
        pytest.param(lambda lab: lab.map.unlink(), id="source removed"),
        pytest.param(lambda lab: lab.map.with_name("mailsni.cdb").chmod(0o644), id="map loose"),
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
    laboratory: Laboratory, damage: Callable[[Laboratory], object]
) -> None:
    issued = laboratory.issue("mail.a.test")
    applied(laboratory)
    damage(laboratory)
    assert laboratory.mailsni("plan", "--detailed-exitcode").returncode == 3
    applied(laboratory)
    laboratory.postfix.restart()
    laboratory.dovecot.restart()
    assert_served(laboratory, "mail.a.test", issued)
    assert laboratory.mailsni("plan", "--detailed-exitcode").returncode == 0
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in laboratory.pin_directory.iterdir()}
    assert set(modes.values()) == {0o600}


@pytest.mark.shared
def test_no_reload_no_verify_and_force(laboratory: Laboratory) -> None:
    laboratory.issue("mail.a.test")
    document = applied(laboratory, "--no-reload")
    assert document["servers"] == {"postfix": "left alone", "dovecot": "left alone"}
    assert document["asked"] == []
    document = applied(laboratory, "--force", "--no-verify")
    assert document["servers"] == {"postfix": "reloaded", "dovecot": "reloaded"}
    assert document["asked"] == []


def test_a_restart_where_that_is_asked_for(laboratory: Laboratory) -> None:
    laboratory.configure(postfix={"action": "restart"}, dovecot={"action": "restart"})
    issued = laboratory.issue("mail.a.test")
    masters = (laboratory.postfix.pid(), laboratory.dovecot.pid())
    document = applied(laboratory)
    assert document["servers"] == {"postfix": "restarted", "dovecot": "restarted"}
    assert_served(laboratory, "mail.a.test", issued)
    assert laboratory.postfix.pid() != masters[0]
    assert laboratory.dovecot.pid() != masters[1]


@pytest.mark.shared
def test_a_command_that_fails_takes_everything_back(laboratory: Laboratory) -> None:
    first = laboratory.issue("mail.a.test")
    applied(laboratory)
    laboratory.configure(dovecot={"action": ["/bin/false"]})
    laboratory.store.renew("mail.a.test", laboratory.authority.issue(["mail.a.test"]))
    done = laboratory.mailsni("apply")
    assert done.returncode == 1
    assert "/bin/false" in done.stderr
    assert_served(laboratory, "mail.a.test", first)


@pytest.mark.shared
def test_an_own_command_is_run_in_the_place_of_a_reload(laboratory: Laboratory) -> None:
    witness = laboratory.directory / "reloaded"
    laboratory.configure(dovecot={"action": ["/bin/touch", str(witness)]})
    laboratory.issue("mail.a.test")
    document = applied(laboratory, "--no-verify")
    assert document["servers"]["dovecot"] == "command run"
    assert witness.exists()


def test_render_prints_what_apply_publishes(laboratory: Laboratory) -> None:
    laboratory.issue("mail.a.test")
    rendered: dict[str, CompletedProcess[str]] = {
        server: laboratory.mailsni("render", server) for server in ("postfix", "dovecot")
    }
    applied(laboratory)
    assert rendered["postfix"].stdout == laboratory.map.read_text()
    assert rendered["dovecot"].stdout == laboratory.include_file.read_text()


def test_the_default_certificate_is_served_to_whom_nothing_else_fits(laboratory: Laboratory) -> None:
    laboratory.issue("mail.a.test")
    applied(laboratory)
    for name in (None, DEFAULT_NAME, "mail.unknown.test"):
        answers = laboratory.served_everywhere(name)
        assert ABORTED not in answers.values()
        assert_served(laboratory, name, laboratory.default)
