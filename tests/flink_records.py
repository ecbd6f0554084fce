"""Tile records as bytes, written and read plainly: what `docs/tile-records.md` says, one field after another.

`python -m tests.flink_records` writes the file of records that JUnit holds the job's sink to.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "streaming" / "java" / "src" / "test" / "resources" / "records.json"

VERSION = 1
NEWEST = 255
HEADER = struct.Struct("<BBHI")
MASK = 2**32 - 1


def key_of(columns: Mapping[str, str], keys: int, level: int, row: Sequence[Any]) -> bytes:
    """Level, tile, entity: what a record shares with those that replace it."""
    tile = 0 if level == NEWEST else row[keys]
    parts = []
    for kind, value in list(zip(columns.values(), row, strict=True))[:keys]:
        if kind == "STRING":
            parts.append(struct.pack(">I", len(value.encode())) + value.encode())
        else:
            parts.append(struct.pack(">d" if kind in ("DOUBLE", "FLOAT") else ">q", value))
    return struct.pack(">Bq", level, tile) + b"".join(parts)


def value_of(columns: Mapping[str, str], level: int, epoch: int, row: Sequence[Any]) -> bytes:
    """A whole record."""
    words, tail, nulls = [], b"", 0
    for i, (kind, value) in enumerate(zip(columns.values(), row, strict=True)):
        if value is None:
            nulls |= 1 << i
            words.append(bytes(8))
        elif (more := _long(kind, value)) is not None:
            words.append(struct.pack("<II", len(tail), len(more)))
            tail += more
        else:
            words.append(_word(kind, value))
    bits = nulls.to_bytes(8 * -(-len(columns) // 64), "little")
    return HEADER.pack(VERSION, level, 0, epoch) + b"".join(words) + bits + tail


def _word(kind: str, value: Any) -> bytes:
    return struct.pack("<d" if kind in ("DOUBLE", "FLOAT") else "<q", value)


def _long(kind: str, value: Any) -> bytes | None:
    if kind == "STRING":
        return bytes(value.encode())
    if kind == "BYTES":
        return bytes(value)
    if kind == "ARRAY<STRING>":
        texts = [v.encode() for v in value]
        return struct.pack(f"<I{len(texts)}I", len(texts), *map(len, texts)) + b"".join(texts)
    if kind.startswith("ARRAY<"):
        return b"".join(_word(kind[6:-1], v) for v in value)
    return None


def read(value: bytes, columns: Mapping[str, str]) -> dict[str, Any]:
    """The columns of a record. Raises ValueError for one of another shape."""
    version, _, _, _ = HEADER.unpack_from(value)
    start = HEADER.size + 8 * len(columns)
    tail = start + 8 * -(-len(columns) // 64)
    if version != VERSION or len(value) < tail:
        raise ValueError(f"a record of version {version} and {len(value)} bytes is none of these columns")
    nulls = int.from_bytes(value[start:tail], "little")
    row: dict[str, Any] = {}
    for i, (name, kind) in enumerate(columns.items()):
        at = HEADER.size + 8 * i
        if nulls >> i & 1:
            row[name] = None
        elif kind in ("STRING", "BYTES") or kind.startswith("ARRAY<"):
            offset, length = struct.unpack_from("<II", value, at)
            row[name] = _read_long(kind, value[tail + offset : tail + offset + length])
        else:
            row[name] = _read_word(kind, value, at)
    return row


def _read_word(kind: str, value: bytes, at: int) -> Any:
    if kind in ("DOUBLE", "FLOAT"):
        return struct.unpack_from("<d", value, at)[0]
    word: int = struct.unpack_from("<q", value, at)[0]
    return bool(word) if kind == "BOOLEAN" else word


def _read_long(kind: str, more: bytes) -> Any:
    if kind == "STRING":
        return more.decode()
    if kind == "BYTES":
        return more
    if kind != "ARRAY<STRING>":
        return [_read_word(kind[6:-1], more, at) for at in range(0, len(more), 8)]
    (count,) = struct.unpack_from("<I", more)
    lengths = struct.unpack_from(f"<{count}I", more, 4)
    texts, at = [], 4 + 4 * count
    for length in lengths:
        texts.append(more[at : at + length].decode())
        at += length
    return texts


def partition_of(key: bytes, partitions: int) -> int:
    """Where a record of this key lies: Kafka's own hash of the entity."""
    return (murmur2(key[9:]) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Appleby (2008), with Kafka's seed."""
    m = 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & MASK
    for at in range(0, len(data) // 4 * 4, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & MASK
        k = (k ^ k >> 24) * m & MASK
        h = h * m & MASK ^ k
    rest = data[len(data) // 4 * 4 :]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & MASK
    h = (h ^ h >> 13) * m & MASK
    return h ^ h >> 15


WIDE = {f"p{i}_n": "BIGINT" for i in range(70)}

RECORDS: list[tuple[str, dict[str, str], int, int, int, list[Any]]] = [
    ("whole numbers and doubles", {"k0": "BIGINT", "tile": "BIGINT", "rows": "BIGINT", "x": "DOUBLE"}, 1, 0, 1,
     [7, 1_700_000_000_000_000, 3, -0.1]),
    ("negative ones", {"k0": "BIGINT", "tile": "BIGINT", "rows": "BIGINT"}, 1, 3, 2**32 - 1,
     [-(2**63), -300_000_000, 2**63 - 1]),
    ("narrow types", {"k0": "INT", "tile": "BIGINT", "d": "INT", "f": "FLOAT", "b": "BOOLEAN"}, 1, 0, 1,
     [-5, 0, -719_162, 1.5, True]),
    ("nulls of every kind", {"k0": "STRING", "tile": "BIGINT", "a": "BIGINT", "x": "DOUBLE", "s": "STRING",
      "l": "ARRAY<BIGINT>", "b": "BOOLEAN"}, 1, 1, 1, ["a", 0, None, None, None, None, None]),
    ("texts", {"k0": "STRING", "k1": "STRING", "tile": "BIGINT", "s": "STRING", "e": "STRING", "t": "STRING"}, 2, 0, 9,
     ["é", "", 60_000_000, "\U00010000z", "", "long " * 100]),
    ("keys that could run together", {"k0": "STRING", "k1": "STRING", "tile": "BIGINT", "n": "BIGINT"}, 2, 0, 1,
     ["ab", "c", 0, 1]),
    ("and do not", {"k0": "STRING", "k1": "STRING", "tile": "BIGINT", "n": "BIGINT"}, 2, 0, 1, ["a", "bc", 0, 1]),
    ("lists", {"k0": "BIGINT", "tile": "BIGINT", "a": "ARRAY<BIGINT>", "x": "ARRAY<DOUBLE>", "s": "ARRAY<STRING>",
      "b": "ARRAY<BOOLEAN>", "f": "ARRAY<FLOAT>", "i": "ARRAY<INT>"}, 1, 0, 1,
     [1, 0, [1, -(2**63)], [0.5, 5e-324], ["", "é", "b"], [True, False], [0.25], [-1, 2]]),
    ("empty lists", {"k0": "BIGINT", "tile": "BIGINT", "a": "ARRAY<BIGINT>", "s": "ARRAY<STRING>", "t": "STRING"},
     1, 0, 1, [1, 0, [], [], "x"]),
    ("a newest row", {"k0": "STRING", "first_at": "BIGINT", "last_at": "BIGINT", "v0": "STRING", "v1": "DOUBLE"},
     1, NEWEST, 4, ["a", -1, 5, None, 2.5]),
    ("more than 64 columns", {"k0": "BIGINT", "tile": "BIGINT", **WIDE}, 1, 0, 1,
     [1, 0, *(None if i % 3 == 0 else i for i in range(70))]),
]  # fmt: skip
"""Name, columns, keys, level, epoch, values."""


def records() -> list[dict[str, Any]]:
    """Each record with its bytes in hexadecimal, and the partition of eight that it lies in."""
    found = []
    for name, columns, keys, level, epoch, row in RECORDS:
        key = key_of(columns, keys, level, row)
        found.append(
            {
                "name": name,
                "columns": list(columns.items()),
                "keys": keys,
                "level": level,
                "epoch": epoch,
                "row": row,
                "key": key.hex(),
                "value": value_of(columns, level, epoch, row).hex(),
                "partition_of_8": partition_of(key, 8),
            }
        )
    return found


def text() -> str:
    return json.dumps(records(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
