"""Spans for OpenTelemetry: one a request, where the package is installed and `OTEL_*` asks for it. Nothing is loaded otherwise.

A span has the route's template, the method and the status; never an address as it was sent, a body or a header.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from keyvault.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

SERVICE_NAME = "keyvault"
SERVER_ERROR = 500


class CallSpan:
    """The span of a request that is being answered."""

    def __init__(self, span: Span) -> None:
        """Wrap what OpenTelemetry made."""
        self._span = span

    def end_with(self, route: str, status: int) -> None:
        """Say what was answered."""
        from opentelemetry.trace import StatusCode

        self._span.update_name(route)
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        if status >= SERVER_ERROR:
            self._span.set_status(StatusCode.ERROR)


class Tracing:
    """Makes spans, and hands them to the exporters that the environment names."""

    def __init__(self, exporters: list[str]) -> None:
        """`exporters`: names as in `OTEL_TRACES_EXPORTER`. `ConfigurationError` where one is not installed."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = Resource.create({} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": SERVICE_NAME})
        self._provider = TracerProvider(resource=named)
        for name in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
        self._tracer = self._provider.get_tracer(SERVICE_NAME)

    @contextmanager
    def span(self, scope: MutableMapping[str, Any]) -> Iterator[CallSpan]:
        """Be in a span that continues the caller's trace (W3C `traceparent`). What is raised leaves its class, not its message."""
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracer.start_as_current_span(
            "request",
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"]},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield CallSpan(span)
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR)
                raise

    def close(self) -> None:
        """Hand over what is not handed over yet."""
        self._provider.shutdown()


def configured_tracing(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Return tracing as the environment asks for it, or None. `ConfigurationError` where what it asks for is not installed."""
    asked = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if _has_endpoint(environment) else "none")
    names = [name.strip() for name in asked.split(",") if name.strip() not in {"", "none"}]
    if not names or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        return Tracing(names)
    except ImportError as error:
        raise ConfigurationError(
            "OTEL_* asks for traces, and OpenTelemetry is not installed: install keyvault-shredder[opentelemetry]"
        ) from error


def _has_endpoint(environment: Mapping[str, str]) -> bool:
    return any(environment.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT") for part in ("", "TRACES_"))


def _exporter(name: str) -> Any:
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        raise ConfigurationError(
            f"OTEL_TRACES_EXPORTER asks for {name}, and no such exporter is installed: "
            "install its package (opentelemetry-exporter-otlp-proto-http for otlp), or set it to none"
        )
    return found[0].load()()
