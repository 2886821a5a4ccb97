"""Fixtures of the tests of faults: see tests/support/fault_host.py for what they hand out."""

from __future__ import annotations

import compileall
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import mailsni
from mailsni.sandbox.servers import workspace
from tests.support.authority import Authority
from tests.support.fault_host import FaultCertificates, strace_unavailable
from tests.support.mail_host import DEFAULT_NAME, require
from tests.support.servers import PrivateDovecot, PrivatePostfix


@pytest.fixture(scope="session", autouse=True)
def _ready() -> None:
    """What the tests need is there; in the lab, which is thrown away afterwards, the program starts faster compiled."""
    for missing in (strace_unavailable(), PrivatePostfix.unavailable(), PrivateDovecot.unavailable()):
        require(missing)
    if os.environ.get("MAILSNI_LAB_RELEASE"):
        compileall.compile_dir(Path(mailsni.__file__).parent, quiet=1)


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def certificates(authority: Authority) -> FaultCertificates:
    return FaultCertificates.of(authority, authority.issue([DEFAULT_NAME]))


@pytest.fixture
def shared_tmp() -> Iterator[Path]:
    """A directory that the servers' users can pass through (they cannot pass through ``tmp_path``)."""
    with workspace() as directory:
        yield directory
