"""What all tests share: figures that a run is to show, whichever process the test ran in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

_FIGURE = "figure"


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Lines for the end of the whole run: how much there was of what was tried."""
    lines: list[str] = []
    yield lines
    request.node.user_properties.extend((_FIGURE, line) for line in lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print them: they come with the reports of the tests, from the workers of pytest-xdist too."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    ended = [report for report in reports if getattr(report, "when", "") == "teardown"]
    lines = [text for report in ended for name, text in report.user_properties if name == _FIGURE]
    if lines:
        terminalreporter.section("figures")
    for line in lines:
        terminalreporter.write_line(line)
