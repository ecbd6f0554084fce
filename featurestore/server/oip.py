"""The Open Inference Protocol, version 2, with its binary tensor extension: features as tensors for any of its clients.

Inputs are one tensor `[N]` or `[N, 1]` for each join key and request column. Outputs: `features` FP32 `[N, F]` (NULL is
NaN), `mask` BOOL `[N, F]` (true where a value is present), `age_ms` INT64 `[N, F]` (-1 where there is no event), over the
numeric and boolean features; any feature by name in its own type; and `NAME.mask`, BOOL `[N]`, of any feature.
"""

from __future__ import annotations

import decimal
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from featurestore.errors import RequestError, TooLarge, nearest
from featurestore.evaluate.arrow import from_physical
from featurestore.server.asking import Ask, Head, ask_of, at_of, context_of, texts_of, timeout_of
from featurestore.server.catalog import Served
from featurestore.serving import OnlineFeatures
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float32,
    Float64,
    Int32,
    Int64,
    ListType,
    MapType,
    String,
    Timestamp,
    VectorType,
)

NUMPY: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_DATATYPE: Final[Mapping[DType, str]] = {
    Bool: "BOOL",
    Int32: "INT32",
    Int64: "INT64",
    Float32: "FP32",
    Float64: "FP64",
    Timestamp: "INT64",
    Date: "INT32",
    String: "BYTES",
}
_WHOLE: Final = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32"})
_REAL: Final = frozenset({"FP16", "FP32", "FP64"})
_PARTS: Final = 64
"""Tensors in one request or answer; a service has fewer columns than that only by accident, so outputs may be more."""

_MATRICES: Final = {"features": "FP32", "mask": "BOOL", "age_ms": "INT64"}

_BINARY: Final = (b"content-type", b"application/octet-stream")

Chunks = list[Any]

HEADS: Final = 256
HEAD_BYTES: Final = 4096
"""Of the JSON that is kept understood, for each version of a service; more are understood anew."""


def datatype(dtype: DType) -> str:
    """What a value of this type is as a tensor: a decimal is FP64, lists and maps are BYTES of JSON."""
    match dtype:
        case DecimalType():
            return "FP64"
        case VectorType():
            return "FP32"
        case ListType() | MapType():
            return "BYTES"
        case _:
            return _DATATYPE[dtype]


def metadata(served: Served, versions: Sequence[int]) -> dict[str, Any]:
    """What `GET /v2/models/{service}` says; `parameters.columns` names the columns of the three matrices."""
    width = len(served.tensor)
    inputs = [
        {"name": n, "datatype": datatype(t), "shape": [-1]}
        for n, t in {**served.keys, **served.asked}.items()
    ]
    outputs: list[dict[str, Any]] = []
    if width:
        outputs += [{"name": n, "datatype": d, "shape": [-1, width]} for n, d in _MATRICES.items()]
    for name, dtype in served.columns.items():
        shape = [-1, dtype.size] if isinstance(dtype, VectorType) else [-1]
        outputs.append({"name": name, "datatype": datatype(dtype), "shape": shape})
        outputs.append({"name": f"{name}.mask", "datatype": "BOOL", "shape": [-1]})
    return {
        "name": served.name,
        "versions": [str(v) for v in versions],
        "platform": "featurestore",
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {
            "version": str(served.version),
            "columns": list(served.tensor),
            "features": {n: repr(t) for n, t in served.columns.items()},
            "keys": list(served.keys),
            "request": list(served.asked),
        },
    }


# --- in -------------------------------------------------------------------------------------------


