"""What every target must do, whichever server it is: a new target joins by its name in ``SERVERS``.

Most of it is about files, so the servers run only where something is reloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailsni.config.parser import load
from mailsni.core.deployment import Deployment, DeploymentRecord
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.host import file_identity, files
from mailsni.host.commands import find_tool
from mailsni.probes.endpoint import Server
from mailsni.targets import registry
from mailsni.targets.base import Stage, Target, TargetName
from mailsni.targets.reload import ReloadResult
from tests.support.mail_host import MailHost
from tests.support.servers import PrivateDovecot, PrivatePostfix

pytestmark = pytest.mark.shared

SERVERS: Sequence[Server] = ("postfix", "dovecot")


def snapshot_of(mail_host: MailHost) -> Snapshot:
    return take_snapshot(load(mail_host.config, required=True), datetime.now(UTC))


def target_in(snapshot: Snapshot, server: TargetName) -> Target:
    return next(target for target in snapshot.targets if target.name == server)


def staged(snapshot: Snapshot, target: Target, directory: Path) -> Stage:
    """What a target stages for a snapshot in a private directory, with the pinned files in their places."""
    directory.mkdir(mode=0o700)
    if snapshot.plan.pins:
        files.ensure_directory(snapshot.pins.path, 0o700)
        with files.staging(snapshot.pins.path) as private:
            snapshot.pins.publish(snapshot.plan.pins, private)
    return target.stage(directory, snapshot.texts[target.name], snapshot.selection, snapshot.pins)


def publish(snapshot: Snapshot, target: Target, stage: Stage) -> DeploymentRecord:
    """Put what was staged in its places; the record that a deployment leaves of it."""
    for file in stage.files:
        file.path.rename(file.destination)
    published = {str(file.destination): file_identity.published(file.destination) for file in stage.files}
    deployment = Deployment.of(
        snapshot.selection,
        snapshot.pins.path,
        files={path: file for path, file in published.items() if file is not None},
        memories={target.name: stage.memory},
    )
    return DeploymentRecord(deployment, trusted=True)


@pytest.fixture
def mail_host(idle_mail_host: MailHost) -> MailHost:
    return idle_mail_host


def server_of(mail_host: MailHost, name: TargetName) -> PrivatePostfix | PrivateDovecot:
    return mail_host.postfix if name == "postfix" else mail_host.dovecot


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    name: Server = request.param
    return name


@pytest.fixture
def deployable(mail_host: MailHost, server: Server) -> tuple[Snapshot, Target]:
    mail_host.issue("mail.a.test", "mail.b.test")
    snapshot = snapshot_of(mail_host)
    return snapshot, target_in(snapshot, server)


def test_the_same_selection_renders_the_same_bytes(mail_host: MailHost, deployable: tuple[Snapshot, Target]) -> None:
    snapshot, target = deployable
    again = target_in(snapshot_of(mail_host), target.name).render(snapshot.selection, snapshot.pins, None)
    assert again == snapshot.texts[target.name]
    assert b"mail.a.test" in again
    assert target.path in target.artifacts_in_use
    assert set(target.artifacts_in_use) <= set(target.artifacts)


def test_what_is_staged_and_published_needs_no_change_until_somebody_touches_it(
    deployable: tuple[Snapshot, Target],
) -> None:
    snapshot, target = deployable
    text = snapshot.texts[target.name]
    nothing = DeploymentRecord(Deployment(), trusted=True)
    assert target.change_reason(nothing, text) is not None
    record = publish(snapshot, target, staged(snapshot, target, target.path.parent / ".staging"))
    assert target.change_reason(record, text) is None
    assert target.change_reason(record, text + b"# more\n") is not None
    assert target.change_reason(replace(record, trusted=False, interrupted=True), text) is not None
    target.path.write_bytes(text + b"# an edit\n")
    assert target.change_reason(record, text) is not None


def test_a_file_that_others_may_write_must_be_published_again(deployable: tuple[Snapshot, Target]) -> None:
    snapshot, target = deployable
    record = publish(snapshot, target, staged(snapshot, target, target.path.parent / ".staging"))
    for file in (path for path in target.artifacts if path.exists()):
        mode = file.stat().st_mode
        file.chmod(0o666)
        assert target.change_reason(record, snapshot.texts[target.name]) is not None, file
        file.chmod(mode)


def test_a_stage_writes_nothing_but_its_directory_and_publishes_only_artifacts(
    deployable: tuple[Snapshot, Target],
) -> None:
    snapshot, target = deployable
    before = {path: path.read_bytes() for path in target.artifacts if path.exists()}
    directory = target.path.parent / ".staging"
    stage = staged(snapshot, target, directory)
    assert {path: path.read_bytes() for path in target.artifacts if path.exists()} == before
    assert stage.files
    for file in stage.files:
        assert file.destination in target.artifacts
        assert file.path.is_relative_to(directory)
        assert file.previous is None or file.previous.is_relative_to(directory)


def test_what_a_stage_keeps_for_the_way_back_is_a_copy_of_what_it_replaces(
    mail_host: MailHost, deployable: tuple[Snapshot, Target]
) -> None:
    snapshot, target = deployable
    publish(snapshot, target, staged(snapshot, target, target.path.parent / ".staging"))
    live = {path: (path.read_bytes(), path.stat().st_mode) for path in target.artifacts if path.exists()}
    mail_host.issue("mail.c.test")
    after = snapshot_of(mail_host)
    stage = staged(after, target_in(after, target.name), target.path.parent / ".staging-again")
    kept = {file.destination: file.previous for file in stage.files}
    assert set(kept) == set(live)
    for path, previous in kept.items():
        assert previous is not None
        assert (previous.read_bytes(), previous.stat().st_mode) == live[path]
        assert previous.stat().st_ino != path.stat().st_ino, "a link is no copy"


def test_a_server_that_does_not_name_the_files_is_not_configured(mail_host: MailHost, server: Server) -> None:
    mail_host.issue("mail.a.test")
    configured = target_in(snapshot_of(mail_host), server)
    assert configured.is_configured
    assert configured.not_configured_reason({}) is None
    elsewhere = mail_host.directory / "elsewhere.conf"
    mail_host.configure(postfix={"map": str(elsewhere)}, dovecot={"include_file": str(elsewhere)})
    target = target_in(snapshot_of(mail_host), server)
    assert not target.is_configured
    reason = target.not_configured_reason({}) or ""
    assert reason.startswith(f"{server}: ")
    assert str(elsewhere) in reason


def test_its_endpoints_are_those_that_the_server_listens_on(
    mail_host: MailHost, deployable: tuple[Snapshot, Target]
) -> None:
    target = deployable[1]
    found = target.endpoints()
    assert {endpoint.server for endpoint in found} == {target.name}
    assert {endpoint.port for endpoint in found} == set(server_of(mail_host, target.name).endpoints.values())


ACTIONS: dict[str, tuple[object, ReloadResult]] = {
    "reload": ("auto", ReloadResult.RELOADED),
    "none": ("none", ReloadResult.LEFT_ALONE),
    "a command": ([str(find_tool("true"))], ReloadResult.COMMANDED),
}


def reload(mail_host: MailHost, server: Server, action: object) -> ReloadResult:
    mail_host.configure(**{server: {"action": action}})
    (target,) = (one for one in registry.find_all(load(mail_host.config, required=True)) if one.name == server)
    return target.reload()


@pytest.mark.parametrize(("action", "result"), ACTIONS.values(), ids=ACTIONS)
def test_a_reload_does_what_the_configuration_says(
    mail_host: MailHost, server: Server, action: object, result: ReloadResult
) -> None:
    with server_of(mail_host, server):
        assert reload(mail_host, server, action) is result


@pytest.mark.parametrize("action", ["auto", "restart"])
def test_a_server_that_does_not_run_is_not_started(mail_host: MailHost, server: Server, action: str) -> None:
    assert reload(mail_host, server, action) is ReloadResult.NOT_RUNNING
    assert not server_of(mail_host, server).running()


def test_the_registry_knows_every_server(mail_host: MailHost) -> None:
    settings = load(mail_host.config, required=True)
    assert [target.name for target in registry.find_all(settings)] == list(SERVERS)
    assert registry.texts(settings) == tuple(target.path for target in registry.find_all(settings))
    for target in registry.find_all(settings):
        assert target.path.parent in registry.writable_directories(settings)
