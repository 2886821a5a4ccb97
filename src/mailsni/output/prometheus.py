"""Prometheus metrics: absolute times in seconds; every reason and problem has a sample from the start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mailsni import __version__
from mailsni.core.model import Reason
from mailsni.core.plan import Kind, NameState, name_states
from mailsni.core.text import printable_name
from mailsni.deploy.snapshot import Snapshot
from mailsni.metrics import MetricsInput
from mailsni.probes.endpoint import Endpoint, Server
from mailsni.probes.model import Problem
from mailsni.runs.history import History
from mailsni.verify.causes import causes_of
from mailsni.verify.model import Audit, Client


def exposition(given: MetricsInput) -> bytes:
    """The text format of Prometheus, version 0.0.4."""
    return generate_latest(_Collector(given))


def document(given: MetricsInput) -> dict[str, Any]:
    """The same samples as a JSON document."""
    return {
        "schema": "mailsni.metrics/1",
        "samples": [
            {"name": sample.name, "labels": dict(sample.labels), "value": sample.value}
            for metric in _Collector(given).collect()
            for sample in metric.samples
        ],
    }


class _Collector(Collector):
    def __init__(self, given: MetricsInput) -> None:
        self._given = given

    def collect(self) -> Iterator[Metric]:
        """All families, each with its samples."""
        given = self._given
        yield _gauge("build_info", "The version that made these metrics.", {(("version", __version__),): 1})
        about = "Whether the stores, the servers' configurations and the state could be read."
        yield _gauge("up", about, {(): given.snapshot is not None})
        if given.wire:
            about = "Whether a server could be probed; absent with --no-wire."
            yield _gauge("wire_up", about, {(("server", server),): up for server, up in _probed(given).items()})
        if given.starts:
            about = "Whether a server would start again with its configuration as it is."
            yield _gauge("can_start", about, {(("server", server),): starts for server, starts in given.starts.items()})
        yield from _of_runs(given.history)
        if given.snapshot is not None:
            yield from _of_names(given.snapshot)
        if given.audit is not None:
            yield from _of_the_wire(given.audit, every_port=given.every_port)


def _probed(given: MetricsInput) -> dict[Server, bool]:
    """Whether there is any answer of a server; of both where nobody knows which ones this host has."""
    assessments = given.audit.assessments if given.audit is not None else ()
    answered = {assessment.endpoint.server for assessment in assessments}
    return {server: server in answered for server in given.starts or get_args(Server)}


_Labels = tuple[tuple[str, str], ...]


def _gauge(name: str, about: str, samples: Mapping[_Labels, float]) -> Metric:
    """A family of gauges; all its samples have the same labels."""
    labels = [label for label, _ in next(iter(samples), ())]
    family = GaugeMetricFamily(f"mailsni_{name}", about, labels=labels)
    for values, value in _worst((tuple(_label(text) for _, text in key), one) for key, one in samples.items()).items():
        family.add_metric(values, float(value))
    return family


def _label(text: str) -> str:
    """The text as it is, if the format can hold it: half a surrogate pair of a damaged record ends the whole scrape."""
    return text if text.isprintable() else printable_name(text)


def _worst(samples: Iterable[tuple[tuple[Any, ...], float]]) -> dict[tuple[Any, ...], float]:
    """Each key once, with the least of its values: Prometheus refuses everything when a sample comes twice."""
    least: dict[tuple[Any, ...], float] = {}
    for key, value in samples:
        least[key] = min(value, least.get(key, value))
    return least


def _of_runs(history: History) -> Iterator[Metric]:
    last, good = history.last, history.last_good
    if last is not None:
        yield _gauge("last_run_timestamp_seconds", "When the last apply ended.", {(): last.ended_at.timestamp()})
        seconds = (last.ended_at - last.started_at).total_seconds()
        yield _gauge("last_run_duration_seconds", "How long the last apply took.", {(): seconds})
        yield _gauge("last_run_success", "Whether the last apply did its work (exit code 0 or 4).", {(): last.good})
        yield _gauge("last_run_exit_code", "The exit code of the last apply.", {(): last.exit_code & 0xFF})
        yield _gauge("last_run_info", "What started the last apply.", {(("trigger", last.trigger),): 1})
    if good is not None:
        about = "When the last apply ended that did its work."
        yield _gauge("last_success_timestamp_seconds", about, {(): good.ended_at.timestamp()})


def _of_names(snapshot: Snapshot) -> Iterator[Metric]:
    selection, plan, deployed = snapshot.selection, snapshot.plan, snapshot.record.deployment
    names = name_states(selection, plan)
    states = Counter(state for _, state in names)
    yield _gauge("names", "How many names there are in each state.", _counts("state", NameState, states))
    yield _gauge(
        "name_state",
        "The state of a name: 1 for the one that it is in, and no sample for the others.",
        {(("name", name), ("state", state)): 1 for name, state in names},
    )
    yield _gauge(
        "store_not_after_timestamp_seconds",
        "notAfter of the certificate in the stores that should be served for a name.",
        {
            (*_of(winner.name, each.algorithm), ("source", each.source)): each.not_after.timestamp()
            for winner in selection.winners
            for each in winner.certificates
        },
    )
    certificates = {
        _of(name, certificate.algorithm): certificate
        for name in sorted(deployed.names)
        for certificate in deployed.certificates_for(name)
    }
    yield _gauge(
        "deployed_not_before_timestamp_seconds",
        "notBefore of the certificate that is deployed for a name.",
        {labels: certificate.not_before.timestamp() for labels, certificate in certificates.items()},
    )
    yield _gauge(
        "deployed_not_after_timestamp_seconds",
        "notAfter of the certificate that is deployed for a name.",
        {labels: certificate.not_after.timestamp() for labels, certificate in certificates.items()},
    )
    yield _gauge("pending", "Whether apply would change anything.", {(): plan.pending})
    kinds = [kind for kind in Kind if kind is not Kind.KEEP]
    changes = {kind: plan.count(kind) for kind in kinds}
    yield _gauge(
        "pending_changes", "How many names apply would change, by kind of change.", _counts("kind", kinds, changes)
    )
    skipped = Counter(each.reason for each in selection.skipped)
    about = "How many certificates in the stores are not served as they are, by reason."
    yield _gauge("skipped", about, _counts("reason", Reason, skipped))
    problems = Counter(each.reason for each in selection.problems)
    about = "How many of the skipped certificates a person should look at, by reason."
    yield _gauge("problems", about, _counts("reason", Reason, problems))


def _of_the_wire(audit: Audit, *, every_port: bool) -> Iterator[Metric]:
    """By endpoint and by name: an endpoint that does not respond is no fault of any name."""
    endpoints = dict.fromkeys(each.endpoint for each in audit.assessments)
    up = {each.endpoint for each in audit.assessments if each.result.reached_tls}
    answered = [each for each in audit.assessments if each.endpoint in up]
    named = [each for each in answered if each.client is Client.NAMED]
    others = [each for each in answered if each.client is not Client.NAMED]
    about = "Whether a port gets as far as TLS with any client."
    yield _gauge("endpoint_up", about, {_endpoint(endpoint): endpoint in up for endpoint in endpoints})
    yield _gauge(
        "endpoint_served_as_intended",
        "Whether a port that is up sends the right certificate for every name.",
        _worst((_endpoint(each.endpoint), not each.wrong) for each in named),
    )
    yield _gauge(
        "name_served_as_intended",
        "Whether every port that is up sends the right certificate for a name.",
        _worst(((("name", each.expectation.name or ""),), not each.wrong) for each in named),
    )
    yield _gauge(
        "served_to_others",
        "Whether a port that is up sends a valid certificate to a client without SNI, or with a name that nobody has.",
        _worst(((("client", str(each.client)), *_endpoint(each.endpoint)), not each.wrong) for each in others),
    )
    if every_port:
        yield _gauge(
            "served_as_intended",
            "Whether a server sends the right certificate, for a name at a port; algorithm: the only kind it accepts.",
            _worst(
                (
                    (
                        *_of(each.expectation.name or "", each.expectation.algorithm or ""),
                        *_endpoint(each.endpoint),
                    ),
                    not each.wrong,
                )
                for each in audit.assessments
                if each.client is Client.NAMED
            ),
        )
    yield _gauge(
        "wrong_names",
        "How many names get wrong answers from a server's ports that are up, by the problem that explains most; not "
        "those that wait for the next apply.",
        _by_problem(
            (server, cause.problem, name)
            for cause in causes_of([each for each in named if not each.outdated])
            if cause.wrong
            for server in cause.servers
            for name in cause.names_at(server)
        ),
    )
    yield _gauge(
        "answers",
        "How many answers of a server have a problem, by problem.",
        _by_problem(
            (each.endpoint.server, problem, at)
            for at, each in enumerate(audit.assessments)
            for problem in each.problems
        ),
    )
    yield _gauge("not_asked", "How many probes the total time did not suffice for.", {(): len(audit.not_asked)})


def _by_problem(items: Iterable[tuple[str, Problem, object]]) -> dict[_Labels, float]:
    """How many different things each server has of each problem, also where there is none."""
    counts = Counter((server, problem) for server, problem, _ in dict.fromkeys(items))
    return {
        (("server", server), ("problem", str(problem))): counts[server, problem]
        for server in get_args(Server)
        for problem in Problem
    }


def _counts(label: str, members: Iterable[str], counts: Mapping[Any, int]) -> dict[_Labels, float]:
    """A sample for every member, also where there is nothing to count."""
    return {((label, str(member)),): counts.get(member, 0) for member in members}


def _of(name: str, algorithm: str) -> _Labels:
    return (("name", name), ("algorithm", algorithm))


def _endpoint(endpoint: Endpoint) -> _Labels:
    address = (("host", endpoint.host), ("port", str(endpoint.port)))
    return (("server", endpoint.server), ("protocol", endpoint.protocol), *address)
