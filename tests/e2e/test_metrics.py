"""``mailsni metrics`` on real servers, read by Prometheus' own promtool, and what stands on it: alerts, a dashboard."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailsni.core.model import Reason
from mailsni.host.commands import find_tool
from mailsni.probes.model import Problem
from mailsni.sandbox.authority import Issued
from tests.support import command_line, mounts
from tests.support.mail_host import MailHost, require

NAME = "mail.a.test"
MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
RULES = MONITORING / "mailsni.rules.yml"
_NO_SPACE = os.strerror(errno.ENOSPC)
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


def promtool(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    tool = find_tool("promtool")
    require(None if tool else "promtool: not installed")
    return subprocess.run(
        [str(tool), *words], input=stdin, cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False
    )


def samples(text: str) -> Samples:
    """What Prometheus would read, after promtool has found nothing to say of it."""
    checked = promtool("check", "metrics", stdin=text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    found: Samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            found.setdefault(match[1], {})[frozenset(_LABEL.findall(match[2] or ""))] = float(match[3])
    return found


def measured(mail_host: MailHost, *words: str, code: int = 0) -> Samples:
    done = mail_host.mailsni("metrics", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return samples(done.stdout)


@pytest.fixture
def deployed(mail_host: MailHost) -> Issued:
    issued = mail_host.issue(NAME)
    assert mail_host.mailsni("apply").returncode == 0
    return issued


def of(name: str, **labels: str) -> frozenset[tuple[str, str]]:
    return frozenset({"name": name, **labels}.items())


def test_what_is_stored_deployed_and_served_is_measured(mail_host: MailHost, deployed: Issued) -> None:
    found = measured(mail_host)
    key = of(NAME, algorithm="ecdsa")
    assert found["mailsni_up"] == {frozenset(): 1}
    both = {frozenset({("server", server)}): 1 for server in ("postfix", "dovecot")}
    assert found["mailsni_wire_up"] == found["mailsni_can_start"] == both
    assert found["mailsni_deployed_not_after_timestamp_seconds"] == {key: deployed.not_after.timestamp()}
    assert found["mailsni_deployed_not_before_timestamp_seconds"] == {key: deployed.not_before.timestamp()}
    in_store = of(NAME, algorithm="ecdsa", source=str(mail_host.store.live / NAME))
    assert found["mailsni_store_not_after_timestamp_seconds"] == {in_store: deployed.not_after.timestamp()}
    assert found["mailsni_names"][frozenset({("state", "deployed")})] == 1
    assert found["mailsni_name_state"] == {of(NAME, state="deployed"): 1}
    for family in ("endpoint_up", "endpoint_served_as_intended", "served_to_others"):
        served = found[f"mailsni_{family}"]
        assert {dict(one)["port"] for one in served} == {str(port) for port in mail_host.endpoints.values()}
        assert set(served.values()) == {1}
    assert found["mailsni_name_served_as_intended"] == {of(NAME): 1}
    assert set(found["mailsni_wrong_names"].values()) == {0}
    assert found["mailsni_not_asked"] == {frozenset(): 0}
    each = measured(mail_host, "--every-port")["mailsni_served_as_intended"]
    assert {dict(one)["port"] for one in each} == {str(port) for port in mail_host.endpoints.values()}
    assert set(each.values()) == {1}
    assert {dict(one)["reason"] for one in found["mailsni_skipped"]} == {str(one) for one in Reason}
    assert {dict(one)["problem"] for one in found["mailsni_answers"]} == {str(one) for one in Problem}
    assert found["mailsni_pending"] == {frozenset(): 0}
    assert found["mailsni_last_run_success"] == {frozenset(): 1}
    assert found["mailsni_last_success_timestamp_seconds"] == found["mailsni_last_run_timestamp_seconds"]


def test_what_is_pending_skipped_failed_or_wrongly_served_is_measured(mail_host: MailHost, deployed: Issued) -> None:
    """Renewed and not deployed, one server stopped, a lineage broken, a run that failed."""
    renewed = mail_host.authority.issue([NAME], not_before=deployed.not_before.replace(microsecond=0))
    mail_host.store.renew(NAME, renewed)
    mail_host.issue("mail.broken.test")
    mail_host.store.path("mail.broken.test", "privkey").unlink()
    mail_host.dovecot.stop()
    found = measured(mail_host)
    assert found["mailsni_pending"] == {frozenset(): 1}
    assert found["mailsni_skipped"][frozenset({("reason", "key_missing")})] == 1
    assert {key: value for key, value in found["mailsni_problems"].items() if value} == {
        frozenset({("reason", "key_missing")}): 1
    }
    assert found["mailsni_pending_changes"][frozenset({("kind", "renew")})] == 1
    assert found["mailsni_name_state"] == {of(NAME, state="pending"): 1}
    by_server = {dict(one)["server"]: value for one, value in found["mailsni_endpoint_up"].items()}
    assert by_server == {"postfix": 1, "dovecot": 0}
    assert set(found["mailsni_endpoint_served_as_intended"].values()) == {0}
    assert found["mailsni_name_served_as_intended"] == {of(NAME): 0}
    assert set(found["mailsni_wrong_names"].values()) == {0}, "the name waits for the next apply; Dovecot is down"
    answers = {(dict(one)["server"], dict(one)["problem"]): value for one, value in found["mailsni_answers"].items()}
    assert answers["dovecot", "not_listening"] == 3 * len(mail_host.dovecot.endpoints)
    assert answers["postfix", "wrong_certificate"] == len(mail_host.postfix.endpoints)
    mail_host.configure(postfix={"action": ["/bin/false"]})
    assert mail_host.mailsni("apply").returncode == 1
    found = measured(mail_host, "--no-wire")
    assert found["mailsni_last_run_success"] == {frozenset(): 0}
    assert found["mailsni_last_run_exit_code"] == {frozenset(): 1}
    assert found.keys().isdisjoint({"mailsni_name_served_as_intended", "mailsni_answers", "mailsni_wire_up"})


@pytest.mark.shared
def test_metrics_are_printed_when_nothing_can_be_read(mail_host: MailHost, deployed: Issued) -> None:
    del deployed
    mail_host.store.live.rename(mail_host.store.live.with_name("elsewhere"))
    done = mail_host.mailsni("metrics")
    assert done.returncode == 1
    assert done.stderr.startswith(f"mailsni: error: {mail_host.store.live}: ")
    found = samples(done.stdout)
    assert found["mailsni_up"] == {frozenset(): 0}
    assert found["mailsni_last_run_success"] == {frozenset(): 1}
    document = json.loads(mail_host.mailsni("metrics", "--json").stdout)
    assert document["schema"] == "mailsni.metrics/1"
    assert {"name": "mailsni_up", "labels": {}, "value": 0} in document["samples"]


@pytest.mark.shared
def test_hostile_directories_do_not_break_the_format(idle_mail_host: MailHost) -> None:
    r"""``"``, ``\`` and a newline in a label would end it."""
    for number, lineage in enumerate(('a"} 1', "b\\", "c\nmailsni_up 0", 'd{e="f"}')):
        idle_mail_host.store.add(lineage, idle_mail_host.authority.issue([f"mail.h{number}.test"]))
    found = measured(idle_mail_host, "--no-wire")
    assert found["mailsni_up"] == {frozenset(): 1}
    assert found["mailsni_skipped"][frozenset({("reason", "bad_name")})] == 4


