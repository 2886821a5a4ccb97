"""Setup without servers: the order of its steps and the way back, its record, and the texts that it edits."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsni.config import document, parser
from mailsni.config import settings as settings_module
from mailsni.config.settings import Settings
from mailsni.errors import Exit, HostError, RefusedError, RollbackFailedError
from mailsni.host import files
from mailsni.host.records import Reading
from mailsni.output import setup as output
from mailsni.runs import starters
from mailsni.setup import autostart, example, record, stores
from mailsni.setup.model import Note, SetupPlan
from mailsni.setup.record import Edit, Record, digest
from mailsni.setup.steps import Step, carry_out, change_file, delete, make_directories
from mailsni.sources.kinds import SourceSettings
from mailsni.targets.dovecot import live_include
from tests.support.builders import authority
from tests.support.command_line import SCHEMA
from tests.support.lineages import CertbotDirectory

INCLUDE = Path("/etc/dovecot/sni/names.conf")


def logged_step(title: str, log: list[str], fails: str = "", *, reversible: bool = True) -> Step:
    """A step that only notes what is asked of it."""

    def do() -> tuple[str, ...]:
        log.append(f"do {title}")
        if fails == "do":
            raise HostError("broken")
        return (title,)

    def undo() -> None:
        log.append(f"undo {title}")
        if fails == "undo":
            raise HostError("stuck")

    return Step(title, "", do, undo, reversible=reversible)


def steps(log: list[str], **fails: str) -> list[Step]:
    return [logged_step(title, log, fails.get(title, "")) for title in ("a", "b", "c")]


def test_steps_are_done_in_order() -> None:
    log: list[str] = []
    told: list[str] = []
    assert carry_out(steps(log), lambda step: told.append(step.title)) == ("a", "b", "c")
    assert log == ["do a", "do b", "do c"]
    assert told == ["a", "b", "c"]


def test_a_failure_takes_back_what_is_done_last_first() -> None:
    log: list[str] = []
    with pytest.raises(HostError, match="broken"):
        carry_out(steps(log, c="do"), lambda _: None)
    assert log == ["do a", "do b", "do c", "undo b", "undo a"]


def test_what_stays_of_a_step_that_was_undone_is_said() -> None:
    log: list[str] = []
    done, failing = logged_step("a", log), logged_step("b", log, "do")
    with pytest.raises(HostError, match="broken") as caught:
        carry_out([replace(done, stays="a stays"), failing], lambda _: None)
    assert caught.value.hint == "a stays"
    with pytest.raises(HostError) as caught:
        carry_out([done, failing], lambda _: None)
    assert caught.value.hint is None


def test_a_way_back_that_fails_is_gone_to_its_end_and_said() -> None:
    log: list[str] = []
    with pytest.raises(RollbackFailedError, match="b: stuck: could not be undone after: broken"):
        carry_out(steps(log, b="undo", c="do"), lambda _: None)
    assert log[-2:] == ["undo b", "undo a"]


def test_nothing_is_taken_back_after_a_deletion() -> None:
    log: list[str] = []
    plan = [logged_step("a", log), logged_step("keys", log, reversible=False), logged_step("c", log, "do")]
    with pytest.raises(HostError):
        carry_out(plan, lambda _: None)
    assert log == ["do a", "do keys", "do c"]


def test_a_file_that_changed_since_it_was_shown_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    path.write_text("a = b\n")
    change = change_file("edit", path, b"a = b\n", b"a = c\n", mode=None)
    path.write_text("a = d\n")
    with pytest.raises(RefusedError, match="changed meanwhile"):
        change.do()
    assert path.read_text() == "a = d\n"


def test_an_edit_keeps_mode_and_link_and_can_be_undone(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "main.cf"
    real.write_text("a = b\n")
    real.chmod(0o640)
    link.symlink_to("real")
    change = change_file("edit", link, b"a = b\n", b"a = c\n", mode=None)
    change.do()
    assert link.is_symlink()
    assert real.read_text() == "a = c\n"
    assert oct(real.stat().st_mode) == "0o100640"
    change.undo()
    assert real.read_text() == "a = b\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["main.cf", "real"]


def test_made_directories_go_unless_somebody_uses_them(tmp_path: Path) -> None:
    (made,) = make_directories(tmp_path / "hooks/post")
    assert list(make_directories(tmp_path)) == []
    made.do()
    assert oct((tmp_path / "hooks/post").stat().st_mode) == "0o40755"
    (tmp_path / "hooks/mine").touch()
    made.undo()
    assert not (tmp_path / "hooks/post").exists()
    assert (tmp_path / "hooks/mine").exists()


def test_a_deletion_says_which_directory_stays(tmp_path: Path) -> None:
    (tmp_path / "pins").mkdir()
    for name in ("ours.pem", "theirs"):
        (tmp_path / "pins" / name).touch()
    said = delete("delete", (tmp_path / "pins/ours.pem",), (tmp_path / "pins",)).do()
    assert [path.name for path in (tmp_path / "pins").iterdir()] == ["theirs"]
    assert len(said) == 1
    assert str(tmp_path / "pins") in said[0]


@given(st.binary(max_size=200))
def test_the_line_of_dovecot_conf_comes_and_goes(content: bytes) -> None:
    added = live_include.with_include(content, INCLUDE)
    assert added.splitlines()[-1] == b"!include_try /etc/dovecot/sni/names.conf"
    left = live_include.without_include(added, INCLUDE)
    assert left in (content, content + b"\n")


def test_the_record_remembers_the_oldest_content() -> None:
    path = "/etc/postfix/main.cf"
    first = Record(edits={path: Edit.of(b"0", b"1")}, directories=("/a",))
    both = first.and_also(Record(edits={path: Edit.of(b"1", b"2")}, directories=("/b",)))
    assert both.before(Path(path), b"2") == b"0"
    assert both.before(Path(path), b"3") is None
    assert both.directories == ("/a", "/b")
    # An administrator was there between the two.
    assert first.and_also(Record(edits={path: Edit.of(b"x", b"y")})).before(Path(path), b"y") == b"x"


def test_the_record_survives_the_disk_and_a_broken_one_is_none(tmp_path: Path) -> None:
    written = Record({"/m": Edit.of(b"\xff\0", b"new")}, {"/f": record.digest(b"f")}, ("/d",))
    record.save(tmp_path / "state", written)
    assert record.load(tmp_path / "state").content == written
    path = tmp_path / "state" / "setup.json"
    assert oct(path.stat().st_mode) == "0o100600"
    other_words = path.read_bytes().replace(b"before", b"b")
    for broken in (b"", b"{", b"[]", b'{"schema": "mailsni.setup-record/1"}', other_words):
        path.write_bytes(broken)
        found = record.load(tmp_path / "state")
        assert found.content is None
        assert str(path) in (found.problem or "")
    (tmp_path / "state" / "setup.json").unlink()
    assert record.load(tmp_path / "state") == Reading()


def test_the_hook_is_the_shipped_one_with_its_program_and_configuration() -> None:
    text = autostart.hook("certbot", Path("/opt/x/bin/mailsni"), Path("/srv/own.toml")).decode()
    assert text.startswith("#!/bin/sh\n")
    assert text.index("PATH=/opt/x/bin${PATH:+:$PATH}") < text.index("MAILSNI_CONFIG=/srv/own.toml")
    assert text.endswith(autostart.shipped_hook("certbot").removeprefix("#!/bin/sh\n"))
    assert autostart.is_ours(text.encode())
    assert not autostart.is_ours(autostart.shipped_hook("certbot").encode())
    assert "PATH=/usr/bin$" not in autostart.hook("certbot", Path("/usr/bin/mailsni"), None).decode()


def test_a_program_that_others_can_replace_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    program = tmp_path / "bin" / "mailsni"
    program.parent.mkdir(mode=0o755)
    program.touch(mode=0o755)
    loose = tmp_path / "bin"
    loose.chmod(0o777)
    why = starters.why_unsafe(program)
    assert why is not None
    assert str(loose) in why


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_the_document_is_what_the_schema_says(*, remove: bool, empty: bool) -> None:
    change = change_file("write it", Path("/etc/cron.d/mailsni"), None, b"text\n", files.PUBLIC)
    plan = SetupPlan(Settings(), () if empty else (change,), ("n",), ("w",))
    result: output.Result = "in_place" if empty else "planned"
    document = output.document(plan, result, Exit.SKIPPED, (*plan.warnings, "later"), remove=remove)
    SCHEMA.validate(document)
    assert document["warnings"] == ["w", "later"]
    if not empty:
        assert document["steps"][0]["change"] == "--- /dev/null\n+++ /etc/cron.d/mailsni\n@@ -0,0 +1 @@\n+text"


# ── the example ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_example_is_written_beside_the_configuration_and_removed(tmp_path: Path) -> None:
    config = tmp_path / "new" / "own.toml"
    planned = tuple(example.plan(config, Record()))
    carry_out(planned, lambda _: None)
    known = reduce(Record.and_also, (step.record for step in planned), Record())
    path = tmp_path / "new" / "own.toml.example"
    assert path.read_bytes() == document.example("own.toml")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(example.plan(config, known)) == []
    (removal,) = example.plan_removal(known)
    assert isinstance(removal, Step)
    carry_out([removal], lambda _: None)
    assert not path.exists()


def test_an_example_that_was_edited_stays_and_one_of_an_older_version_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "own.toml.example"
    path.write_bytes(b"of an older version")
    known = Record(written={str(path): digest(b"of an older version")})
    (step,) = example.plan(tmp_path / "own.toml", known)
    carry_out([step], lambda _: None)
    assert path.read_bytes() == document.example("own.toml")
    path.write_bytes(b"edited")
    assert list(example.plan(tmp_path / "own.toml", known)) == []
    assert list(example.plan_removal(known)) == [Note(f"{path} was edited and stays")]
    path.unlink()
    path.symlink_to("nowhere")
    assert list(example.plan(tmp_path / "own.toml", known)) == []


# ── stores that nobody configured ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The defaults of a host below a directory; certbot's is not there."""
    default = (SourceSettings.of("certbot", path=tmp_path / "etc/letsencrypt/live"),)
    monkeypatch.setattr(settings_module, "DEFAULT_SOURCES", default)
    return Settings(sources=default, file=tmp_path / "config.toml")


