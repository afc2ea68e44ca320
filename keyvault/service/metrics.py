"""Metrics for Prometheus, summed over all workers by way of files that they share. No label names a scope, a token or a person."""

from __future__ import annotations

import os
import platform
from bisect import bisect_left
from importlib.metadata import version
from time import perf_counter
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from keyvault.service.notes import CallNote

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where workers write their metrics, so that any of them can answer for all; prometheus-client's own variable."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Tally:
    """What was counted of the answers of one route and status, since it was shown last."""

    __slots__ = ("buckets", "keys", "requests", "seconds")

    def __init__(self) -> None:
        """Nothing was."""
        self.requests = 0
        self.keys = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(SECONDS) + 1)


class Tallied(Histogram):
    """A histogram over `SECONDS` that takes what was counted elsewhere."""

    def add(self, tally: Tally) -> None:
        """Add to it."""
        self._sum.inc(tally.seconds)
        for bucket, count in zip(self._buckets, tally.buckets, strict=True):
            if count:
                bucket.inc(count)


class Metrics:
    """The metrics of a worker."""

    def __init__(self) -> None:
        """Start from nothing, in a registry of its own."""
        own = CollectorRegistry()
        self._registry = CollectorRegistry() if os.environ.get(DIRECTORY_VARIABLE) else own
        if self._registry is not own:
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._requests = Counter("keyvault_requests", "Requests answered.", ["route", "status"], registry=own)
        self._seconds = Tallied(
            "keyvault_request_seconds",
            "From a request's headers to its answer's end.",
            ["route"],
            buckets=SECONDS,
            registry=own,
        )
        self._keys = Counter("keyvault_keys_issued", "Data keys given out, by the call.", ["route"], registry=own)
        self._errors = Counter(
            "keyvault_errors", "Errors of calls and of items in them, by their class.", ["type"], registry=own
        )
        self._parts = Histogram(
            "keyvault_part_seconds",
            "How long the database and the engine took to answer probes.",
            ["part"],
            buckets=SECONDS,
            registry=own,
        )
        self.kept_keys = Gauge(
            "keyvault_kept_keys", "Wrapping keys in memory under a lease.", multiprocess_mode="livesum", registry=own
        )
        self.connections = Gauge("keyvault_connections", "Open connections.", multiprocess_mode="livesum", registry=own)
        self.open = Gauge(
            "keyvault_workers_open", "Workers whose home is open.", multiprocess_mode="livesum", registry=own
        )
        build = Gauge(
            "keyvault_build_info",
            "The version that runs.",
            ["version", "python"],
            multiprocess_mode="livemax",
            registry=own,
        )
        build.labels(version("keyvault-shredder"), platform.python_version()).set(1)
        self._counted: dict[tuple[str, int], Tally] = {}

    def request(self, route: str, status: int, seconds: float, note: CallNote) -> None:
        """Count a request, for the event loop; `flush` tells. `route` must be a template, `status` 0 where the connection ended before the answer began."""
        tally = self._counted.get((route, status))
        if tally is None:
            tally = self._counted[route, status] = Tally()
        tally.requests += 1
        tally.seconds += seconds
        tally.buckets[bisect_left(SECONDS, seconds)] += 1
        tally.keys += note.keys
        for kind, count in note.errors.items():
            self._errors.labels(kind).inc(count)

    def flush(self) -> None:
        """Add what was counted to what is shown, in the event loop: once a second, as each addition is a write to a shared file."""
        counted, self._counted = self._counted, {}
        for (route, status), tally in counted.items():
            self._requests.labels(route, str(status)).inc(tally.requests)
            self._seconds.labels(route).add(tally)
            if tally.keys:
                self._keys.labels(route).inc(tally.keys)

    def timing(self, part: str) -> Timing:
        """Measure what is done in the context."""
        return Timing(self._parts.labels(part))

    def expose(self) -> bytes:
        """Return the metrics of all workers, as of when each of them flushed last. May be called in a thread."""
        return generate_latest(self._registry)


class Timing:
    """Tells a histogram how long its context took, when nothing was raised in it."""

    def __init__(self, histogram: Histogram) -> None:
        """Measure for `histogram`."""
        self._histogram = histogram

    def __enter__(self) -> None:
        self._since = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._histogram.observe(perf_counter() - self._since)
