"""Fixtures of the tests of faults: see tests/support/fault_host.py for what they hand out."""

from __future__ import annotations

import compileall
import os
from pathlib import Path

import pytest

import mailsni
from tests.support.authority import Authority
from tests.support.fault_host import FaultCertificates, FaultHost, strace_unavailable
from tests.support.mail_host import require


@pytest.fixture(scope="session", autouse=True)
def _ready() -> None:
    """What the tests need is there; in the lab, which is thrown away afterwards, the program starts faster compiled."""
    require(strace_unavailable())
    if os.environ.get("MAILSNI_LAB_RELEASE"):
        compileall.compile_dir(Path(mailsni.__file__).parent, quiet=1)


@pytest.fixture(scope="session")
def certificates(authority: Authority) -> FaultCertificates:
    return FaultCertificates.of(authority)


@pytest.fixture
def host(shared_tmp: Path, certificates: FaultCertificates) -> FaultHost:
    """A host with a cdb map."""
    return FaultHost.build(shared_tmp / "x", certificates)
