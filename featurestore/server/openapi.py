"""The OpenAPI document: every route by hand, with examples made of the services that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurestore.ir import Source
from featurestore.server.arrow import CONTENT_TYPE
from featurestore.server.catalog import Catalog, Served
from featurestore.server.oip import datatype
from featurestore.types import Bool, Date, DType, ListType, MapType, String, Timestamp, VectorType, is_float

_ERROR = {
    "type": "object",
    "required": ["error", "type", "request_id"],
    "properties": {"error": {"type": "string"}, "type": {"type": "string"}, "request_id": {"type": "string"}},
}
_REFUSALS = {
    "400": "The request does not fit the service.",
    "401": "The key is missing or unknown.",
    "403": "The key does not cover this.",
    "404": "No such service, version or feature.",
    "408": "The request did not arrive in time.",
    "413": "Too many bytes or rows.",
    "429": "More requests a second than one caller has; see Retry-After.",
    "503": "The store does not answer, or the server sheds load; see Retry-After.",
    "504": "No answer before the deadline.",
}
Json = dict[str, Any]
_ARROW_TYPE = CONTENT_TYPE.decode()
_BYTES: Json = {"schema": {"type": "string", "format": "binary"}}


def describe(catalog: Catalog, *, needs_keys: bool) -> Json:
    """The document, of what is served now."""
    served = next(iter(sorted(catalog.state.newest.values(), key=lambda s: s.name)), None)
    paths = {
        "/get-online-features": {"post": _feast(served)},
        "/v2/models/{service}/infer": {"post": _infer(served, [_service(served)])},
        "/v2/models/{service}/versions/{version}/infer": {
            "post": _infer(served, [_service(served), _version(served)])
        },
        "/features/{service}": {"post": _arrow(served)},
        "/events/{source}": {"post": _events(_stream(catalog))},
        "/capture/predictions": {"post": _returned("predictions", {"model": "m", "version": "1"})},
        "/capture/labels": {"post": _returned("labels", {"name": "late"})},
        "/v2": {"get": _get("The server, by the Open Inference Protocol.")},
        "/v2/health/live": {"get": _get("Whether the server is alive.")},
        "/v2/health/ready": {"get": _get("Whether it should get requests.", unready=True)},
        "/v2/models/{service}": {
            "get": _get("Inputs, outputs and columns of a service.", [_service(served)])
        },
        "/v2/models/{service}/versions/{version}": {
            "get": _get("The same, of one version.", [_service(served), _version(served)])
        },
        "/v2/models/{service}/ready": {
            "get": _get("Whether a service is complete and fresh.", [_service(served)], unready=True)
        },
        "/v2/models/{service}/versions/{version}/ready": {
            "get": _get("The same, of one version.", [_service(served), _version(served)], unready=True)
        },
        "/health": {"get": _get("Whether the process is alive.")},
        "/ready": {
            "get": _get("Store reachable, plan loaded, fresh enough; else what is wrong.", unready=True)
        },
        "/metrics": {"get": _get("Prometheus metrics.", content="text/plain")},
    }
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "featurestore", "version": "1", "description": "Feature vectors over HTTP."},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }
    if needs_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _service(served: Served | None) -> Json:
    return _path("service", {"type": "string", "minLength": 1}, served.name if served else "delay")


def _version(served: Served | None) -> Json:
    return _path(
        "version", {"type": "string", "pattern": "^[0-9]{1,9}$"}, str(served.version) if served else "1"
    )


def _path(name: str, schema: Json, example: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


def _answers(content: Mapping[str, Json], *, unready: bool = False) -> Json:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found: Json = {"200": {"description": "The answer.", "content": dict(content)}}
    found |= {status: {"description": text, "content": error} for status, text in _REFUSALS.items()}
    if unready:
        found["503"] = {
            "description": "Not ready; the body says why.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    return found


def _get(
    summary: str,
    parameters: list[Json] | None = None,
    *,
    content: str = "application/json",
    unready: bool = False,
) -> Json:
    schema: Json = {"type": "object"} if content == "application/json" else {"type": "string"}
    answers = _answers({content: {"schema": schema}}, unready=unready)
    return {"summary": summary, "parameters": parameters or [], "responses": answers}


def _feast(served: Served | None) -> Json:
    lists = {"type": "object", "additionalProperties": {"type": "array", "items": {}}}
    schema: Json = {
        "type": "object",
        "required": ["entities"],
        "properties": {
            "feature_service": {"type": "string", "description": "A service: `delay`, or `delay@2`."},
            "features": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Or `view:feature` each.",
            },
            "entities": {**lists, "description": "A list for each join key and request column."},
            "full_feature_names": {"type": "boolean"},
            "at": {
                "type": ["string", "integer", "null"],
                "description": "A past moment: ISO 8601, or microseconds.",
            },
            "timeout": {"type": ["number", "null"], "exclusiveMinimum": 0, "description": "Seconds."},
        },
    }
    answer = {
        "type": "object",
        "required": ["metadata", "results"],
        "properties": {
            "metadata": {"type": "object"},
            "results": {"type": "array", "items": {"type": "object"}},
        },
    }
    body: Json = {"schema": schema}
    if served is not None:
        columns = {**served.keys, **served.asked}
        body["example"] = {
            "feature_service": served.name,
            "entities": {n: [_value(t)] for n, t in columns.items()},
        }
    return {
        "summary": "Feature vectors as JSON, in the shape of Feast's feature server.",
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": _answers({"application/json": {"schema": answer}}),
    }


def _infer(served: Served | None, parameters: list[Json]) -> Json:
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string"},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    }
    schema = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "maxLength": 256},
            "inputs": {"type": "array", "items": tensor},
            "outputs": {
                "type": "array",
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
            },
            "parameters": {
                "type": "object",
                "properties": {
                    "at": {"type": ["string", "integer", "null"]},
                    "timeout": {"type": ["number", "null"], "description": "Microseconds."},
                    "binary_data_output": {"type": "boolean"},
                },
            },
        },
    }
    body: Json = {"schema": schema}
    if served is not None:
        columns = {**served.keys, **served.asked}
        body["example"] = {
            "inputs": [
                {"name": n, "shape": [1], "datatype": datatype(t), "data": [_value(t)]}
                for n, t in columns.items()
            ]
        }
    return {
        "summary": "Feature vectors as tensors, by the Open Inference Protocol; binary tensors may follow the JSON.",
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": _answers(
            {"application/json": {"schema": {"type": "object"}}, "application/octet-stream": {"schema": {}}}
        ),
    }


def _arrow(served: Served | None) -> Json:
    query = [
        {"name": "at", "in": "query", "schema": {"type": "string"}},
        {"name": "timeout", "in": "query", "schema": {"type": "number", "exclusiveMinimum": 0}},
        {"name": "statuses", "in": "query", "schema": {"type": "boolean"}},
    ]
    return {
        "summary": "Feature vectors as an Arrow IPC stream, in declared types; keys come as one too.",
        "parameters": [_service(served), *query],
        "requestBody": {
            "required": True,
            "content": {_ARROW_TYPE: _BYTES},
        },
        "responses": _answers({_ARROW_TYPE: _BYTES}),
    }


def _stream(catalog: Catalog) -> Source | None:
    return next((s for s in catalog.state.plan.sources if s.stream is not None), None)


def _events(source: Source | None) -> Json:
    event: Json = {"type": "object"}
    body: Json = {"schema": {"type": "array", "items": event}}
    if source is not None:
        values = {n: _event_value(t) for n, t in source.columns}
        body["example"] = [{n: v for n, v in values.items() if v is not None}]
    name = _path(
        "source", {"type": "string", "minLength": 1}, "departures" if source is None else source.name
    )
    lines = {"schema": {"type": "string", "description": "An object a line."}}
    return {
        "summary": "Events in: all of them are kept when the answer comes, or, when one does not fit, none.",
        "parameters": [name],
        "requestBody": {
            "required": True,
            "content": {"application/json": body, "application/x-ndjson": lines, _ARROW_TYPE: _BYTES},
        },
        "responses": _answers({"application/json": {"schema": {"type": "object"}}}),
    }


def _returned(what: str, named: Mapping[str, str]) -> Json:
    schema: Json = {
        "type": "object",
        "required": ["row_ids", "values", next(iter(named))],
        "additionalProperties": False,
        "properties": {
            "row_ids": {"type": "array", "items": {"type": "string", "pattern": "-"}},
            "values": {"type": "array", "items": {}, "description": "One for each row."},
            **{n: {"type": "string"} for n in named},
            "at": {
                "type": ["string", "integer", "array", "null"],
                "description": "When it came to pass: a moment, or one for each row.",
            },
        },
    }
    example = {"row_ids": ["0f3a-0", "0f3a-1"], "values": [True, False], **named}
    counts = {
        "type": "object",
        "required": ["rows", "new", "same", "changed", "unknown", "early"],
        "additionalProperties": {"type": "integer"},
    }
    query = [{"name": n, "in": "query", "schema": {"type": "string"}} for n in named]
    return {
        "summary": f"What came of rows that were served, by their row ids: {what}. On disk when the answer comes.",
        "parameters": query,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}, _ARROW_TYPE: _BYTES},
        },
        "responses": _answers({"application/json": {"schema": counts}}),
    }


def _event_value(dtype: DType) -> Any:
    """A value of an event, as JSON has it; None for those that have none that is short."""
    if dtype == Timestamp:
        return "2026-01-02T03:04:05Z"
    if dtype == Date:
        return "2026-01-02"
    return None if isinstance(dtype, ListType | MapType | VectorType) else _value(dtype)


def _value(dtype: DType) -> Any:
    """A value that fits a tensor of this type."""
    if dtype == String:
        return "a"
    return 1.0 if is_float(dtype) or datatype(dtype) == "FP64" else True if dtype == Bool else 1
