"""Reads features from a server: `Client("http://host:6566")` or `Client("unix:///run/features.sock")`.

It speaks the Open Inference Protocol with binary tensors over connections that are kept. It needs NumPy and nothing else;
Arrow, pandas and PyTorch are imported where they are asked for.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from featurestore import errors
from featurestore.errors import (
    ConfigError,
    DeadlineExceeded,
    FeatureStoreError,
    NotFound,
    Overloaded,
    RequestError,
    ServerUnavailable,
    ServingError,
    nearest,
)
from featurestore.retries import RetryBudget

Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A dict of columns (scalars are the same in every row) or a list of row dicts."""

TIMEOUT: Final = 5.0
IDLE: Final = 32
"""Connections that are kept while nobody uses them."""

_NUMPY: Final = {
    "BOOL": np.dtype("?"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


@dataclass(frozen=True)
class Vectors:
    """Feature vectors: one row for each entity row asked for.

    `values` is (rows, columns) float32, C-contiguous, NULL as NaN; `mask` is true where a value is present. `columns` are
    the numeric and boolean features in service order. With `typed=True` every feature is there in its own type as well.
    `degraded`: the server answered without its store, as the service declares.
    """

    service: str
    version: int
    columns: tuple[str, ...]
    values: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any]
    request_id: str
    degraded: bool
    types: Mapping[str, str] = field(default_factory=dict)
    typed: Mapping[str, tuple[Any, np.ndarray[Any, Any]]] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def row_ids(self) -> list[str]:
        """What predictions and labels of each row refer to."""
        return [f"{self.request_id}-{i}" for i in range(len(self))]

    def to_numpy(self) -> np.ndarray[Any, Any]:
        """(rows, numeric and boolean features) float32; NULL is NaN. Nothing is copied."""
        return self.values

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def to_torch(self, device: str = "cpu") -> Any:
        """The tensor in PyTorch: shares memory on the CPU; to CUDA a non-blocking copy through pinned memory."""
        import torch

        tensor = torch.from_numpy(self.values)
        if device == "cpu":
            return tensor
        kind = torch.device(device).type
        if kind == "cuda":
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor if kind == "cpu" else tensor.to(device)

    def to_dict(self) -> dict[str, list[Any]]:
        """Values by feature as Python objects, None for NULL. Raises RequestError unless it was read with `typed=True`."""
        return {name: self._listed(name) for name in self._features()}

    def to_arrow(self) -> Any:
        """An Arrow table, a column for each feature. Raises RequestError unless it was read with `typed=True`."""
        import pyarrow as pa

        simple = {"Bool": pa.bool_(), "Int32": pa.int32(), "Int64": pa.int64(), "Float32": pa.float32()}
        simple |= {"Float64": pa.float64(), "String": pa.string(), "Date": pa.date32()}
        simple |= {"Timestamp": pa.timestamp("us", tz="UTC")}
        return pa.table({n: pa.array(self._listed(n), simple.get(self.types[n])) for n in self._features()})

    def to_pandas(self) -> Any:
        """A pandas frame. Raises RequestError unless it was read with `typed=True`."""
        return self.to_arrow().to_pandas()

    def _features(self) -> list[str]:
        if self.typed is None:
            raise RequestError("only the tensor was read\n  read with typed=True, or take to_numpy()")
        return list(self.typed)

    def _listed(self, name: str) -> list[Any]:
        assert self.typed is not None
        values, valid = self.typed[name]
        type_name = self.types[name]
        items = values.tolist() if isinstance(values, np.ndarray) else values
        match type_name:
            case "Timestamp":
                items = [
                    datetime.fromtimestamp(v // 10**6, UTC).replace(microsecond=v % 10**6) for v in items
                ]
            case "Date":
                items = np.asarray(values).astype("datetime64[D]").tolist()
            case _:
                if type_name.startswith(("List(", "Map(")):
                    items = [json.loads(v) for v in items]
        return [v if ok else None for v, ok in zip(items, valid.tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class _Model:
    """What the server says of one version of a service."""

    name: str
    version: int
    inputs: Mapping[str, str]
    keys: tuple[str, ...]
    request: tuple[str, ...]
    columns: tuple[str, ...]
    types: Mapping[str, str]
    outputs: Mapping[str, str]


class Client:
    """Reads features from a server. Safe to share between threads, and between tasks of one event loop.

    `key` is an API key; `timeout` in seconds bounds each call that names none; `ca` is a file of certificates to trust
    beside the system's, and `certificate` one file (or a pair with its key) to show. Connections are kept; a request that
    meets one that the server has closed meanwhile is sent once more. So is one whose connection fails, but of all together
    ten at once and then one a second: a server in trouble is not asked twice as much. Every method raises the error that
    the server names (NotFound, RequestError, AccessDenied, Overloaded…), else ServerUnavailable.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = TIMEOUT,
        ca: str | None = None,
        certificate: str | tuple[str, str] | None = None,
    ) -> None:
        self._place = _Place.of(url, ca, certificate)
        self._timeout = timeout
        self._key = key
        self._idle: list[socket.socket] = []
        self._retries = RetryBudget()
        self._lock = threading.Lock()
        self._models: dict[str, _Model] = {}
        authority = f"Authorization: Bearer {key}\r\n" if key else ""
        if "\r" in authority[:-2] or not authority.isascii():
            raise ConfigError("a key has no such characters")
        self._head = f"Host: {self._place.host}\r\n{authority}".encode()

    def __repr__(self) -> str:
        return f"Client({self._place.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of its connections; the next call makes new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # --- reads ------------------------------------------------------------------------------------

    def get_online_features(
        self,
        service: str,
        entities: Rows,
        *,
        request: Rows | None = None,
        at: datetime | str | int | None = None,
        timeout: float | None = None,
        typed: bool = False,
        context: Mapping[str, Any] | None = None,
    ) -> Vectors:
        """Feature vectors of a service: `delay` (its newest version), or `delay@2`.

        `entities` and `request` are dicts of columns (scalars broadcast) or lists of row dicts. `at` replays a past moment;
        `timeout` is in seconds. `typed` brings every feature in its own type: for texts and lists, and `to_dict()`. `context` is
        captured beside the rows of a service that is: one value for a name, or a list with one for each row.
        """
        limit = self._timeout if timeout is None else timeout
        ends = time.monotonic() + limit
        for last in (False, True):
            model = self._models.get(service)
            if model is None:
                model = self._learn(service, self._ask("GET", _path(service), b"", None, ends))
            body, head = _question(model, entities, request, at, limit, context, typed=typed)
            status, headers, answer = self._ask("POST", f"{_path(service)}/infer", body, head, ends)
            if not last and _outdated(status, headers, answer, model):
                del self._models[service]  # a new version since: its columns may be others
                continue
            return _vectors(model, status, headers, answer, typed=typed)
        raise AssertionError

    async def get_online_features_async(
        self,
        service: str,
        entities: Rows,
        *,
        request: Rows | None = None,
        at: datetime | str | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  as in the call that blocks
        typed: bool = False,
        context: Mapping[str, Any] | None = None,
    ) -> Vectors:
        """`get_online_features` without blocking the event loop."""
        limit = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                for last in (False, True):
                    model = self._models.get(service)
                    if model is None:
                        model = self._learn(service, await self._ask_async("GET", _path(service), b"", None))
                    body, head = _question(model, entities, request, at, limit, context, typed=typed)
                    found = await self._ask_async("POST", f"{_path(service)}/infer", body, head)
                    if not last and _outdated(*found, model):
                        del self._models[service]
                        continue
                    return _vectors(model, *found, typed=typed)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self._place.url}: no answer within {limit} s") from error
        raise AssertionError

    # --- what came of it --------------------------------------------------------------------------

    def predictions(
        self,
        row_ids: Sequence[str],
        values: Any,
        *,
        model: str,
        version: str = "",
        at: datetime | str | int | None = None,
        timeout: float | None = None,
    ) -> dict[str, int]:
        """Sends what a model made of rows, named by their `row_ids`: on disk when it returns.

        How many were `new`, the `same` again, `changed`, `unknown` (of no captured row so far) and `early`.
        """
        said = {"row_ids": list(row_ids), "values": _plain(values), "model": model, "version": version}
        return self._send("/capture/predictions", said, at, timeout)

    def labels(
        self,
        row_ids: Sequence[str],
        values: Any,
        *,
        name: str,
        at: datetime | str | int | None = None,
        timeout: float | None = None,
    ) -> dict[str, int]:
        """Sends what came of rows, as `predictions` does; `at` is when it came to pass."""
        said = {"row_ids": list(row_ids), "values": _plain(values), "name": name}
        return self._send("/capture/labels", said, at, timeout)

    def _send(self, path: str, said: dict[str, Any], at: Any, timeout: float | None) -> dict[str, int]:
        if at is not None:
            said["at"] = at.isoformat() if isinstance(at, datetime) else at
        ends = time.monotonic() + (self._timeout if timeout is None else timeout)
        done = _checked(*self._ask("POST", path, json.dumps(said).encode(), None, ends))
        return dict(done)

    def _learn(self, service: str, found: tuple[int, dict[bytes, bytes], bytes]) -> _Model:
        said = _checked(*found)
        about = said["parameters"]
        model = _Model(
            said["name"],
            int(about["version"]),
            {t["name"]: t["datatype"] for t in said["inputs"]},
            tuple(about["keys"]),
            tuple(about["request"]),
            tuple(about["columns"]),
            about["features"],
            {t["name"]: t["datatype"] for t in said["outputs"]},
        )
        self._models[service] = model
        return model

    # --- HTTP -------------------------------------------------------------------------------------

    def _request(self, method: str, path: str, body: bytes, json_length: int | None) -> bytes:
        binary = b"" if json_length is None else b"Inference-Header-Content-Length: %d\r\n" % json_length
        return b"%b %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (
            method.encode(), path.encode(), self._head, binary, len(body), body
        )  # fmt: skip

    def _ask(
        self, method: str, path: str, body: bytes, json_length: int | None, ends: float
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        request = self._request(method, path, body, json_length)
        again = False
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            began = False
            connection = kept
            try:
                if connection is None:
                    connection = self._place.connect(_left(ends, self._place.url))
                connection.settimeout(_left(ends, self._place.url))
                connection.sendall(request)
                answer = _Answer()
                while not answer.whole:
                    connection.settimeout(_left(ends, self._place.url))
                    data = connection.recv(1 << 18)
                    answer.feed(data)
                    began = True
            except TimeoutError as error:
                _drop(connection)
                raise DeadlineExceeded(f"{self._place.url}: no answer in time") from error
            except FeatureStoreError:
                _drop(connection)
                raise
            except OSError as error:
                _drop(connection)
                if kept is not None and not began:
                    continue  # it was closed while it lay idle
                pause = None if again else self._retries.take(ends - time.monotonic())
                if pause is None:
                    raise ServerUnavailable(f"{self._place.url}: {error.strerror or error}") from error
                again = True
                time.sleep(pause)
                continue
            self._keep(connection, answer)
            return answer.status, answer.headers, answer.body

    async def _ask_async(
        self, method: str, path: str, body: bytes, json_length: int | None
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        if self._place.tls is not None:  # event loops have TLS for transports alone
            ends = time.monotonic() + self._timeout
            return await asyncio.to_thread(self._ask, method, path, body, json_length, ends)
        request = self._request(method, path, body, json_length)
        loop = asyncio.get_running_loop()
        again = False
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            began = False
            connection = kept
            try:
                if connection is None:
                    connection = await asyncio.to_thread(self._place.connect, self._timeout)
                connection.setblocking(False)  # noqa: FBT003  the socket's own
                await loop.sock_sendall(connection, request)
                answer = _Answer()
                while not answer.whole:
                    answer.feed(await loop.sock_recv(connection, 1 << 18))
                    began = True
            except TimeoutError:
                _drop(connection)
                raise
            except OSError as error:
                _drop(connection)
                if kept is not None and not began:
                    continue
                pause = None if again else self._retries.take()
                if pause is None:
                    raise ServerUnavailable(f"{self._place.url}: {error.strerror or error}") from error
                again = True
                await asyncio.sleep(pause)
                continue
            except BaseException:  # a task that was cancelled leaves half an answer behind
                _drop(connection)
                raise
            self._keep(connection, answer)
            return answer.status, answer.headers, answer.body

    def _keep(self, connection: socket.socket, answer: _Answer) -> None:
        if answer.keep:
            with self._lock:
                if len(self._idle) < IDLE:
                    self._idle.append(connection)
                    return
        connection.close()


# --- places ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    url: str
    host: str
    address: tuple[str, int] | str
    tls: ssl.SSLContext | None = None

    @staticmethod
    def of(url: str, ca: str | None, certificate: str | tuple[str, str] | None) -> _Place:
        parts = urlsplit(url)
        if parts.scheme == "unix" and parts.path:
            return _Place(url, "localhost", unquote(parts.path))
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ConfigError(
                f"{url!r} is no server\n  write http://host:port, https://host:port or unix:///path"
            )
        if parts.username is not None or parts.password is not None:
            raise ConfigError("a URL holds no key\n  give it as key=…")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        context = None
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca)
            if certificate is not None:
                context.load_cert_chain(*((certificate,) if isinstance(certificate, str) else certificate))
        return _Place(url, parts.netloc, (parts.hostname, port), context)

    def connect(self, timeout: float) -> socket.socket:
        if isinstance(self.address, str):
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(timeout)
            try:
                made.connect(self.address)
            except OSError:
                made.close()
                raise
            return made
        made = socket.create_connection(self.address, timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made if self.tls is None else self.tls.wrap_socket(made, server_hostname=self.address[0])


def _drop(connection: socket.socket | None) -> None:
    if connection is not None:
        connection.close()


def _left(ends: float, url: str) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded(f"{url}: no answer in time")
    return left


class _Answer:
    """One answer as it comes in. The server says the length of each."""

    __slots__ = ("_data", "_start", "body", "headers", "keep", "status", "whole")

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = -1
        self.status, self.headers, self.body = 0, dict[bytes, bytes](), b""
        self.keep = self.whole = False

    def feed(self, data: bytes) -> None:
        """Takes what came. Raises ConnectionResetError for nothing, ServerUnavailable for what is no answer."""
        if not data:
            raise ConnectionResetError("the server hung up")
        self._data += data
        if self._start < 0:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            first, *lines = bytes(self._data[:end]).split(b"\r\n")
            words = first.split(b" ", 2)
            if len(words) < 2 or not first.startswith(b"HTTP/1.") or not words[1].isdigit():
                raise ServerUnavailable(f"what answers is no HTTP server: {first[:60]!r}")
            self.status = int(words[1])
            for line in lines:
                name, _, value = line.partition(b":")
                self.headers[name.lower()] = value.strip()
            self._start = end + 4
            if not self.headers.get(b"content-length", b"").isdigit():
                raise ServerUnavailable("the answer does not say its length: something else answers here")
            self.keep = self.headers.get(b"connection", b"").lower() != b"close"
        length = int(self.headers[b"content-length"])
        if len(self._data) >= self._start + length:
            self.body = bytes(memoryview(self._data)[self._start : self._start + length])
            self.whole = True


# --- questions and answers ------------------------------------------------------------------------


def _path(service: str) -> str:
    name, _, version = service.partition("@")
    return f"/v2/models/{quote(name, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def _columns(rows: Rows, what: str) -> dict[str, Any]:
    if isinstance(rows, Mapping):
        return dict(rows)
    names = list(dict.fromkeys(n for row in rows for n in row))
    for number, row in enumerate(rows):
        for name in names:
            if name not in row:
                raise RequestError(f"row {number} of {what} has no '{name}', which other rows have")
    return {name: [row[name] for row in rows] for name in names}


def _listed(value: Any) -> Any:
    if isinstance(value, list | tuple | np.ndarray):
        return value
    for way in ("to_numpy", "to_pylist", "to_list"):
        if hasattr(value, way):
            found = getattr(value, way)()
            return found.tolist() if isinstance(found, np.ndarray) and found.dtype.kind == "O" else found
    return None


def _plain(values: Any) -> list[Any]:
    for way in ("to_pylist", "tolist", "to_list"):
        if hasattr(values, way):
            return getattr(values, way)()  # type: ignore[no-any-return]
    return list(values)


def _question(
    model: _Model,
    entities: Rows,
    request: Rows | None,
    at: Any,
    limit: float,
    context: Mapping[str, Any] | None,
    *,
    typed: bool,
) -> tuple[bytes, int]:
    given = _columns(entities, "the entities")
    asked = _columns(request, "the request") if request is not None else {}
    for name in given:
        if name not in model.keys:
            raise RequestError(
                "\n  ".join([f"service '{model.name}' has no key '{name}'", *nearest(name, model.keys)])
            )
    for name in asked:
        if name not in model.request:
            raise RequestError(
                "\n  ".join(
                    [f"service '{model.name}' has no request column '{name}'", *nearest(name, model.request)]
                )
            )
    given |= asked
    lists = {n: _listed(v) for n, v in given.items()}
    lengths = {n: len(v) for n, v in lists.items() if v is not None}
    if len(set(lengths.values())) > 1:
        raise RequestError(
            f"columns have different lengths: {', '.join(f'{n} {k}' for n, k in lengths.items())}"
        )
    rows = next(iter(lengths.values()), 1)
    tensors, tail = [], []
    for name, values in lists.items():
        form = model.inputs[name]
        raw = _raw(name, [given[name]] * rows if values is None else values, form)
        tensors.append(
            {"name": name, "shape": [rows], "datatype": form, "parameters": {"binary_data_size": len(raw)}}
        )
        tail.append(raw)
    parameters: dict[str, Any] = {"binary_data_output": True, "timeout": max(int(limit * 1e6), 1)}
    if at is not None:
        parameters["at"] = at.isoformat() if isinstance(at, datetime) else at
    if context is not None:
        parameters["context"] = dict(context)
    said: dict[str, Any] = {"inputs": tensors, "parameters": parameters}
    if typed:
        names = [
            *(("features", "mask") if model.columns else ()),
            *(x for n in model.types for x in (n, f"{n}.mask")),
        ]
        said["outputs"] = [{"name": n, "parameters": {"binary_data": True}} for n in names]
    head = json.dumps(said, separators=(",", ":")).encode()
    return b"".join([head, *tail]), len(head)


def _raw(name: str, values: Any, form: str) -> bytes:
    """A column as the bytes of a tensor. Raises RequestError for values of another type."""
    if form == "BYTES":
        parts: list[bytes] = []
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise RequestError(f"'{name}' is {value!r} in row {row}, and it is a text")
            text = value.encode()
            parts += (len(text).to_bytes(4, "little"), text)
        return b"".join(parts)
    dtype = _NUMPY[form]
    try:
        array = np.asarray(values)
        fits = array.dtype.kind in {"b": "b", "i": "iu", "f": "fiu"}[dtype.kind] or not array.size
        whole = array.astype(dtype, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"'{name}' holds what is no {form}: {error}") from error
    if not fits or (dtype.kind == "i" and not (whole == array).all()):
        raise RequestError(f"'{name}' holds what is no {form}: its values are {array.dtype}")
    return whole.tobytes()


def _outdated(status: int, headers: Mapping[bytes, bytes], body: bytes, model: _Model) -> bool:
    """Whether the answer is another version's than what was learnt, or a complaint that may come of that."""
    if status != 200:
        return status == 400
    length = headers.get(b"inference-header-content-length")
    said = json.loads(body if length is None else body[: int(length)])
    return int(said["model_version"]) != model.version


def _checked(status: int, headers: Mapping[bytes, bytes], body: bytes) -> Any:
    """The JSON of a good answer; else raises the error that it names."""
    if status != 200:
        try:
            said = json.loads(body)
            name, message = str(said["type"]), str(said["error"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServerUnavailable(f"something else answers here: status {status}") from error
        kind = getattr(errors, name, None)
        if kind is Overloaded:
            after = headers.get(b"retry-after", b"1")
            raise Overloaded(message, float(after) if after.isdigit() else 1.0)
        if kind is NotFound:
            raise _not_found(message)
        if isinstance(kind, type) and issubclass(kind, FeatureStoreError):
            try:
                raised = kind(message)
            except TypeError:
                raised = ServingError(message)
            raise raised
        raise ServingError(f"{message} (request {said.get('request_id')})")
    length = headers.get(b"inference-header-content-length")
    return json.loads(body if length is None else body[: int(length)])


def _not_found(message: str) -> NotFound:
    """The server's own words: they name the thing and the nearest right one."""
    error = NotFound.__new__(NotFound)
    error.kind, error.name, error.known = "", "", ()
    Exception.__init__(error, message)
    return error


def _vectors(
    model: _Model, status: int, headers: Mapping[bytes, bytes], body: bytes, *, typed: bool
) -> Vectors:
    said = _checked(status, headers, body)
    at = int(headers.get(b"inference-header-content-length", b"%d" % len(body)))
    found: dict[str, Any] = {}
    rows = 0
    for tensor in said["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size", 0)
        form, shape = tensor["datatype"], tensor["shape"]
        rows = shape[0]
        if form == "BYTES":
            found[tensor["name"]] = _texts(body, at, at + size)
        else:
            found[tensor["name"]] = np.frombuffer(
                bytearray(memoryview(body)[at : at + size]), _NUMPY[form]
            ).reshape(shape)
        at += size
    nothing = np.zeros((rows, 0), np.float32)
    return Vectors(
        model.name,
        int(said["model_version"]),
        model.columns,
        found.get("features", nothing),
        found.get("mask", nothing.astype(np.bool_)),
        headers.get(b"x-request-id", b"").decode("latin-1"),
        bool(said.get("parameters", {}).get("degraded", False)),
        model.types,
        {n: (found[n], found[f"{n}.mask"]) for n in model.types} if typed else None,
    )


def _texts(body: bytes, at: int, end: int) -> list[str]:
    found = []
    while at < end:
        stop = at + 4 + int.from_bytes(body[at : at + 4], "little")
        found.append(body[at + 4 : stop].decode())
        at = stop
    return found
