"""Each fault that `mailsni doctor` knows, planted on a real mail host: it is named and placed, and its fix mends it.

The faults are tables in tests/data/doctor; Dovecot's are in test_doctor_dovecot.py.
"""

from __future__ import annotations

import pytest

from mailsni.host.commands import find_tool
from mailsni.runs import starters
from tests.support.doctor_host import DoctorHost, Fault, load_faults
from tests.support.mail_host import require


@pytest.mark.shared("trixie")
@pytest.mark.parametrize("fault", load_faults("postfix"))
def test_a_fault_in_postfix_is_named_and_its_fix_mends_it(doctor_host: DoctorHost, fault: Fault) -> None:
    fault.try_on(doctor_host)


@pytest.mark.shared
@pytest.mark.parametrize("fault", load_faults("stores"))
def test_a_fault_in_a_store_is_named_and_its_fix_mends_it(doctor_host: DoctorHost, fault: Fault) -> None:
    fault.try_on(doctor_host)


@pytest.mark.shared
@pytest.mark.parametrize("fault", load_faults("hooks"))
def test_a_fault_in_what_is_started_is_named_and_its_fix_mends_it(
    doctor_host: DoctorHost, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(None if find_tool("certbot") else "certbot: not installed")
    monkeypatch.setattr(starters, "uptime", lambda: 1e7)  # the machine may run for some minutes only
    fault.try_on(doctor_host)


@pytest.mark.shared("bookworm")
@pytest.mark.parametrize("fault", load_faults("renewals"))
def test_a_fault_that_a_renewal_repairs_is_named_and_its_fix_mends_it(renewable_host: DoctorHost, fault: Fault) -> None:
    fault.try_on(renewable_host)
