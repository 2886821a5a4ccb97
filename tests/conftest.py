"""What all tests have in common: the guard, figures that a run is to show, and which of them run on which release."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from mailsni.sandbox.servers import workspace
from mailsni.sources import directory, document, pem_tree
from tests.support.authority import Authority
from tests.support.host_guard import UnprotectedHostError, protect_host
from tests.support.lineages import CertbotDirectory
from tests.support.purity import PURE, impure_events
from tests.support.release_split import is_of, share
from tests.support.strategies import EFFORT, QUICK_CASES, effort

settings.register_profile("mailsni", parent=effort(100))
settings.load_profile("mailsni")

_FIGURE = "figure"


def pytest_configure() -> None:
    """Before anything is collected: no test may reach the host's own directories, or write what others can change."""
    os.umask(0o022)
    try:
        protect_host()
    except UnprotectedHostError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(autouse=True)
def _pure_tests_start_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """What starts processes or opens ports belongs in tests/system."""
    with impure_events() as events:
        yield
    if request.path.parent.name in PURE:
        assert events == []


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store does not wait long for a writer."""
    for module in (directory, document, pem_tree):
        monkeypatch.setattr(module, "RETRY_PAUSE", 0.001)


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def store(tmp_path: Path) -> CertbotDirectory:
    return CertbotDirectory(tmp_path / "letsencrypt")


@pytest.fixture
def shared_tmp() -> Iterator[Path]:
    """A directory that the servers' users can pass through (they cannot pass through ``tmp_path``)."""
    with workspace() as directory:
        yield directory


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what another release runs; begin with what takes longest, or the others wait for it at the end."""
    functions = {_function(item): _release(item) for item in items if _is_shared(item)}
    ours = set(share([function for function, release in functions.items() if release is None]))
    ours |= {function for function, release in functions.items() if release is not None and is_of(release)}
    left_out = {item for item in items if _is_shared(item) and _function(item) not in ours}
    if not EFFORT:
        left_out |= set(_beyond_a_few(items))
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def _beyond_a_few(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """The cases of each test but a few."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[_function(item)].append(item)
    for of_one in cases.values():
        kept = of_one[:: max(1, len(of_one) // QUICK_CASES)][:QUICK_CASES]
        yield from (item for item in of_one if item not in kept)


def _is_shared(item: pytest.Item) -> bool:
    """Whether one release is enough; ``on_both`` marks the exceptions in a module that is shared."""
    return item.get_closest_marker("shared") is not None and item.get_closest_marker("on_both") is None


def _release(item: pytest.Item) -> str | None:
    """Which release runs it, where that is said: ``shared("trixie")``. Else they take turns."""
    mark = item.get_closest_marker("shared")
    return str(mark.args[0]) if mark is not None and mark.args else None


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]