def decode(body: bytes, json_length: bytes | None, served: Served, max_rows: int) -> Ask:
    """A request. Raises RequestError with the tensor that is wrong, TooLarge for too many rows."""
    if json_length is None:
        head, at = body, len(body)
    else:
        if not json_length.isdigit() or len(json_length) > 12 or int(json_length) > len(body):
            raise RequestError(
                f"Inference-Header-Content-Length is {json_length.decode('latin-1')[:40]!r}, and the body has "
                f"{len(body)} bytes"
            )
        at = int(json_length)
        head = body[:at]
        known = served.heads.get(head)
        if known is not None:
            return again(known, body, at, served, max_rows)
    start = at
    said = _object(head)
    columns: dict[str, Any] = {}
    tensors: list[tuple[str, str, int, int]] = []
    for tensor in said["inputs"]:
        name = tensor.get("name")
        if not isinstance(name, str) or name in columns:
            raise RequestError(f"an input tensor has the name {_short(name)}, which another has, or is none")
        parameters = tensor.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        rows = _rows(name, tensor, max_rows)
        if size is None:
            columns[name] = _from_json(name, tensor, rows, served)
            continue
        if type(size) is not int or size < 0 or at + size > len(body):
            raise RequestError(
                f"input '{name}' says binary_data_size {_short(size)}, and {len(body) - at} bytes are left"
            )
        form: Any = tensor.get("datatype")
        columns[name] = _from_binary(name, form, body, at, size, rows, served)
        tensors.append((name, form, size, rows))
        at += size
    if at != len(body):
        raise RequestError(
            f"{len(body) - at} bytes come after the last tensor\n  no input has them in its size"
        )
    ask = ask_of(served, columns, max_rows)
    parameters = said.get("parameters")
    if parameters is not None:
        if not isinstance(parameters, dict):
            raise RequestError('"parameters" is not an object')
        ask.at = at_of(parameters.get("at"))
        ask.timeout = timeout_of(parameters.get("timeout"), unit=1e-6)
        ask.context = context_of(parameters.get("context"))
    identity = said.get("id", "")
    if not isinstance(identity, str) or len(identity) > 256:
        raise RequestError('"id" is not a text of at most 256 characters')
    ask.id = identity
    ask.outputs = _outputs(said.get("outputs"), served, binary=_flag(parameters, "binary_data_output"))
    if len(tensors) == len(columns) and start <= HEAD_BYTES:
        if len(served.heads) >= HEADS:
            served.heads.clear()
        ask.head = served.heads[head] = Head(
            tuple(tensors), ask.at, ask.timeout, ask.id, ask.outputs, ask.context
        )
    return ask


def _object(text: bytes) -> dict[str, Any]:
    """The JSON of a request, an object with a list of objects for "inputs"."""
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the request is not JSON: {error}") from error
    inputs = said.get("inputs") if isinstance(said, dict) else None
    if (
        not isinstance(said, dict)
        or not isinstance(inputs, list)
        or not all(isinstance(t, dict) for t in inputs)
    ):
        raise RequestError('a request is an object with "inputs", a list of tensors')
    return said


def again(head: Head, body: bytes, at: int, served: Served, max_rows: int) -> Ask:
    """A request whose JSON was understood before: its tensors are checked as ever."""
    columns = {}
    for name, form, size, rows in head.tensors:
        if at + size > len(body):
            raise RequestError(
                f"input '{name}' says binary_data_size {size}, and {len(body) - at} bytes are left"
            )
        columns[name] = _from_binary(name, form, body, at, size, rows, served)
        at += size
    if at != len(body):
        raise RequestError(
            f"{len(body) - at} bytes come after the last tensor\n  no input has them in its size"
        )
    ask = ask_of(served, columns, max_rows)
    ask.at, ask.timeout, ask.id, ask.outputs, ask.head = head.at, head.timeout, head.id, head.outputs, head
    ask.context = head.context
    return ask


def _rows(name: str, tensor: Mapping[str, Any], max_rows: int) -> int:
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) not in (1, 2)
        or any(type(n) is not int or n < 0 for n in shape)
        or (len(shape) == 2 and shape[1] != 1)
    ):
        raise RequestError(f"input '{name}' has shape {_short(shape)}, which is neither [N] nor [N, 1]")
    if shape[0] > max_rows:
        raise TooLarge(f"{shape[0]} rows in one request, and this server reads {max_rows}\n  ask in parts")
    return int(shape[0])


def _allowed(name: str, given: Any, served: Served) -> DType:
    """The declared type of a column, if a tensor of this datatype can hold it. Raises RequestError."""
    dtype = served.keys.get(name) or served.asked.get(name)
    if dtype is None:
        known = [*served.keys, *served.asked]
        raise RequestError(
            "\n  ".join(
                [f"{served.reference} has no key or request column '{name[:200]}'", *nearest(name, known)]
            )
        )
    match dtype:
        case DecimalType():
            fits = _WHOLE | _REAL | {"BYTES"}
        case _ if dtype in (Float32, Float64):
            fits = _WHOLE | _REAL
        case _ if dtype in (Int64, Int32, Timestamp, Date):
            fits = _WHOLE
        case _:
            fits = frozenset({datatype(dtype)})
    if not isinstance(given, str) or given not in fits:
        raise RequestError(
            f"input '{name}' is {_short(given)}, and {dtype} comes as {' or '.join(sorted(fits))}"
        )
    return dtype


