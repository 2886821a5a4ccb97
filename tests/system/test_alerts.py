"""The command that tells somebody of a failed run (tests/scripts/alerts.txt has more of it)."""

from __future__ import annotations

import pytest

from mailsni.errors import HostError
from mailsni.runs import alerts
from mailsni.runs.alerts import Alert


def test_a_command_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "TIMEOUT", 0.2)
    with pytest.raises(HostError, match=r"^/bin/sh: did not end within 0\.2 seconds and was killed$"):
        alerts.deliver(["/bin/sh", "-c", "sleep 600"], Alert("summary", 1, {}), {}, "host", lambda *_: None)
