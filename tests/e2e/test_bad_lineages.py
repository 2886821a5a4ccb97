"""Bad lineages beside good ones: every reason code, and what the servers do then.

Each kind of lineage says what the program must make of it. Every kind is planted

* under a name that was never served, beside good lineages, in front of both servers (``crowd``);
* if it can, over a lineage that was deployed before and must therefore keep its last good certificate (``crowd``).

For each set of reason codes a kind is also alone with good lineages, for the exit code that it alone causes.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from mailsni.sandbox.authority import Issued
from tests.e2e.lineages.bad import BAD
from tests.e2e.lineages.harmless import HARMLESS
from tests.e2e.lineages.kinds import DAY, NOW, SECRET, LineageBuilder
from tests.e2e.lineages.renewal import FIRST_SEEN, FIRST_STEPS, FIRST_WHOLE, RENEWAL_STEPS, TORN_FROM, TORN_TO, stop_at
from tests.support.authority import Authority
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import ONE_EACH, MailHost, write_config
from tests.support.processes import AS_NOBODY, NOBODY, run_mailsni

KINDS = {**BAD, **HARMLESS}
PROCESSOR_SECONDS = 20
"""That any run of the program may take, whatever lies in the store."""
GOOD, OTHER = "mail.good.test", "mail.other.test"


@dataclass
class Crowd:
    """The mail host with every kind in it, after the program has run.

    Attributes:
        builders: by kind, for a name that was never served.
        expected: by name, the fingerprint that must be served.
        runs: by command line, every run of the program; all but the first with all kinds there.
        planted_keys: every private key in the store.
    """

    mail_host: MailHost
    builders: dict[str, LineageBuilder]
    expected: dict[str, str]
    runs: dict[str, CompletedProcess[str]]
    planted_keys: list[bytes] = field(repr=False)

    @property
    def document(self) -> dict[str, Any]:
        """What ``status --json`` says at the end."""
        document: dict[str, Any] = json.loads(self.runs["status --json"].stdout)
        return document

    @property
    def said(self) -> dict[str, str]:
        """By command line, everything that any run of the program said."""
        return {words: done.stdout + done.stderr for words, done in self.runs.items()}

    def skipped(self, source: Path) -> dict[str, bool]:
        """The reason codes of a lineage, each with whether it is only information."""
        text = str(source)
        return reasons(self.document, text if text.isascii() and text.isprintable() else ascii(text))

    def assert_served(self, *names: str) -> None:
        """Both servers present what is expected for these names."""
        questions = [(service, name) for name in names for service in ONE_EACH]
        with ThreadPoolExecutor(len(questions)) as pool:
            answers = list(pool.map(lambda question: self.mail_host.served(*question), questions))
        assert dict(zip(questions, answers, strict=True)) == {one: self.expected[one[1]] for one in questions}


def reasons(document: Mapping[str, Any], source: str | None = None) -> dict[str, bool]:
    """The reason codes in a document, of one source or of all, each with whether it is only information."""
    skipped = [one for one in document["skipped"] if source in (None, one["source"])]
    return {one["reason"]: one["information"] for one in skipped}


def label(kind: str) -> str:
    """A kind's name as a label of a host name."""
    return kind.replace("_", "-")[:60].rstrip("-")


def secret_place(directory: Path) -> Path:
    """A directory outside the store with a secret in it."""
    directory.mkdir(mode=0o700)
    (directory / "secret").write_text(f"{SECRET}\n")
    return directory


@pytest.fixture(scope="module")
def crowd(lasting_mail_host: MailHost) -> Crowd:
    """Every kind in one store: first only good lineages, then the bad ones as well, over some of them and beside."""
    return _populated(lasting_mail_host)