@pytest.fixture
def textfile(idle_mail_host: MailHost) -> Path:
    """One that was written."""
    idle_mail_host.issue(NAME)
    assert idle_mail_host.mailsni("apply").returncode == 0
    file = idle_mail_host.directory / "node-exporter" / "mailsni.prom"
    file.parent.mkdir()
    assert write(idle_mail_host, file) == ""
    return file


def write(mail_host: MailHost, file: Path, code: int = 0) -> str:
    """Write the textfile; returns the one line that is said, besides a hint."""
    done = command_line.invoke("--config", str(mail_host.config), "metrics", "--textfile", str(file), "--no-wire")
    assert (done.exit_code, done.stdout) == (code, ""), done.stderr
    lines = done.stderr.splitlines()
    assert [line[:15] for line in lines[1:]] in ([], ["mailsni: hint: "])
    return "".join(lines[:1])


def is_up(textfile: Path) -> bool:
    return samples(textfile.read_text())["mailsni_up"] == {frozenset(): 1}


@pytest.mark.shared
def test_a_textfile_is_replaced_whole_and_readable_by_the_exporter(idle_mail_host: MailHost, textfile: Path) -> None:
    before = textfile.stat()
    assert before.st_mode & 0o7777 == 0o644
    assert is_up(textfile)
    assert write(idle_mail_host, textfile) == ""
    assert textfile.stat().st_ino != before.st_ino, "another file, renamed over the old one"
    assert list(textfile.parent.iterdir()) == [textfile]


@pytest.mark.shared
def test_what_lies_at_the_place_of_the_textfile_and_is_no_file_is_refused(
    idle_mail_host: MailHost, textfile: Path
) -> None:
    textfile.unlink()
    textfile.symlink_to("victim")
    assert write(idle_mail_host, textfile, 1) == f"mailsni: error: {textfile}: is no regular file"
    assert textfile.readlink() == Path("victim")
    assert list(textfile.parent.iterdir()) == [textfile]
    assert write(idle_mail_host, textfile.parent / "no/such.prom", 1).endswith("/node-exporter/no: is no directory")


