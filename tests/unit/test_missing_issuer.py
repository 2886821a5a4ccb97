"""A store that lacks the certificate of an issuer: who says so."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailsni.deploy.host_facts import HostFacts
from mailsni.deploy.snapshot import Snapshot, take_snapshot
from mailsni.deploy.transaction import Options, apply
from mailsni.doctor.checks.stores import incomplete_chains
from mailsni.doctor.finding import Facts
from mailsni.output import documents, text
from mailsni.runs.history import EMPTY_HISTORY
from tests.support.layout_stores import write
from tests.support.pem_stores import PemTreeBuilder
from tests.unit.test_mixed_stores import Host, host

__all__ = ["host"]


def of_a_tree(host: Host) -> Snapshot:
    store = host.stores["pem-tree"]
    assert isinstance(store, PemTreeBuilder)
    write(store.chain("a"), host.issue("pem-tree", 1).leaf_pem)
    return take_snapshot(host.settings, datetime.now(UTC), sources=[store.source()])


def test_status_json_doctor_and_apply_tell_it(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = of_a_tree(host)
    origin = host.stores["pem-tree"].origin("a")
    text.status(snapshot, EMPTY_HISTORY, skipped=False)
    assert f"without the issuer's certificate, which clients need: {origin}: mailsni doctor" in capsys.readouterr().out
    names = documents.status(snapshot)["names"]
    assert [each["issuer_missing"] for name in names for each in name["certificates"]] == [True, True]
    (finding,) = incomplete_chains(Facts(HostFacts(host.settings, snapshot.now, snapshot=snapshot)))
    assert (finding.code, finding.where) == ("chain_incomplete", origin)
    (warning,) = apply(snapshot, Options(reload=False)).warnings
    assert warning.startswith(f"{origin}: published without the issuer's certificate")


def test_nobody_tells_it_of_a_whole_chain(host: Host, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    host.issue("pem-tree", 1)
    snapshot = take_snapshot(host.settings, datetime.now(UTC), sources=[host.stores["pem-tree"].source()])
    text.status(snapshot, EMPTY_HISTORY, skipped=False)
    assert "issuer" not in capsys.readouterr().out.replace(str(tmp_path), "")
    assert list(incomplete_chains(Facts(HostFacts(host.settings, snapshot.now, snapshot=snapshot)))) == []
