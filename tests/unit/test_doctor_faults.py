"""Every code of a finding has a fault that is planted on a real mail host, where its fix is followed to the letter.

What following a fix means is in :meth:`tests.support.doctor_host.Fault.mend_on`.
"""

from __future__ import annotations

import tomllib

from mailsni.doctor.finding import kinds
from tests.support import data

TABLES = ("postfix", "stores", "renewals", "hooks", "dovecot")


def test_every_code_has_a_fault_whose_fix_is_run_or_a_reason_why_it_has_none() -> None:
    planted = {code for table in TABLES for code in tomllib.loads(data.read(f"doctor/{table}.toml"))}
    not_run = tomllib.loads(data.read("doctor/not_run.toml"))
    assert planted | set(not_run) == set(kinds())
    assert planted & set(not_run) == set()
    assert all(not_run.values())