def plant(root: Path, *names: str) -> Path:
    store = CertbotDirectory(root)
    for name in names:
        store.put(name, authority().issue([name]))
    return store.live


def offered(settings: Settings, ask: Callable[[str], bool] | None = None) -> tuple[list[Path], list[Path]]:
    """The paths of the stores that are taken, and of those that are left."""
    offer = stores.offer(settings, datetime.now(UTC), ask, root=settings.file.parent)
    taken, left = ([each.settings.values["path"] for each in group] for group in (offer.taken, offer.left))
    return taken, left


def stack(tmp_path: Path, name: str) -> Path:
    (tmp_path / "opt" / name).mkdir(parents=True)
    return tmp_path / "opt" / name / "letsencrypt"


def test_the_only_store_of_a_host_is_taken_without_a_question(settings: Settings, tmp_path: Path) -> None:
    assert offered(settings) == ([], [])
    live = plant(stack(tmp_path, "x"), "mail.a.test")
    assert offered(settings) == ([live], [])
    assert offered(replace(settings, sources=(SourceSettings.of("lego", path=tmp_path / "lego"),))) == ([], [])


def test_a_person_is_asked_for_each_of_several_stores(settings: Settings, tmp_path: Path) -> None:
    first, second = (plant(stack(tmp_path, name), f"mail.{name}.test") for name in ("x", "y"))
    plant(stack(tmp_path, "web"), "www.z.test")
    assert offered(settings) == ([], [first, second])
    questions: list[str] = []

    def ask(question: str) -> bool:
        questions.append(question)
        return str(second) in question

    assert offered(settings, ask) == ([second], [first])
    with pytest.raises(HostError) as caught:
        stores.plan(settings, stores.offer(settings, datetime.now(UTC), root=tmp_path))
    assert caught.value.hint is not None
    assert f"{first} (certbot, 1 new mail name: mail.x.test), {second} (" in caught.value.hint
    assert questions[0] == f"Read certificates from {first} (certbot, 1 new mail name: mail.x.test)?"