@pytest.mark.shared
def test_the_old_textfile_stays_when_a_new_one_cannot_be_written(idle_mail_host: MailHost, textfile: Path) -> None:
    """A full disk, from no page left to as many as it takes; a read-only one; something where it is staged."""
    place = textfile.parent
    staged = place / ".mailsni.prom.new"
    mounts.mount("tmpfs", place, kind="tmpfs", options="size=1m")
    failed = set()
    try:
        for pages in range(4):
            textfile.write_text("old")
            with (place / "ballast").open("wb", buffering=0) as ballast:
                ballast.write(b"\0" * 4096 * (os.statvfs(place).f_bavail - pages))
            done = idle_mail_host.mailsni("metrics", "--textfile", str(textfile), "--no-wire")
            failed.add(done.returncode)
            if done.returncode:
                assert done.stderr == f"mailsni: error: {staged}: cannot be written: {_NO_SPACE}\n"
                assert textfile.read_text() == "old"
            else:
                assert is_up(textfile)
            (place / "ballast").unlink()
            assert list(place.iterdir()) == [textfile]
        assert failed == {0, 1}, "the disk was never full, or always"
        textfile.write_text("old")
        staged.mkdir()
        assert write(idle_mail_host, textfile, 1).startswith(f"mailsni: error: {staged}: ")
        mounts.make_read_only(place)
        assert write(idle_mail_host, textfile, 1) == f"mailsni: error: {place}: cannot be written, not even by root"
        assert textfile.read_text() == "old"
    finally:
        mounts.unmount(place)


@pytest.mark.shared
def test_a_textfile_says_so_when_nothing_can_be_read(idle_mail_host: MailHost, textfile: Path) -> None:
    """Else the last one would go on to say that all is well."""
    live = idle_mail_host.store.live
    live.rename(live.with_name("elsewhere"))
    assert write(idle_mail_host, textfile, 1).startswith(f"mailsni: error: {live}: ")
    assert not is_up(textfile)
    live.with_name("elsewhere").rename(live)
    assert write(idle_mail_host, textfile) == ""
    idle_mail_host.config.write_text("[names]\nincluded = []\n")
    assert "included" in write(idle_mail_host, textfile, 78)
    assert not is_up(textfile)
    idle_mail_host.configure()
    assert write(idle_mail_host, textfile) == ""
    assert is_up(textfile)


@pytest.mark.shared
def test_servers_that_cannot_be_probed_and_runs_that_never_were_have_no_metrics(mail_host: MailHost) -> None:
    mail_host.configure(verify={"endpoints": []})
    done = mail_host.mailsni("metrics")
    assert done.returncode == 1
    assert done.stderr.startswith("mailsni: error: ")
    found = samples(done.stdout)
    assert found["mailsni_up"] == {frozenset(): 1}
    assert found["mailsni_wire_up"] == {frozenset({("server", server)}): 0 for server in ("postfix", "dovecot")}
    assert "mailsni_last_success_timestamp_seconds" not in found
    assert found.keys().isdisjoint({"mailsni_answers", "mailsni_last_run_success"})


# ── alert rules and dashboard ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.shared
def test_the_rules_are_right_and_fire_when_they_must() -> None:
    checked = promtool("check", "rules", RULES.name)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", "mailsni.rules.test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    cases = (MONITORING / "mailsni.rules.test.yml").read_text()
    for alert in alerts:
        outcomes = re.findall(rf'alertname="{alert}".*\n.*eval_time.*\n +exp_samples:( \[\])?', cases)
        assert "" in outcomes, f"{alert} fires in no test"
        assert " []" in outcomes, f"{alert} is silent in no test"


def _queries() -> Iterator[str]:
    yield from re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n +(?:for|labels):", RULES.read_text())
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


@pytest.mark.shared
def test_prometheus_understands_what_the_dashboard_asks(tmp_path: Path) -> None:
    queries = [query for query in _queries() if "$instance" in query]
    recorded = [{"record": f"panel:{at}", "expr": query} for at, query in enumerate(queries)]
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    checked = promtool("check", "rules", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(queries)} rules found" in checked.stdout


@pytest.mark.shared
def test_rules_and_dashboard_use_what_is_printed(mail_host: MailHost, deployed: Issued) -> None:
    del deployed
    printed = measured(mail_host)
    labels = {name: {key for one in found for key, _ in one} for name, found in printed.items()}
    used = {name for query in _queries() for name in re.findall(r"\bmailsni_\w+", query)}
    assert used - printed.keys() == set()
    assert printed.keys() - used == {"mailsni_build_info"}
    for query in _queries():
        for name, selector in re.findall(r"\b(mailsni_\w+)\{([^}]*)\}", query):
            asked = set(re.findall(r"(\w+)(?:=|!)", selector)) - {"instance"}
            assert asked <= labels[name], query