def _from_json(name: str, tensor: Mapping[str, Any], rows: int, served: Served) -> Any:
    given: Any = tensor.get("datatype")
    dtype = _allowed(name, given, served)
    data = tensor.get("data")
    if isinstance(data, list) and data and all(isinstance(d, list) for d in data):
        data = [x for row in data for x in row]
    if not isinstance(data, list) or len(data) != rows:
        count = f"{len(data)} values" if isinstance(data, list) else "no data"
        raise RequestError(f"input '{name}' has {count}, and its shape says {rows}")
    kinds = set(map(type, data))
    wanted = (
        {str}
        if given == "BYTES"
        else {bool}
        if given == "BOOL"
        else {int}
        if given in _WHOLE
        else {int, float}
    )
    if not kinds <= wanted:
        wrong = next(v for v in data if type(v) not in wanted)
        raise RequestError(f"input '{name}' is {given} and holds {_short(wrong)}")
    if given == "BYTES":
        return _decimals(name, data) if isinstance(dtype, DecimalType) else data
    try:
        return np.array(data, NUMPY[given])
    except OverflowError as error:
        raise RequestError(f"input '{name}' holds a number that {given} does not") from error


def _from_binary(name: str, given: Any, body: bytes, at: int, size: int, rows: int, served: Served) -> Any:
    dtype = _allowed(name, given, served)
    if given == "BYTES":
        texts = texts_of(_split(name, body[at : at + size], rows))
        return _decimals(name, texts) if isinstance(dtype, DecimalType) else texts
    form = NUMPY[given]
    if size != rows * form.itemsize:
        raise RequestError(
            f"input '{name}' has {size} bytes, and {rows} values of {given} have {rows * form.itemsize}"
        )
    if given == "BOOL":
        raw = np.frombuffer(body, np.uint8, rows, at)
        if rows and raw.max() > 1:
            raise RequestError(f"input '{name}' is BOOL and holds a byte that is neither 0 nor 1")
        return raw.view(np.bool_)
    return np.frombuffer(body, form, rows, at)


def _split(name: str, raw: bytes, rows: int) -> list[bytes]:
    """The elements of a BYTES tensor: each has its length before it, in four bytes."""
    if (
        rows and len(raw) % rows == 0 and len(raw) // rows >= 4
    ):  # often all have one length: no loop over rows
        table = np.frombuffer(raw, np.uint8).reshape(rows, -1)
        width = table.shape[1] - 4
        if (table[:, :4].copy().view("<u4") == width).all():
            return [raw[i + 4 : i + 4 + width] for i in range(0, len(raw), width + 4)]
    found, at = [], 0
    while at + 4 <= len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            break
        found.append(raw[at + 4 : end])
        at = end
    if at != len(raw) or len(found) != rows:
        raise RequestError(
            f"input '{name}' does not hold {rows} texts: element {len(found)} breaks off at byte {at}"
        )
    return found


def _decimals(name: str, texts: Sequence[str]) -> list[decimal.Decimal]:
    try:
        return [decimal.Decimal(t) for t in texts]
    except decimal.InvalidOperation as error:
        raise RequestError(f"input '{name}' holds a text that is no decimal number") from error


def _flag(parameters: Any, name: str) -> bool:
    return bool(parameters.get(name, False)) if isinstance(parameters, dict) else False


def _outputs(given: Any, served: Served, *, binary: bool) -> list[tuple[str, bool]]:
    """The outputs asked for, and whether each is wanted in binary."""
    if given is None or given == []:
        names = ["features", "mask"] if served.tensor else list(served.columns)
        return [(n, binary) for n in names]
    if not isinstance(given, list) or not all(isinstance(o, dict) for o in given):
        raise RequestError('"outputs" is not a list of objects')
    if len(given) > _PARTS + 2 * len(served.columns):
        raise RequestError(f"{len(given)} outputs are more than there are")
    known = [*served.columns, *(f"{n}.mask" for n in served.columns), *(_MATRICES if served.tensor else ())]
    found = []
    for output in given:
        name = output.get("name")
        if name not in known if isinstance(name, str) else True:
            lines = nearest(name, known) if isinstance(name, str) else []
            raise RequestError("\n  ".join([f"{served.reference} has no output {_short(name)}", *lines]))
        wanted = output.get("parameters")
        if isinstance(wanted, dict) and wanted.get("classification"):
            raise RequestError(f"output '{name}': features are not classified")
        found.append(
            (
                name,
                _flag(wanted, "binary_data")
                if isinstance(wanted, dict) and "binary_data" in wanted
                else binary,
            )
        )
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


# --- out ------------------------------------------------------------------------------------------