def _populated(mail_host: MailHost) -> Crowd:
    store, authority = mail_host.store, mail_host.authority
    outside = secret_place(mail_host.directory / "outside")
    keys: list[bytes] = []
    expected: dict[str, str] = {}

    def builder(lineage: str) -> LineageBuilder:
        return LineageBuilder(store, authority, f"mail.{lineage}.test", lineage, outside, keys)

    def add(one: LineageBuilder, **options: Any) -> None:  # noqa: ANN401  # what Authority.issue takes
        expected[one.name] = one.add(**options).fingerprint

    good, other = builder("good"), builder("other")
    replaced = {kind: builder(f"was-{label(kind)}") for kind in BAD if BAD[kind].replaces}
    torn = {step: builder(f"torn-{at}") for at, step in enumerate(RENEWAL_STEPS)}
    add(good)
    add(other, algorithm="rsa")
    for one in (*replaced.values(), *torn.values()):
        add(one, not_before=NOW - 2 * DAY)
    runs = {"apply": bounded(mail_host, "apply")}
    assert runs["apply"].returncode == 0, runs["apply"].stderr

    builders = {kind: builder(label(kind)) for kind in KINDS}
    for kind, one in builders.items():
        planted = KINDS[kind].plant(one)
        served = planted if KINDS[kind].served else mail_host.default
        assert isinstance(served, Issued)
        expected[one.name] = served.fingerprint
    for kind, one in replaced.items():
        store.delete(one.lineage)
        BAD[kind].plant(one)
    for at, (step, one) in enumerate(torn.items()):
        renewed = one.issue()
        stop_at(store.renewal_steps(one.lineage, renewed), step)
        if at > TORN_TO:
            expected[one.name] = renewed.fingerprint
    for at, step in enumerate(FIRST_STEPS):
        one = builder(f"first-{at}")
        issued = one.issue()
        stop_at(store.issuance_steps(one.lineage, issued), step)
        expected[one.name] = (issued if at >= FIRST_WHOLE else mail_host.default).fingerprint
    renewed = good.issue()
    store.renew(good.lineage, renewed)
    expected[good.name] = renewed.fingerprint

    for words in (
        "apply --json",
        "-v apply",
        "apply --force",
        "status --json",
        "status --skipped",
        "plan --json --diff",
        "plan --diff",
        "render postfix",
        "render dovecot",
        f"explain {replaced['key_of_another_certificate'].name}",
    ):
        runs[words] = bounded(mail_host, *words.split())
    assert runs["status --json"].returncode == 0, runs["status --json"].stderr
    return Crowd(mail_host, builders, expected, runs, keys)


def bounded(mail_host: MailHost, *words: str) -> CompletedProcess[str]:
    """Run the program to its end, which must not take long."""
    done = run_mailsni(mail_host.config, *words, before=("prlimit", f"--cpu={PROCESSOR_SECONDS}"))
    assert done.returncode >= 0, f"{words}: killed"
    return done


def serverless(directory: Path, store: CertbotDirectory) -> Path:
    """A configuration file of a host where a map is all there is to publish, and nobody runs who could be told."""
    main_cf = directory / "main.cf"
    main_cf.write_text(f"compatibility_level = 3.6\ntls_server_sni_maps = texthash:{directory}/mailsni\n")
    (directory / "master.cf").write_text("pickup unix n - n 60 1 pickup\n")
    os.utime(main_cf, (0, 0))  # or every program of Postfix waits until it is a second old
    return write_config(
        directory / "config.toml",
        store,
        {
            "state": {"directory": f"{directory}/state", "lock": f"{directory}/lock"},
            "dovecot": {"enabled": False},
            "verify": {"after_apply": False},
            "postfix": {
                "enabled": True,
                "config_directory": str(directory),
                "map": f"{directory}/mailsni",
                "map_type": "texthash",
                "action": "none",
            },
        },
    )


# ---------------------------------------------------------------------------------------------------------------------
# What must be true of each


def test_the_good_lineages_beside_all_of_them_are_served(crowd: Crowd) -> None:
    crowd.assert_served(GOOD, OTHER)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lineage_is_reported_with_its_reasons_and_its_name_is_served_or_gets_the_default(
    kind: str, crowd: Crowd
) -> None:
    builder = crowd.builders[kind]
    assert crowd.skipped(builder.directory) == KINDS[kind].reasons
    crowd.assert_served(builder.name)


@pytest.mark.shared
@pytest.mark.parametrize("kind", {frozenset(KINDS[kind].reasons.items()): kind for kind in KINDS}.values())
def test_a_lineage_beside_good_ones_decides_the_exit_code(kind: str, tmp_path: Path, authority: Authority) -> None:
    """Exit code 4 of the bad ones, and 0 and not a word of the harmless ones; no server runs."""
    store = CertbotDirectory(tmp_path / "letsencrypt")
    store.add(GOOD, authority.issue([GOOD]))
    store.add(OTHER, authority.issue([OTHER], algorithm="rsa"))
    outside = secret_place(tmp_path / "outside")
    KINDS[kind].plant(LineageBuilder(store, authority, f"mail.{label(kind)}.test", label(kind), outside))
    done = run_mailsni(serverless(tmp_path, store), "apply", "--json")
    assert done.returncode == (4 if kind in BAD else 0), done.stdout + done.stderr
    assert reasons(json.loads(done.stdout)) == KINDS[kind].reasons
    assert (done.stderr == "") is (kind in HARMLESS)


