"""``mailsni metrics`` on real servers, read by Prometheus' own promtool, and what stands on it: alerts, a dashboard."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailsni.inspection import Concern
from mailsni.inventory import Reason
from mailsni.process import find_tool
from mailsni.sandbox.authority import Issued
from tests.e2e.support import Laboratory, require

NAME = "mail.a.test"
MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
RULES = MONITORING / "mailsni.rules.yml"
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


def measured(laboratory: Laboratory, *words: str, code: int = 0) -> Samples:
    done = laboratory.mailsni("metrics", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return samples(done.stdout)


@pytest.fixture
def deployed(laboratory: Laboratory) -> Issued:
    issued = laboratory.issue(NAME)
    assert laboratory.mailsni("apply").returncode == 0
    return issued


def of(name: str, **labels: str) -> frozenset[tuple[str, str]]:
    return frozenset({"name": name, **labels}.items())


def test_what_is_in_the_stores_deployed_and_served(laboratory: Laboratory, deployed: Issued) -> None:
    found = measured(laboratory)
    key = of(NAME, algorithm="ecdsa")
    assert found["mailsni_up"] == {frozenset(): 1}
    assert found["mailsni_deployed_not_after_timestamp_seconds"] == {key: deployed.not_after.timestamp()}
    assert found["mailsni_deployed_not_before_timestamp_seconds"] == {key: deployed.not_before.timestamp()}
    in_store = of(NAME, algorithm="ecdsa", source=str(laboratory.store.live / NAME))
    assert found["mailsni_store_not_after_timestamp_seconds"] == {in_store: deployed.not_after.timestamp()}
    assert found["mailsni_names"][frozenset({("state", "deployed")})] == 1
    served = found["mailsni_served_as_intended"]
    assert {dict(one)["port"] for one in served} == {str(port) for port in laboratory.endpoints.values()}
    assert set(served.values()) == {1}
    assert set(found["mailsni_served_to_others"].values()) == {1}
    assert {dict(one)["reason"] for one in found["mailsni_skipped"]} == {str(one) for one in Reason}
    assert {dict(one)["concern"] for one in found["mailsni_answers"]} == {str(one) for one in Concern}
    assert found["mailsni_pending"] == {frozenset(): 0}
    assert found["mailsni_last_run_success"] == {frozenset(): 1}
    assert found["mailsni_last_success_timestamp_seconds"] == found["mailsni_last_run_timestamp_seconds"]


def test_what_goes_wrong_is_seen(laboratory: Laboratory, deployed: Issued) -> None:
    """Renewed and not deployed, one server stopped, a lineage broken, a run that failed."""
    renewed = laboratory.authority.issue([NAME], not_before=deployed.not_before.replace(microsecond=0))
    laboratory.store.renew(NAME, renewed)
    laboratory.issue("mail.broken.test")
    laboratory.store.path("mail.broken.test", "privkey").unlink()
    laboratory.dovecot.stop()
    found = measured(laboratory)
    assert found["mailsni_pending"] == {frozenset(): 1}
    assert found["mailsni_skipped"][frozenset({("reason", "key_missing")})] == 1
    assert found["mailsni_problems"] == {frozenset(): 1}
    by_server = {dict(one)["server"]: value for one, value in found["mailsni_served_as_intended"].items()}
    assert by_server == {"postfix": 0, "dovecot": 0}
    answers = {(dict(one)["server"], dict(one)["concern"]): value for one, value in found["mailsni_answers"].items()}
    assert answers["dovecot", "not_listening"] == 3 * len(laboratory.dovecot.endpoints)
    assert answers["postfix", "other_certificate"] == len(laboratory.postfix.endpoints)
    laboratory.configure(postfix={"action": ["/bin/false"]})
    assert laboratory.mailsni("apply").returncode == 1
    found = measured(laboratory, "--no-wire")
    assert found["mailsni_last_run_success"] == {frozenset(): 0}
    assert found["mailsni_last_run_exit_code"] == {frozenset(): 1}
    assert "mailsni_served_as_intended" not in found


@pytest.mark.shared
def test_it_comes_out_when_nothing_can_be_read(laboratory: Laboratory, deployed: Issued) -> None:
    del deployed
    laboratory.store.live.rename(laboratory.store.live.with_name("elsewhere"))
    done = laboratory.mailsni("metrics")
    assert done.returncode == 1
    assert done.stderr.startswith(f"mailsni: error: {laboratory.store.live}: ")
    found = samples(done.stdout)
    assert found["mailsni_up"] == {frozenset(): 0}
    assert found["mailsni_last_run_success"] == {frozenset(): 1}
    document = json.loads(laboratory.mailsni("metrics", "--json").stdout)
    assert document["schema"] == "mailsni.metrics/1"
    assert {"name": "mailsni_up", "labels": {}, "value": 0} in document["samples"]


@pytest.mark.shared
def test_hostile_directories_do_not_break_the_format(laboratory: Laboratory, deployed: Issued) -> None:
    r"""``"``, ``\`` and a newline in a label would end it."""
    del deployed
    for number, lineage in enumerate(('a"} 1', "b\\", "c\nmailsni_up 0", 'd{e="f"}')):
        laboratory.store.add(lineage, laboratory.authority.issue([f"mail.h{number}.test"]))
    found = measured(laboratory, "--no-wire")
    assert found["mailsni_up"] == {frozenset(): 1}
    assert found["mailsni_skipped"][frozenset({("reason", "bad_name")})] == 4


