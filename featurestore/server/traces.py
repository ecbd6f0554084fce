"""OpenTelemetry spans, where it is installed and configured; otherwise nothing, at no cost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Traces:
    """One span for each read, a child of the caller's where `traceparent` names one."""

    tracer: Any

    @classmethod
    def from_environment(cls) -> Self | None:
        """Spans go where OTEL_EXPORTER_OTLP_ENDPOINT says; None where it says nothing, or the SDK is not installed.

        A provider that the process has already set is taken as it is.
        """
        try:
            from opentelemetry import trace
        except ImportError:
            return None
        configured = any(os.environ.get(f"OTEL_EXPORTER_OTLP{t}_ENDPOINT") for t in ("", "_TRACES"))
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            if not configured:
                return None
            try:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
                from opentelemetry.sdk.trace import TracerProvider
                from opentelemetry.sdk.trace.export import BatchSpanProcessor
            except ImportError:
                return None
            provider = TracerProvider()
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            trace.set_tracer_provider(provider)
        return cls(trace.get_tracer("featurestore"))

    @contextmanager
    def span(
        self, headers: Mapping[bytes, bytes], service: str, rows: int, request_id: str
    ) -> Iterator[None]:
        """A span around a read. Keys and values of entities are no part of it."""
        from opentelemetry import propagate

        named = {k.decode("latin-1"): v.decode("latin-1") for k, v in headers.items() if k in _CARRIED}
        attributes = {"fs.service": service, "fs.rows": rows, "fs.request_id": request_id}
        with self.tracer.start_as_current_span(
            "read features", context=propagate.extract(named), attributes=attributes
        ):
            yield


_CARRIED = (b"traceparent", b"tracestate")