@pytest.mark.parametrize("kind", [kind for kind in BAD if BAD[kind].replaces])
def test_a_name_that_was_served_keeps_its_last_good_certificate(kind: str, crowd: Crowd) -> None:
    lineage = f"was-{label(kind)}"
    skipped = crowd.skipped(crowd.mail_host.store.live / lineage)
    assert set(skipped) == {*BAD[kind].reasons, "kept_last_good"}
    assert skipped["kept_last_good"] is False
    crowd.assert_served(f"mail.{lineage}.test")


@pytest.mark.parametrize("step", RENEWAL_STEPS)
def test_a_renewal_stopped_after_any_step_leaves_a_whole_pair(step: str, crowd: Crowd) -> None:
    """The name has a whole pair at every moment: the old one up to the last link, then the new one."""
    at = RENEWAL_STEPS.index(step)
    broken = TORN_FROM <= at <= TORN_TO
    expected = {"renewal_in_progress": False, "kept_last_good": False} if broken else {}
    assert crowd.skipped(crowd.mail_host.store.live / f"torn-{at}") == expected
    crowd.assert_served(f"mail.torn-{at}.test")


@pytest.mark.parametrize("step", FIRST_STEPS)
def test_a_first_issuance_is_served_from_the_step_that_completes_it(step: str, crowd: Crowd) -> None:
    """Until the chain is written through its link there is nothing to serve, which is said once a link is there."""
    at = FIRST_STEPS.index(step)
    expected = {"chain_missing": False} if FIRST_SEEN <= at < FIRST_WHOLE else {}
    assert crowd.skipped(crowd.mail_host.store.live / f"first-{at}") == expected
    crowd.assert_served(f"mail.first-{at}.test")


def test_all_of_them_together_are_applied_with_exit_code_4(crowd: Crowd) -> None:
    applied = crowd.runs["apply --json"]
    assert applied.returncode == 4, applied.stderr
    document = json.loads(applied.stdout)
    assert document["result"] == "applied"
    assert document["servers"] == {"postfix": "reloaded", "dovecot": "reloaded"}


def test_every_reason_code_of_the_contract_has_a_kind_of_lineage(crowd: Crowd) -> None:
    """But for ``set_aside``, which a running server decides (tests/e2e/test_set_aside.py)."""
    text = (
        "expired not_yet_valid key_mismatch key_missing chain_missing bad_pem encrypted_key unreadable "
        "renewal_in_progress no_matching_name bad_name staging self_signed lost_to_other symlink_outside_store "
        "not_a_regular_file too_large unsupported_key refused_by_openssl kept_last_good"
    )
    assert set(reasons(crowd.document)) == set(text.split())


def test_nothing_secret_is_said(crowd: Crowd) -> None:
    """No line of a private key, and nothing of a file outside the store."""
    shadow = [line for line in Path("/etc/shadow").read_text().splitlines() if len(line) > 8]
    forbidden = {SECRET, *shadow, *_lines_of(crowd.planted_keys)}
    assert len(forbidden) > 300
    for words, text in crowd.said.items():
        assert [one for one in forbidden if one in text] == [], words
        assert "PRIVATE KEY" not in text, words


def _lines_of(keys: list[bytes]) -> set[str]:
    """The lines of PEM bodies; the last one of a key may be too short to mean anything."""
    texts = (key.decode("ascii", "replace") for key in keys)
    return {line for text in texts for line in re.findall(r"^[A-Za-z0-9+/=]{32,}$", text, re.MULTILINE)}


def test_everything_that_is_said_can_be_shown_on_a_terminal(crowd: Crowd) -> None:
    for words, text in crowd.said.items():
        assert [line for line in text.splitlines() if not (line.isascii() and line.isprintable())] == [], words


