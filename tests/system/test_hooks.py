"""The hooks as texts, and what they start: with a stand-in for the program that writes down how it was called."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

HOOKS = sorted((Path(__file__).parents[2] / "hooks").iterdir())
EACH = pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)
AT_ONCE = ["apply", "--quiet", "--wait", "300"]
CALLS = {
    "certbot-post": AT_ONCE,
    "certbot-deploy": [*AT_ONCE, "--settle", "600", "--after", "certbot"],
    "acme.sh": [*AT_ONCE, "--settle", "600", "--after", "acme.sh"],
    "lego": [*AT_ONCE, "--settle", "600", "--after", "lego"],
    "caddy": [*AT_ONCE, "--settle", "30"],
    "dehydrated": AT_ONCE,
}
ARGUMENTS = {"dehydrated": ["exit_hook"]}
SHELLS = [one for one in ("/bin/sh", "/usr/bin/dash", "/bin/bash") if Path(one).exists()]
STAND_IN = """\
#!/bin/sh
for word; do printf '%s\\n' "$word"; done
printf 'by %s\\nconfig %s\\n' "$MAILSNI_STARTED_BY" "$MAILSNI_CONFIG"
exit 5
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A directory with a stand-in for mailsni that tells its arguments, and fails."""
    path = tmp_path / "bin" / "mailsni"
    path.parent.mkdir()
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return path.parent


def call(
    hook: Path, environment: Mapping[str, str], arguments: Sequence[str] | None = None, *, shell: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a hook with exactly this environment."""
    given = ARGUMENTS.get(hook.name, []) if arguments is None else arguments
    words = [*([shell] if shell else []), str(hook), *given]
    return subprocess.run(
        words, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30
    )


def test_all_hooks_are_known_here() -> None:
    assert [hook.name for hook in HOOKS] == sorted(CALLS)


@EACH
def test_it_is_a_short_script_for_any_shell(hook: Path) -> None:
    text = hook.read_text()
    lines = text.splitlines()
    assert lines[0] == "#!/bin/sh"
    assert lines[1].startswith("# ")
    assert len(lines) <= 13
    assert max(map(len, lines)) <= 120
    assert stat.S_IMODE(hook.stat().st_mode) == 0o755
    assert SHELLS
    for shell in SHELLS:
        done = subprocess.run([shell, "-n", str(hook)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), shell


@EACH
def test_it_starts_no_other_program_and_uses_no_temporary_file(hook: Path) -> None:
    """Certbot holds its lock while it calls hooks; and under PrivateTmp= nobody else sees /tmp."""
    code = [line for line in hook.read_text().splitlines() if not line.startswith("#")]
    word = re.compile(r"(?:^|exec |-v |\|\| |\{ |; )([a-z][\w.-]*)(?=[ ;])")
    started = {found for line in code for found in word.findall(line)}
    assert started == {"command", "mailsni", "echo", "exit", "exec", "export"}
    assert "tmp" not in "".join(code).lower()


def test_what_the_hooks_share_is_the_same_in_all() -> None:
    found = set()
    for hook in HOOKS:
        lines = [line for line in hook.read_text().splitlines() if not line.startswith("#")]
        shared = [line for line in lines if not line.startswith(("MAILSNI_STARTED_BY=", "exec ", '[ "${1:-}"'))]
        assert f"MAILSNI_STARTED_BY={hook.name}" in lines
        found.add("\n".join(shared))
    assert len(found) == 1


@pytest.mark.parametrize("shell", SHELLS)
@EACH
def test_it_calls_the_program_that_is_first_in_the_path(hook: Path, program: Path, shell: str) -> None:
    done = call(hook, {"PATH": f"{program}:/usr/bin:/bin", "MAILSNI_CONFIG": "/a b/c.toml"}, shell=shell)
    assert done.stdout.splitlines() == [*CALLS[hook.name], f"by {hook.name}", "config /a b/c.toml"]
    assert done.stderr == ""
    assert done.returncode == 5, "the exit code is that of the program"


@EACH
def test_a_program_that_is_not_in_the_path_is_one_line_though_it_is_in_the_directory_of_the_caller(
    hook: Path, program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nowhere: the places that are searched after the path are moved away from those of this host."""
    monkeypatch.chdir(program)
    copy = tmp_path / hook.name
    copy.write_text(re.sub(r"(?<=:)/[^:\n]+", "/nowhere", hook.read_text()))
    copy.chmod(0o755)
    for environment in ({}, {"PATH": ""}, {"PATH": "/nowhere"}):
        done = call(copy, environment, ARGUMENTS.get(hook.name, []))
        assert done.returncode == 1
        assert done.stdout == ""
        assert re.fullmatch(rf"mailsni: error: {re.escape(str(copy))}: the mailsni program is not in .+\n", done.stderr)


def test_dehydrated_is_answered_silently_whatever_it_asks(program: Path) -> None:
    hook = next(hook for hook in HOOKS if hook.name == "dehydrated")
    environment = {"PATH": f"{program}:/usr/bin:/bin"}
    for arguments in (
        ["this_hookscript_is_broken__dehydrated_is_working_fine__please_ignore_unknown_hooks_in_your_script"],
        ["startup_hook"],
        ["deploy_challenge", "mail.a.test", "token", "value"],
        ["clean_challenge", "mail.a.test", "token", "value"],
        ["sync_cert", "/k", "/c", "/f", "/h", "/r"],
        ["deploy_cert", "mail.a.test", "/k", "/c", "/f", "/h", "1"],
        ["deploy_ocsp", "mail.a.test", "/o", "1"],
        ["unchanged_cert", "mail.a.test", "/k", "/c", "/f", "/h"],
        ["invalid_challenge", "mail.a.test", "why"],
        ["request_failure", "404", "why", "GET", "headers"],
        ["generate_csr", "mail.a.test", "/d", "mail.a.test"],
        [],
        [""],
    ):
        done = call(hook, environment, arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), arguments
    for arguments in (["exit_hook"], ["exit_hook", "an error"]):
        assert call(hook, environment, arguments).stdout.splitlines()[: len(AT_ONCE)] == AT_ONCE
