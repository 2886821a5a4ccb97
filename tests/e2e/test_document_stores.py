"""Stores that are one document, mixed in one configuration, change and fail while ``mailsni watch`` runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mailsni.sandbox.authority import Issued
from tests.support.clients import crowd
from tests.support.document_stores import CommandBuilder, KeyValueBuilder, TraefikBuilder
from tests.support.key_value_server import KEY, consul, serving
from tests.support.mail_host import ONE_EACH, MailHost
from tests.support.processes import mailsni_command, running, until

pytestmark = [pytest.mark.shared, pytest.mark.lasting_logins]

FILE, COMMAND, SERVER = NAMES = ("mail.file.test", "mail.command.test", "mail.server.test")


def test_renewals_reach_the_wire_and_damage_takes_no_name_away(mail_host: MailHost, tmp_path: Path) -> None:
    authority = mail_host.authority
    file, command, value = (
        TraefikBuilder(tmp_path / "t"),
        CommandBuilder(tmp_path / "c"),
        KeyValueBuilder(tmp_path / "v"),
    )
    current = {name: authority.issue([name]) for name in NAMES}
    file.put("a", current[FILE])
    command.put("a", current[COMMAND])
    value.put("a", current[SERVER])
    values = {KEY: (value.path.read_bytes(), 1)}

    def served() -> bool:
        expected = [(service, name, current[name].fingerprint) for service in ONE_EACH for name in NAMES]
        return all(mail_host.served(service, name) == fingerprint for service, name, fingerprint in expected)

    def renew(name: str) -> Issued:
        current[name] = authority.issue([name])
        return current[name]

    with serving(consul(values)) as server:
        url = f"http://127.0.0.1:{server.port}"
        tables = (
            {"type": "traefik", "path": str(file.path)},
            {"type": "command", "command": ["/bin/cat", str(command.path)]},
            {"type": "traefik-kv", "url": url},
        )
        mail_host.configure(watch={"scan": 1.0})
        _, _, rest = mail_host.config.read_text().partition("\n\n")
        keys = ["".join(f"{key} = {json.dumps(item)}\n" for key, item in table.items()) for table in tables]
        mail_host.config.write_text("".join(f"[[sources]]\n{each}\n" for each in keys) + rest)
        mail_host.apply()
        assert served()
        talk = tmp_path / "talk"
        ports = {service: mail_host.endpoints[service] for service in ONE_EACH}
        with (
            running(mailsni_command(mail_host.config, "watch", "-v"), talk) as watch,
            crowd(tmp_path, ports, NAMES, authority.root.pem) as leave,
        ):
            until(lambda: "nothing to do" in talk.read_text(), talk.read_text, beside=watch)
            file.put("a", renew(FILE))
            until(served, talk.read_text, beside=watch)
            command.put("a", renew(COMMAND))
            value.put("a", renew(SERVER))
            values[KEY] = (value.path.read_bytes(), 2)
            until(served, talk.read_text, beside=watch)
            assert "warning" not in talk.read_text()
            values[KEY] = (b"<html>", 3)
            until(lambda: "neither gzip nor base64 nor JSON" in talk.read_text(), talk.read_text, beside=watch)
            command.put("a", renew(COMMAND))
            file.path.write_text(file.path.read_text()[:-100])
            until(lambda: "acme.json: is half written" in talk.read_text(), talk.read_text, beside=watch)
            until(served, talk.read_text, beside=watch)
            visits = leave()
        assert [visit for visit in visits if visit.problem] == []