def test_beside_certbots_directory_no_store_is_taken_without_a_question(settings: Settings, tmp_path: Path) -> None:
    default = plant(tmp_path / "etc/letsencrypt", "mail.a.test")
    live = plant(stack(tmp_path, "x"), "mail.b.test")
    assert offered(settings) == ([], [live])
    offer = stores.offer(settings, datetime.now(UTC), lambda _: True, root=tmp_path)
    changed, content, _ = stores.plan(settings, offer)
    assert [each.values["path"] for each in changed.sources] == [default, live]
    assert content is not None
    assert parser.parse(content.decode(), settings.file).sources == changed.sources


def test_a_store_that_others_can_change_is_not_taken_without_a_question(settings: Settings, tmp_path: Path) -> None:
    live = plant(stack(tmp_path, "x"), "mail.a.test")
    live.chmod(0o777)
    assert offered(settings) == ([], [live])
    assert offered(settings, lambda question: "others can change it" not in question) == ([], [live])


def test_an_edited_configuration_keeps_the_tables_that_setup_added(settings: Settings, tmp_path: Path) -> None:
    plant(stack(tmp_path, "x"), "mail.a.test")
    settings.file.write_text("[watch]\nquiet = 1")
    _, content, items = stores.plan(settings, stores.offer(settings, datetime.now(UTC), root=tmp_path))
    assert content is None
    (step,) = items
    assert isinstance(step, Step)
    step.do()
    assert parser.load(settings.file, required=True).watch.quiet == 1
    (back,) = stores.plan_removal(settings, step.record)
    assert isinstance(back, Step)
    back.do()
    assert settings.file.read_text() == "[watch]\nquiet = 1"
    step.do()
    settings.file.write_text(settings.file.read_text() + "# mine\n")
    (note,) = stores.plan_removal(settings, step.record)
    assert note == Note(f"{settings.file} was edited: the [[sources]] tables that setup added stay")
