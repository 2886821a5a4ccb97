"""What others can change is not obeyed, and the command that is named ends it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mailsni.config import parser
from mailsni.config.settings import DovecotSettings, PostfixSettings, Settings, StateSettings
from mailsni.deploy import transaction
from mailsni.deploy.transaction import Options
from mailsni.errors import ConfigurationError, Exit
from mailsni.host import trust
from mailsni.host.templates import render
from tests.support.command_line import invoke

OTHER_USER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A file in a directory in a directory, and beside these a shared one with the sticky bit."""
    (tmp_path / "above" / "below").mkdir(parents=True, mode=0o755)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    file = tmp_path / "above" / "below" / "file"
    file.write_text("content")
    file.chmod(0o644)
    return file


def give_away(path: Path) -> None:
    os.chown(path, OTHER_USER, -1, follow_symlinks=False)


def link(path: Path, target: Path | str) -> Path:
    path.symlink_to(target)
    return path


SAFE: dict[str, Callable[[Path, Path], Path]] = {
    "a file": lambda _, file: file,
    "a directory": lambda _, file: file.parent,
    "nothing": lambda top, _: top / "none" / "at" / "all",
    "nothing below a shared directory": lambda top, _: top / "shared" / "none",
    "a link": lambda top, file: link(top / "link", file),
    "a link through ..": lambda top, _: link(top / "link", "above/../above/./below/file"),
    "a link to nothing": lambda top, _: link(top / "link", top / "none"),
    "a link to itself": lambda top, _: link(top / "link", top / "link"),
    "our link in a shared directory": lambda top, file: link(top / "shared" / "link", file),
}


@pytest.mark.parametrize("make", SAFE.values(), ids=SAFE)
def test_what_nobody_else_can_change_is_safe(tmp_path: Path, place: Path, make: Callable[[Path, Path], Path]) -> None:
    assert trust.weaknesses(make(tmp_path, place)) == ()


def in_shared(top: Path, file: Path) -> Path:
    directory = top / "shared" / "ours"
    directory.mkdir(mode=0o755)
    return file.rename(directory / "file")


def test_a_directory_of_ours_below_a_shared_one_is_safe(tmp_path: Path, place: Path) -> None:
    assert trust.weaknesses(in_shared(tmp_path, place)) == ()


def changed(path: Path, mode: int) -> Path:
    path.chmod(mode)
    return path


LOOSE: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "a file for all": (lambda _, file: changed(file, 0o666), "file has mode 0666"),
    "a file for a group": (lambda _, file: changed(file, 0o660), "file has mode 0660"),
    "its directory": (lambda _, file: changed(file.parent, 0o777) / "file", "below has mode 0777"),
    "a directory above": (lambda _, file: changed(file.parent.parent, 0o775) / "below/file", "above has mode 0775"),
    "a directory itself": (lambda _, file: changed(file.parent, 0o770), "below has mode 0770"),
    "above nothing": (lambda top, _: changed(top / "above", 0o777) / "none", "above has mode 0777"),
    "a sticky directory itself": (lambda top, _: top / "shared", "shared has mode 1777"),
    "in a sticky directory": (lambda top, file: file.rename(top / "shared/file"), "shared has mode 1777"),
    "where a link leads": (
        lambda top, file: link(top / "link", changed(file.parent, 0o777) / "file"),
        "below has mode 0777",
    ),
    "where a link lies": (
        lambda top, file: link(changed(top / "above", 0o777) / "link", file.rename(top / "file")),
        "above has mode 0777",
    ),
}


@pytest.mark.parametrize(("make", "reason"), LOOSE.values(), ids=LOOSE)
def test_what_others_can_write_is_named_and_its_command_ends_it(
    tmp_path: Path, place: Path, make: Callable[[Path, Path], Path], reason: str
) -> None:
    assert_named_and_ended(make(tmp_path, place), reason)


FOREIGN: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "a file": (lambda _, file: file, "above/below/file"),
    "its directory": (lambda _, file: file.parent, "above/below"),
    "a directory above": (lambda _, file: file.parent.parent, "above"),
    "a link in a shared directory": (lambda top, file: link(top / "shared/link", file), "shared/link"),
    "a link to a link in a shared directory": (
        lambda top, file: (link(top / "shared/link", "second"), link(top / "shared/second", file))[1],
        "shared/second",
    ),
}