@pytest.mark.shared
def test_a_textfile(laboratory: Laboratory, deployed: Issued) -> None:
    del deployed
    directory = laboratory.directory / "node-exporter"
    directory.mkdir()
    file = directory / "mailsni.prom"

    def write(code: int = 0) -> str:
        done = laboratory.mailsni("metrics", "--textfile", str(file), "--no-wire")
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        return done.stderr

    assert write() == ""
    before = file.stat()
    assert before.st_mode & 0o7777 == 0o644
    assert samples(file.read_text())["mailsni_up"] == {frozenset(): 1}
    assert write() == ""
    assert file.stat().st_ino != before.st_ino, "another file, renamed over the old one"
    assert list(directory.iterdir()) == [file]
    # A link is replaced, and what it leads to left alone.
    victim = laboratory.directory / "victim"
    victim.write_text("mine")
    file.unlink()
    file.symlink_to(victim)
    assert write() == ""
    assert victim.read_text() == "mine"
    assert not file.is_symlink()
    # What cannot be written is said, and what was there stays.
    old = file.read_bytes()
    (directory / ".mailsni.prom.new").mkdir()
    assert write(1).startswith(f"mailsni: error: {directory}/.mailsni.prom.new: ")
    assert file.read_bytes() == old
    (directory / ".mailsni.prom.new").rmdir()
    file.unlink()
    file.mkdir()
    assert write(1).startswith(f"mailsni: error: {file}: ")
    done = laboratory.mailsni("metrics", "--textfile", str(directory / "no" / "such.prom"), "--no-wire")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


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
def test_rules_and_dashboard_use_what_is_printed(laboratory: Laboratory, deployed: Issued) -> None:
    del deployed
    printed = measured(laboratory)
    labels = {name: {key for one in found for key, _ in one} for name, found in printed.items()}
    used = {name for query in _queries() for name in re.findall(r"\bmailsni_\w+", query)}
    assert used - printed.keys() == set()
    assert printed.keys() - used == {"mailsni_build_info"}
    for query in _queries():
        for name, selector in re.findall(r"\b(mailsni_\w+)\{([^}]*)\}", query):
            asked = set(re.findall(r"(\w+)(?:=|!)", selector)) - {"instance"}
            assert asked <= labels[name], query