def test_no_hostile_text_and_no_secret_reaches_a_file(crowd: Crowd) -> None:
    """Only the pinned files and the compiled map hold keys, and only those of certificates that are served."""
    mail_host = crowd.mail_host
    artifacts = [mail_host.map, mail_host.include_file]
    for path in artifacts:
        text = path.read_text("ascii")
        assert [one for one in ("ssl = no", "7*7", "{%", "\x1b", '"x') if one in text] == [], path
    keys = _lines_of(crowd.planted_keys)
    for path in (*artifacts, *(mail_host.directory / "state").iterdir()):
        text = path.read_text("ascii")
        assert [one for one in (SECRET, *keys) if one in text] == [], path
    for path in mail_host.pin_directory.iterdir():
        assert SECRET not in path.read_text("ascii"), path


def test_the_artifacts_have_their_modes(crowd: Crowd) -> None:
    mail_host = crowd.mail_host
    compiled = mail_host.map.with_name("mailsni.cdb")
    pins = list(mail_host.pin_directory.iterdir())
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (mail_host.map, compiled, *pins)}
    assert len(pins) > 50
    assert [path for path, mode in modes.items() if mode != 0o600] == []
    assert stat.S_IMODE(mail_host.include_file.lstat().st_mode) == 0o644
    assert stat.S_IMODE(mail_host.pin_directory.lstat().st_mode) == 0o700
    assert stat.S_IMODE((mail_host.directory / "state").lstat().st_mode) == 0o700


def test_once_the_bad_ones_are_gone_all_is_well(mail_host: MailHost) -> None:
    issued = mail_host.issue(GOOD, lineage="good")
    names = {}
    for kind in ("key_of_another_certificate", "key_is_a_fifo", "name_with_newline"):
        builder = LineageBuilder(
            mail_host.store, mail_host.authority, f"mail.{label(kind)}.test", label(kind), Path("/")
        )
        BAD[kind].plant(builder)
        names[builder.name] = builder
    mail_host.apply(code=4)
    for builder in names.values():
        mail_host.store.delete(builder.lineage)
    assert json.loads(mail_host.apply("--json").stdout)["skipped"] == []
    mail_host.assert_served(GOOD, issued)


def test_a_good_name_beside_a_hostile_one_in_the_same_certificate_is_served(mail_host: MailHost) -> None:
    hostile = "mail.x.test\n}\nssl = no\n#"
    issued = mail_host.issue(GOOD, hostile, lineage="both")
    done = mail_host.apply("--json", code=4)
    assert reasons(json.loads(done.stdout)) == {"bad_name": False}
    mail_host.assert_served(GOOD, issued)
    assert mail_host.served("imaps", "mail.x.test") == mail_host.default.fingerprint


def test_a_staging_certificate_does_not_take_the_place_of_the_one_that_is_served(mail_host: MailHost) -> None:
    """``certbot --staging`` over a lineage that is in use: the last good certificate is still valid."""
    issued = mail_host.issue(GOOD, lineage="good")
    mail_host.issue(OTHER, lineage="other")
    mail_host.apply()
    mail_host.store.renew("good", mail_host.authority.issue([GOOD], issuer_name="(STAGING) Sandbox E1"))
    done = mail_host.mailsni("apply", "--json")
    assert "kept_last_good" in reasons(json.loads(done.stdout))
    mail_host.assert_served(GOOD, issued)


def test_what_the_user_may_not_read_is_skipped_as_unreadable(shared_tmp: Path, authority: Authority) -> None:
    """As root nothing is unreadable, so another user runs the program, in a directory of his."""
    store = CertbotDirectory(shared_tmp / "letsencrypt")
    for name in (GOOD, "mail.closed.test", "mail.shut.test"):
        store.add(name, authority.issue([name]))
    for directory in (store.live, store.archive):
        directory.chmod(0o755)
    (store.archive / GOOD / "privkey1.pem").chmod(0o644)
    (store.live / "mail.shut.test").chmod(0o700)
    home = shared_tmp / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    config = serverless(home, store)
    config.chmod(0o644)
    done = run_mailsni(config, "apply", "--json", before=AS_NOBODY)
    assert done.returncode == 4, done.stdout + done.stderr
    document = json.loads(done.stdout)
    found = {Path(one["source"]).name: one["reason"] for one in document["skipped"]}
    assert found == {"mail.closed.test": "unreadable", "mail.shut.test": "unreadable"}
    assert [change["name"] for change in document["changes"]] == [GOOD]