def encode(result: OnlineFeatures, ask: Ask, *, degraded: bool) -> tuple[bytes, int | None]:
    """The answer, and the length of its JSON when binary tensors follow it."""
    served = ask.served
    known = None if ask.head is None or degraded else ask.head.reply
    if known is not None:
        parts = [_tensor(result, name, served)[2] for name, _ in ask.outputs]
        return b"".join([known, *[v.data if v.size else b"" for v in parts]]), len(known)
    said: list[dict[str, Any]] = []
    tail: Chunks = []
    for name, binary in ask.outputs:
        form, shape, values = _tensor(result, name, served)
        if not binary:
            said.append({"name": name, "datatype": form, "shape": shape, "data": _plain(values)})
            continue
        raw = _framed(values) if form == "BYTES" else values.data if values.size else b""
        size = len(raw) if form == "BYTES" else values.nbytes
        said.append(
            {"name": name, "datatype": form, "shape": shape, "parameters": {"binary_data_size": size}}
        )
        tail.append(raw)
    answer: dict[str, Any] = {
        "model_name": served.name,
        "model_version": str(served.version),
        "id": ask.id,
        "outputs": said,
    }
    if degraded:
        answer["parameters"] = {"degraded": True}
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    fixed = all(
        binary and form["datatype"] != "BYTES" for (_, binary), form in zip(ask.outputs, said, strict=True)
    )
    if ask.head is not None and fixed and not degraded:
        ask.head.reply = head  # sizes follow from the rows, which the request's JSON says
    return (b"".join([head, *tail]), len(head)) if tail else (head, None)


def fields(json_length: int) -> list[tuple[bytes, bytes]]:
    """The headers of an answer whose tensors come after its JSON."""
    return [_BINARY, (b"inference-header-content-length", b"%d" % json_length)]


def numbers(head: Head, body: bytes, at: int) -> np.ndarray[Any, Any] | int | None:
    """The keys of a request that `encode_rows` can answer, of one entity the number itself; None for any other request."""
    rows = head.numbers
    if head.reply is None or not rows or len(body) != at + 8 * rows:
        return None
    if rows == 1:
        return int.from_bytes(body[at:], "little", signed=True)
    return np.frombuffer(body, "<i8", rows, at).copy()  # to an address that suits numbers


def encode_rows(floats: bytes | memoryview, head: Head) -> Chunks:
    """As `encode` of entities all of whose values are PRESENT: `floats` are those, row by row. Its JSON, and what follows it."""
    size = len(floats) if isinstance(floats, bytes) else floats.nbytes
    present = b"\x01" * (size // 4)
    return [head.reply, *[floats if name == "features" else present for name, _ in head.outputs]]


def _plain(values: Any) -> Any:
    return values if isinstance(values, list) else np.ascontiguousarray(values.reshape(-1))


def _framed(texts: Sequence[str]) -> bytes:
    parts = [t.encode() for t in texts]
    return b"".join([x for p in parts for x in (len(p).to_bytes(4, "little"), p)])


def _tensor(result: OnlineFeatures, name: str, served: Served) -> tuple[str, list[int], Any]:
    """Datatype, shape and values of one output: an array, or a list of texts."""
    if name in served.columns:
        return _column(result, list(served.columns).index(name), served.columns[name])
    if name in _MATRICES:
        width = len(served.tensor)
        shape = [result.rows, width]
        if name == "features":
            return "FP32", shape, result.to_numpy()
        whole = result.mask if name == "mask" else result.ages
        if width < len(served.columns):
            whole = whole[:, [i for i, n in enumerate(served.columns) if n in set(served.tensor)]]
        return _MATRICES[name], shape, np.ascontiguousarray(whole)
    place = list(served.columns).index(name.removesuffix(".mask"))
    return "BOOL", [result.rows], np.ascontiguousarray(result.mask[:, place])


def _column(result: OnlineFeatures, place: int, dtype: DType) -> tuple[str, list[int], Any]:
    cells = result.cells[place]
    form = datatype(dtype)
    if isinstance(dtype, VectorType):
        matrix = np.full((result.rows, dtype.size), np.nan, np.float32)
        if cells.valid.any():
            matrix[cells.valid] = np.stack(cells.values[cells.valid].tolist())
        return form, [result.rows, dtype.size], matrix
    if dtype == String:
        return form, [result.rows], ["" if v is None else v for v in cells.values.tolist()]
    if isinstance(dtype, ListType | MapType):
        items = from_physical(np.ascontiguousarray(cells.values), cells.valid, dtype).to_pylist(
            maps_as_pydicts="strict"
        )
        texts = [
            "null" if v is None else orjson.dumps(v, option=orjson.OPT_NON_STR_KEYS, default=str).decode()
            for v in items
        ]
        return form, [result.rows], texts
    values = cells.values
    if isinstance(dtype, DecimalType):
        values = values / 10.0**dtype.scale
    values = np.array(values, NUMPY[form])
    if values.dtype.kind == "f":
        values[~cells.valid] = np.nan
    return form, [result.rows], values