@as_root
@pytest.mark.parametrize(("make", "where"), FOREIGN.values(), ids=FOREIGN)
def test_what_belongs_to_another_is_named_and_its_command_ends_it(
    tmp_path: Path, place: Path, make: Callable[[Path, Path], Path], where: str
) -> None:
    made = make(tmp_path, place)
    give_away(made)
    entrance = tmp_path / "shared" / "link" if made.is_symlink() else place
    assert_named_and_ended(entrance, f"{where} belongs to user {OTHER_USER}")


@as_root
def test_a_link_of_another_in_a_directory_of_roots_is_none_of_his(tmp_path: Path, place: Path) -> None:
    give_away(link(tmp_path / "link", place))
    assert trust.weaknesses(tmp_path / "link") == ()


def test_the_directory_of_everybody_is_not_closed() -> None:
    (weakness,) = trust.weaknesses(Path("/tmp"))
    assert (weakness.reason, weakness.command) == ("has mode 1777", None)


@as_root
def test_a_home_directory_is_not_given_to_root(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwd.getpwuid", lambda _: type("Entry", (), {"pw_dir": str(place.parent)}))
    give_away(place.parent)
    with pytest.raises(ConfigurationError) as caught:
        trust.require(place)
    assert caught.value.hint is not None
    assert "chown" not in caught.value.hint
    assert f"move {place} to a directory that only root can write to" in caught.value.hint


def assert_named_and_ended(path: Path, expected: str) -> None:
    """The one weakness is the expected one, the error says so, and the command of its hint ends it."""
    assert [str(weakness).endswith(f"/{expected}") for weakness in trust.weaknesses(path)] == [True]
    with pytest.raises(ConfigurationError) as caught:
        trust.require(path)
    assert caught.value.exit_code == Exit.CONFIGURATION
    assert caught.value.message.startswith(f"{path}: others can change it: ")
    assert caught.value.hint is not None
    command = caught.value.hint.removeprefix("look at it, then: ")
    subprocess.run(["/bin/sh", "-ec", command], check=True)
    assert trust.weaknesses(path) == ()


def test_a_command_is_quoted_for_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "a 'b'; touch c"
    path.mkdir()
    assert_named_and_ended(changed(path, 0o777), f"{path.name} has mode 0777")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_only_a_regular_file_is_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    make(path)
    with pytest.raises((ConfigurationError, IsADirectoryError)):
        trust.read(path)


def test_the_file_that_was_opened_is_judged(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the path looked well a moment before."""
    place.chmod(0o666)
    monkeypatch.setattr(trust, "require", lambda _: None)
    with pytest.raises(ConfigurationError, match="it has mode 0666"):
        trust.read(place)


# ── the configuration ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of no server, which names a command for failures."""
    path = tmp_path / "mailsni" / "config.toml"
    path.parent.mkdir()
    path.write_text(
        'postfix = { enabled = true, config_directory = "/nonexistent", map_type = "hash", map = "$TOP/map" }\n'
        "dovecot.enabled = false\n"
        'sources = [{ path = "$TOP/live" }]\n'
        'state = { directory = "$TOP/state", lock = "$TOP/lock" }\n'
        'alerts.on_failure = ["/usr/bin/touch", "$TOP/alerted"]\n'.replace("$TOP", str(tmp_path))
    )
    path.chmod(0o644)
    (tmp_path / "live").mkdir()
    return path


COMMANDS = ("apply", "plan", "status", "render postfix", "verify", "metrics", "doctor", "setup --dry-run", "watch")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_obeys_a_configuration_that_others_can_write(config: Path, command: str) -> None:
    config.chmod(0o666)
    done = invoke("--config", str(config), *command.split())
    assert done.exit_code == Exit.CONFIGURATION
    assert f"mailsni: error: {config}: others can change it: it has mode 0666\n" in done.stderr
    assert f"mailsni: hint: look at it, then: chmod go-w {config}\n" in done.stderr


def test_the_alert_command_of_a_configuration_that_others_can_write_is_not_run(config: Path) -> None:
    config.parent.chmod(0o777)
    assert parser.parse_partial(config) is None
    assert invoke("--config", str(config), "apply", MAILSNI_STARTED_BY="cron").exit_code == Exit.CONFIGURATION
    assert not (config.parent.parent / "alerted").exists()


def test_a_directory_that_is_published_into_is_no_place_for_keys_when_others_can_write_there(tmp_path: Path) -> None:
    settings = Settings(
        postfix=PostfixSettings(enabled=True, map=tmp_path / "postfix" / "map", map_type="hash"),
        dovecot=DovecotSettings(
            enabled=True, version="2.4", include_file=tmp_path / "conf.d" / "x", pin_directory=tmp_path / "pins"
        ),
        state=StateSettings(tmp_path / "state", tmp_path / "lock"),
    )
    for name in ("postfix", "conf.d", "pins", "state"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o775)
        with pytest.raises(ConfigurationError, match=f"{tmp_path / name}: others can change it: it has mode 0775"):
            transaction.run(settings, Options())
        (tmp_path / name).chmod(0o755)
    assert list(tmp_path.glob("*/*")) == []


# ── templates ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def templates(config: Path) -> Path:
    path = config.parent / "templates"
    path.mkdir()
    return path


ATTACKS = (
    '{{ cycler.__init__.__globals__.os.popen("touch $TOP/ran").read() }}',
    '{{ joiner.__init__.__globals__["os"].system("touch $TOP/ran") }}',
    '{% for c in ().__class__.__base__.__subclasses__() %}{{ c(["touch", "$TOP/ran"]) }}{% endfor %}',
    '{{ entries.__class__.__init__.__globals__ }}{{ "{0.__class__}".format(entries) }}',
    '{{ namespace.__init__["__glo" ~ "bals__"] }}',
    "{{ self._TemplateReference__context.eval_ctx.environment.loader }}",
    "{{ entries.append(1) }}",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_reaches_nothing_but_its_values(config: Path, templates: Path, attack: str) -> None:
    top = config.parent.parent
    template = templates / "postfix-sni.j2"
    template.write_text("# mine\n" + attack.replace("$TOP", str(top)))
    done = invoke("--config", str(config), "render", "postfix")
    assert (done.exit_code, done.stdout) == (Exit.CONFIGURATION, "")
    assert done.stderr.startswith(f"mailsni: error: {template}: line 2: cannot be rendered: ")
    assert not (top / "ran").exists()


@pytest.mark.parametrize("loose", [".", "postfix-sni.j2", "part.j2"])
def test_a_template_that_others_can_write_is_not_rendered(config: Path, templates: Path, loose: str) -> None:
    (templates / "postfix-sni.j2").write_text('{% include "part.j2" %}')
    (templates / "part.j2").write_text("# mine\n")
    assert invoke("--config", str(config), "render", "postfix").stdout == "# mine\n"
    (templates / loose).chmod(0o777)
    for command in ("plan", "apply"):
        done = invoke("--config", str(config), command)
        assert done.exit_code == Exit.CONFIGURATION
        assert f"{templates / loose}: others can change it: it has mode 0777\n" in done.stderr
        assert f"chmod go-w {templates / loose}\n" in done.stderr


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\n{% for %}", "line 2: Expected"),
        ("\n\n{{ nothing }}", "line 3: cannot be rendered: 'nothing' is undefined"),
        ("\n{{ 1 / 0 }}", "line 2: cannot be rendered: division by zero"),
        ('\n\n\n{% include "none.j2" %}', "line 4: cannot be rendered: there is no template none.j2"),
        ('\n{% include "../../config.toml" %}', "line 2: cannot be rendered: there is no template ../../config.toml"),
        ("a\nb\n\u00e4", "line 3 of what it renders has a character that is not ASCII: U+00E4"),
    ],
)
def test_an_error_in_a_template_has_its_place(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "own.j2"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        render("own.j2", tmp_path)
    assert caught.value.message.startswith(f"{path}: {error}")
    assert caught.value.path == path


def test_an_error_in_a_part_is_an_error_of_that_part(tmp_path: Path) -> None:
    (tmp_path / "own.j2").write_text('{% include "part.j2" %}')
    (tmp_path / "part.j2").write_text("\n{{ nothing }}")
    with pytest.raises(ConfigurationError) as caught:
        render("own.j2", tmp_path)
    assert (caught.value.path, caught.value.line) == (tmp_path / "part.j2", 2)


def test_a_template_that_is_no_text_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "own.j2").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match=r"own\.j2: cannot be read"):
        render("own.j2", tmp_path)
