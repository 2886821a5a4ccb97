"""What monitoring wants to know, as Prometheus metrics: absolute times in seconds, all reasons there from the start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mailsni import __version__
from mailsni.inspection import Client, Concern, Inspection, Shown
from mailsni.inventory import Reason
from mailsni.monitoring import Look
from mailsni.observation import Observation
from mailsni.report import documents
from mailsni.runs import History

_STATES = ("deployed", "pending", "kept", "leaving")
_ENDPOINT = ("server", "protocol", "host", "port")


def exposition(look: Look) -> bytes:
    """The text format of Prometheus, version 0.0.4."""
    return generate_latest(_registry(look))


def document(look: Look) -> dict[str, Any]:
    """The same samples as a JSON document."""
    return {
        "schema": "mailsni.metrics/1",
        "samples": [
            {"name": sample.name, "labels": dict(sample.labels), "value": sample.value}
            for metric in _registry(look).collect()
            for sample in metric.samples
        ],
    }


def _registry(look: Look) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(look))
    return registry


class _Collector(Collector):
    def __init__(self, look: Look) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """All families, each with its samples."""
        look = self._look
        yield _gauge("build_info", "The version that made these metrics.", {(("version", __version__),): 1})
        worked = look.observation is not None
        yield _gauge("up", "Whether the stores, the servers' configurations and the state could be read.", {(): worked})
        yield from _of_runs(look.history)
        if look.observation is not None:
            yield from _of_names(look.observation)
        if look.inspection is not None:
            yield from _of_the_wire(look.inspection)


_Labels = tuple[tuple[str, str], ...]


def _gauge(name: str, about: str, samples: Mapping[_Labels, float]) -> Metric:
    """A family of gauges; all its samples have the same labels."""
    labels = [label for label, _ in next(iter(samples), ())]
    family = GaugeMetricFamily(f"mailsni_{name}", about, labels=labels)
    for key, value in samples.items():
        family.add_metric([text for _, text in key], float(value))
    return family


def _of_runs(history: History) -> Iterator[Metric]:
    last, good = history.last, history.last_good
    if last is not None:
        yield _gauge("last_run_timestamp_seconds", "When the last apply ended.", {(): last.ended.timestamp()})
        seconds = (last.ended - last.begun).total_seconds()
        yield _gauge("last_run_duration_seconds", "How long the last apply took.", {(): seconds})
        yield _gauge("last_run_success", "Whether the last apply did its work (exit code 0 or 4).", {(): last.good})
        yield _gauge("last_run_exit_code", "The exit code of the last apply.", {(): last.exit_code})
        yield _gauge("last_run_info", "What started the last apply.", {(("by", last.by),): 1})
    if good is not None:
        about = "When the last apply ended that did its work."
        yield _gauge("last_success_timestamp_seconds", about, {(): good.ended.timestamp()})


def _of_names(seen: Observation) -> Iterator[Metric]:
    states = Counter(state for _, state in documents.name_states(seen))
    yield _gauge(
        "names", "How many names there are in each state.", {(("state", one),): states[one] for one in _STATES}
    )
    yield _gauge(
        "store_not_after_timestamp_seconds",
        "notAfter of the certificate in the stores that a name is to be served.",
        {
            (*_of(winner.name, one.algorithm), ("source", one.source)): _seconds(one.not_after)
            for winner in seen.selection.winners
            for one in winner.certificates
        },
    )
    deployed = seen.record.deployment
    pairs = [(name, one) for name in sorted(deployed.names) for one in deployed.of_name(name)]
    yield _gauge(
        "deployed_not_before_timestamp_seconds",
        "notBefore of the certificate that is deployed for a name.",
        {_of(name, one.algorithm): _seconds(one.not_before) for name, one in pairs},
    )
    yield _gauge(
        "deployed_not_after_timestamp_seconds",
        "notAfter of the certificate that is deployed for a name.",
        {_of(name, one.algorithm): _seconds(one.not_after) for name, one in pairs},
    )
    yield _gauge("pending", "Whether apply would change anything.", {(): seen.plan.pending})
    reasons = Counter(one.reason for one in seen.selection.skipped)
    yield _gauge(
        "skipped",
        "How many certificates are not served as they lie in the stores, by reason.",
        {(("reason", str(one)),): reasons[one] for one in Reason},
    )
    about = "How many of the skipped certificates a person should look at."
    yield _gauge("problems", about, {(): len(seen.selection.problems)})


def _of_the_wire(inspection: Inspection) -> Iterator[Metric]:
    named = [one for one in inspection.shown if one.client is Client.NAMED]
    others = [one for one in inspection.shown if one.client is not Client.NAMED]
    yield _gauge(
        "served_as_intended",
        "Whether a server shows what is meant, for a name at a port; algorithm: the only kind that the client takes.",
        {(*_of(one.name or "", one.algorithm or ""), *_endpoint(one)): not one.wrong for one in named},
    )
    yield _gauge(
        "served_to_others",
        "Whether a server shows any valid certificate to a client without SNI, or with a name that nobody has.",
        {(("client", str(one.client)), *_endpoint(one)): not one.wrong for one in others},
    )
    yield _gauge("answers", "How many answers have something wrong with them, by what it is.", _concerns(inspection))


def _concerns(inspection: Inspection) -> dict[_Labels, float]:
    servers: Sequence[str] = sorted({one.endpoint.server for one in inspection.shown})
    found = Counter((one.endpoint.server, concern) for one in inspection.shown for concern in one.concerns)
    return {
        (("server", server), ("concern", str(concern))): found[server, concern]  # type: ignore[index]
        for server in servers
        for concern in Concern
    }


def _of(name: str, algorithm: str) -> _Labels:
    return (("name", name), ("algorithm", algorithm))


def _endpoint(one: Shown) -> _Labels:
    endpoint = one.endpoint
    values: Iterable[str] = (endpoint.server, endpoint.protocol, endpoint.host, str(endpoint.port))
    return tuple(zip(_ENDPOINT, values, strict=True))


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
