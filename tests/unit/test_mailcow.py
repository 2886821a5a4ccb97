"""mailcow's folders: what is in them for a selection, and how a directory takes another one's place and goes back."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from mailsni.config.parser import parse
from mailsni.core.names import NamePatterns
from mailsni.deploy.publish import publish, rollback
from mailsni.errors import HostError
from mailsni.host import files
from mailsni.targets import registry
from mailsni.targets.base import StagedFile
from mailsni.targets.mailcow import Folder, folders_in, folders_of, project_of
from mailsni.targets.pinned import PinDirectory
from tests.support.builders import certificate, selection
from tests.support.fake_executor import FakeExecutor

ALL = NamePatterns(("*",))


def test_each_certificate_has_a_folder_with_its_names_and_wildcards_have_both_forms() -> None:
    one, wild = certificate("a", "mail.a.test", "imap.a.test"), certificate("w", "*.w.test")
    assert set(folders_of(selection(one, wild, patterns=ALL), "")) == {
        Folder("mailsni-imap.a.test", one.ident, ("imap.a.test", "mail.a.test")),
        Folder("mailsni-_.w.test", wild.ident, ("*.w.test", ".w.test")),
    }


def test_of_two_algorithms_mailcow_gets_rsa() -> None:
    rsa, ecdsa = (certificate(name, "mail.a.test", algorithm=name) for name in ("rsa", "ecdsa"))
    assert [folder.ident for folder in folders_of(selection(rsa, ecdsa), "")] == [rsa.ident]


@pytest.mark.parametrize(
    ("host_name", "lineage"), [("mail.a.test", "a"), ("mx.w.test", "w"), ("mail.other.test", None), ("", None)]
)
def test_the_default_pair_is_that_of_the_host_name(host_name: str, lineage: str | None) -> None:
    found = {"a": certificate("a", "mail.a.test"), "w": certificate("w", "*.w.test")}
    folders = {folder.name: folder for folder in folders_of(selection(*found.values(), patterns=ALL), host_name)}
    assert (folders["."].ident if "." in folders else None) == (found[lineage].ident if lineage else None)


@pytest.mark.parametrize(
    ("directory", "text", "project"),
    [
        ("/opt/mailcow-dockerized", "", "mailcow-dockerized"),
        ("/opt/Mail Cow!", "", "mailcow"),
        ("/x", "A=1\nCOMPOSE_PROJECT_NAME=mailcowdockerized\n", "mailcowdockerized"),
    ],
)
def test_the_compose_project_is_that_of_mailcow_conf_or_of_the_directory(
    directory: str, text: str, project: str
) -> None:
    assert project_of(Path(directory), text) == project


def test_mailcow_stands_for_both_servers_and_its_folders(tmp_path: Path) -> None:
    (tmp_path / "mailcow.conf").write_text("MAILCOW_HOSTNAME=mail.a.test\nCOMPOSE_PROJECT_NAME=cow\n")
    text = f'[mailcow]\nenabled = true\ndirectory = "{tmp_path}"\n'
    settings = parse(text, Path("config.toml"))
    data = tmp_path / "data"
    assert settings.postfix.map == data / "conf/postfix/sni.map"
    assert settings.dovecot.include_file == data / "conf/dovecot/sni.conf"
    ssl = data / "assets/ssl"
    assert set(registry.writable_directories(settings, FakeExecutor())) == {
        *(data / "conf/postfix", data / "conf/dovecot", ssl, ssl / ".mailsni")
    }
    found = registry.find_mailcow(settings)
    assert found is not None
    assert (found.host_name, found.project) == ("mail.a.test", "cow")
    store = f'{text}[[sources]]\ntype = "mailcow"\npath = "{ssl}"\n'
    reading = registry.find_mailcow(parse(store, Path("config.toml")))
    assert reading is not None
    assert reading.host_name == "", "the default pair is mailcow's own"
    chosen = selection(certificate("a", "mail.a.test"))
    pins = PinDirectory(tmp_path)
    assert {folder.name for folder in folders_in(found.render(chosen, pins, None))} == {".", "mailsni-mail.a.test"}
    assert {folder.name for folder in folders_in(reading.render(chosen, pins, None))} == {"mailsni-mail.a.test"}


class NoWire:
    """A wire that nobody asks."""

    endpoints: ClassVar[dict[str, tuple[()]]] = {}

    def now(self) -> tuple[()]:
        """No answers."""
        return ()


def test_a_directory_takes_the_place_of_another_one_and_goes_back(tmp_path: Path) -> None:
    staging, place = tmp_path / "staging", tmp_path / "place"
    for directory, content in ((staging / "old", b"new"), (staging / "fresh", b"new"), (place / "old", b"old")):
        directory.mkdir(parents=True)
        files.create(directory / "key.pem", content)
    staged = [StagedFile(staging / name, place / name, None) for name in ("old", "fresh")]
    files.create(staging / "file", b"new")
    missing = StagedFile(staging / "file", tmp_path / "nowhere/file", None)
    with pytest.raises(HostError), rollback() as undo:
        publish([*staged, missing], (), NoWire(), undo, reload=False)  # type: ignore[arg-type]
    assert (place / "old/key.pem").read_bytes() == b"old"
    assert not (place / "fresh").exists()
    assert (staging / "fresh/key.pem").exists()
    for file in staged:
        files.exchange(file.path, file.destination)
    assert (place / "old/key.pem").read_bytes() == b"new" == (place / "fresh/key.pem").read_bytes()
    assert (staging / "old/key.pem").read_bytes() == b"old"
