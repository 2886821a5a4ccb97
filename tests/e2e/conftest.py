"""Fixtures of the end-to-end tests: see tests/support/mail_host.py for what they hand out."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailsni.sandbox.authority import Issued
from mailsni.sandbox.servers import workspace
from tests.support.authority import Authority
from tests.support.doctor_host import DoctorHost, new_doctor_host
from tests.support.lineages import CertbotDirectory
from tests.support.mail_host import DEFAULT_NAME, Certbot, MailHost, acme_server, require


@pytest.fixture(scope="session")
def default(authority: Authority) -> Issued:
    """The certificate that servers present to clients that ask for nothing they know."""
    return authority.issue([DEFAULT_NAME])


@pytest.fixture(autouse=True)
def _alone_on_the_host(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests that use a real host's paths never run side by side, in whichever processes they are."""
    if request.node.get_closest_marker("real_host") is None:
        yield
        return
    with Path(tempfile.gettempdir(), "mailsni-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def mail_host(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    shared_tmp: Path,
    authority: Authority,
    default: Issued,
    store: CertbotDirectory,
) -> Iterator[MailHost]:
    """Both servers run. Of a test marked ``lasting_logins`` Dovecot's login processes serve many clients.

    With its default of one process for each client every reload, whoever asks for it, cuts off those who connect at
    that very moment; benchmarks/clients.py has the numbers.
    """
    lasting = request.node.get_closest_marker("lasting_logins") is not None
    host = MailHost.build(tmp_path, shared_tmp, authority, default, store, lasting_logins=lasting)
    with host.postfix, host.dovecot:
        yield host


@pytest.fixture(scope="module")
def lasting_mail_host(
    authority: Authority, default: Issued, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MailHost]:
    """One mail host for tests that leave it in order, so that the servers are started once."""
    with workspace() as rooms:
        directory = tmp_path_factory.mktemp("host")
        store = CertbotDirectory(directory / "le")  # short, or messages cut hostile names off
        host = MailHost.build(directory, rooms, authority, default, store)
        with host.postfix, host.dovecot:
            yield host


@pytest.fixture
def idle_mail_host(
    tmp_path: Path, shared_tmp: Path, authority: Authority, store: CertbotDirectory, default: Issued
) -> MailHost:
    """Both servers, installed and configured, but not started; Postfix's tools need not wait for main.cf to settle."""
    mail_host = MailHost.build(tmp_path, shared_tmp, authority, default, store)
    mail_host.postfix.settle()
    return mail_host


@pytest.fixture
def certbot(tmp_path: Path, authority: Authority) -> Iterator[Certbot]:
    """A certbot with an ACME server of its own."""
    require(Certbot.unavailable())
    directory = tmp_path / "acme"
    directory.mkdir()
    with acme_server(directory, authority) as program:
        yield program


@pytest.fixture(scope="module")
def _doctor_host(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoctorHost]:
    with new_doctor_host(authority, tmp_path_factory.mktemp("doctor")) as host:
        yield host


@pytest.fixture(scope="module")
def _renewable(
    _doctor_host: DoctorHost, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    require(Certbot.unavailable())
    with acme_server(tmp_path_factory.mktemp("acme"), authority) as acme:
        _doctor_host.fill_by(acme)
        yield


@pytest.fixture
def renewable_host(_renewable: None, doctor_host: DoctorHost) -> DoctorHost:
    """The same, and a real certbot renews lineages of its store."""
    return doctor_host


@pytest.fixture
def doctor_host(_doctor_host: DoctorHost) -> Iterator[DoctorHost]:
    """A host in order; it is put back as it was after each test."""
    yield _doctor_host
    _doctor_host.put_back()
