"""The fast read: replies taken from the socket, readers with buffers of the caller's, reads of one tick together."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore.errors import (
    FeatureStoreError,
    OnlineStoreError,
    RequestError,
    StoreCorrupt,
    StoreUnavailable,
)
from featurestore.online.codec import BASE, entity_keys
from featurestore.online.redis import CHUNK
from featurestore.online.resp import Buffer, Replies, Unexpected
from featurestore.online.store import OnlineStore, open_store
from featurestore.online.values import Asked, Values
from featurestore.serving import OnlineFeatures, Reader
from tests import services

# ------------------------------------------------------------------------------------------------------------- replies

BYTES = st.none() | st.binary(max_size=12) | st.sampled_from([b"x" * 40, b"y" * 40, b"$-1\r\n", b"\r\n" * 20])


def on_the_wire(replies: Sequence[Sequence[bytes | None]]) -> bytes:
    texts = (b"$-1\r\n" if v is None else b"$%d\r\n%b\r\n" % (len(v), v) for r in replies for v in r)
    out = b""
    for reply in replies:
        out += b"*%d\r\n" % len(reply) + b"".join(next(texts) for _ in reply)
    return out


def in_pieces(raw: bytes, cuts: Sequence[int]) -> Callable[[memoryview], int]:
    """What a socket gives: the bytes up to each cut, one after another, then the end of the stream."""
    ends = iter(sorted({min(c, len(raw)) for c in cuts} | {len(raw)}))
    sent, until = 0, next(ends)

    def read_into(room: memoryview) -> int:
        nonlocal sent, until
        while sent == until and until < len(raw):
            until = next(ends)
        piece = raw[sent : min(until, sent + len(room))]
        room[: len(piece)] = piece
        sent += len(piece)
        return len(piece)

    return read_into


def listed(values: Values) -> list[bytes | None]:
    places = zip(values.offsets.tolist(), values.lengths.tolist(), strict=True)
    return [None if n < 0 else values.data[at : at + n].tobytes() for at, n in places]


@given(
    replies=st.lists(st.lists(BYTES, min_size=1, max_size=12), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 400), max_size=8),
    size=st.sampled_from([16, 64, 1 << 16]),
)
def test_values_come_whole_however_they_are_cut(
    replies: list[list[bytes | None]], cuts: list[int], size: int
) -> None:
    read = in_pieces(on_the_wire(replies), cuts)
    taken = Replies([len(r) for r in replies], Buffer(size))
    for _ in replies:
        taken.receive(read)
    assert listed(taken.values()) == [v for reply in replies for v in reply]


@given(count=st.integers(1, 300), missing=st.sets(st.integers(0, 299)), cut=st.integers(1, 4000))
def test_misses_among_values_of_one_length(count: int, missing: set[int], cut: int) -> None:
    values = [None if i in missing else i.to_bytes(8, "big") for i in range(count)]
    taken = Replies([count], Buffer(1 << 10))
    taken.receive(in_pieces(on_the_wire([values]), range(cut, 6000, cut)))
    got = taken.values()
    assert listed(got) == values
    assert (got.width == 8) == (None not in values)


@pytest.mark.parametrize(
    "raw",
    [
        b"-ERR no\r\n",
        b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
        b">2\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"*2\r\n$1\r\na\r\n:7\r\n",
        b"*2\r\n$1\r\na\r\n-WRONG\r\n",
        b"*2\r\n$x\r\na\r\n$1\r\nb\r\n",
        b"*2\r\n$-2\r\n$1\r\nb\r\n",
        b"*2\r\n$" + b"9" * 40 + b"\r\n",
    ],
)
def test_anything_but_an_array_of_texts_is_unexpected_and_kept(raw: bytes) -> None:
    taken = Replies([2], Buffer(64))
    with pytest.raises(Unexpected) as caught:
        taken.receive(in_pieces(raw, []))
    assert caught.value.unread == raw


# --------------------------------------------------------------------------------------------------------- the stores


@pytest.fixture(params=["lmdb", "redis over tcp", "redis over a unix socket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineStore]:
    url = "lmdb://online"
    if request.param != "lmdb":
        server: services.RedisServer = request.getfixturevalue("fresh_redis")
        url = server.url if "tcp" in request.param else server.unix_url
    with open_store(url, tmp_path) as opened:
        yield opened


def row(number: int) -> bytes:
    return b"fsv1\0\0\0\0" + number.to_bytes(8, "little")


@pytest.mark.parametrize("count", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
@pytest.mark.parametrize("together", [1, 2, 3])
def test_fetch_gives_what_read_gives(store: OnlineStore, count: int, together: int) -> None:
    names = np.arange(count * together, dtype="<i8").reshape(-1, 1)
    keys = names.view(np.uint8)
    listing = [k.tobytes() for k in keys]
    there = [k for i, k in enumerate(listing) if i % 7 != 3]
    store.write([(k, row(len(k)) + b"z" * (i % 3 * 8)) for i, k in enumerate(there)])
    want = store.read(listing)
    for asked in (Asked(keys, together), Asked(listing, together)):
        (values,) = store.fetch([asked], timeout=30)
        assert listed(values) == want
        bases = values.part(0, len(values), together)
        assert listed(bases) == want[::together]


def test_batches_of_several_kinds_come_in_one_go(store: OnlineStore) -> None:
    store.write([(b"a", row(1)), (b"bb", row(2)), (b"n" * 8, row(3) + b"12345678")])
    numbers = np.frombuffer(b"n" * 8, np.uint8).reshape(1, 8)
    none = np.empty((0, 8), np.uint8)
    got = store.fetch([Asked([b"a", b"bb"], 2), Asked(numbers), Asked([]), Asked([b"x", b"a"]), Asked(none)])
    assert [listed(v) for v in got] == [[row(1), row(2)], [row(3) + b"12345678"], [], [None, row(1)], []]
    assert [v.width for v in got[1:]] == [24, None, None, None]


@contextmanager
def server_that_says(*replies: bytes) -> Iterator[str]:
    """The URL of a server that accepts whatever a connection begins with, then answers each MGET with the next bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    answers = iter(replies)

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                while asked := peer.recv(1 << 20):
                    if b"MGET" in asked:
                        if (answer := next(answers, None)) is None:
                            break
                        peer.sendall(answer)
                    else:
                        peer.sendall(b"+OK\r\n" * asked.count(b"\r\n*" if asked[:1] != b"*" else b"*"))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0?timeout=0.5"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


TWO = on_the_wire([[b"a", b"b"]])


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (b"-NOPERM this user has no permissions\r\n", OnlineStoreError, "the server refused this user"),
        (b"-LOADING Redis is loading the dataset\r\n", StoreUnavailable, "still loading"),
        (b"-MOVED 1234 127.0.0.1:7001\r\n", FeatureStoreError, "cluster"),
        (b"-ERR anything\r\n", OnlineStoreError, "anything"),
        (b"*2\r\n$1\r\na\r\n", StoreUnavailable, "no answer in time"),
        (b"*2\r\n", StoreUnavailable, "no answer in time"),
        (b"*2\r\n$4\r\nab", StoreUnavailable, "no answer in time"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_ours(
    tmp_path: Path, answer: bytes, kind: type[Exception], message: str
) -> None:
    with server_that_says(answer, TWO) as url, open_store(url, tmp_path) as opened:
        with pytest.raises(kind, match=message):
            opened.fetch([Asked([b"k", b"l"])])
        assert listed(opened.fetch([Asked([b"k", b"l"])])[0]) == [
            b"a",
            b"b",
        ]  # over a connection that is clean


def test_a_dropped_connection_is_made_again_once(tmp_path: Path, redis_url: str) -> None:
    with open_store(redis_url, tmp_path) as opened:
        opened.write([(b"k" * 8, row(1))])
        opened.fetch([Asked([b"k" * 8])])
        opened._readers._idle[0]._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
        assert listed(opened.fetch([Asked([b"k" * 8])])[0]) == [row(1)]


def test_a_deadline_ends_a_fetch(tmp_path: Path) -> None:
    with server_that_says(b"*2\r\n$1\r\na\r\n") as url, open_store(url, tmp_path) as opened:
        before = time.monotonic()
        with pytest.raises(StoreUnavailable):
            opened.fetch([Asked([b"k", b"l"])], timeout=0.05)
        assert time.monotonic() - before < 0.45


def test_values_come_through_tls(tmp_path: Path) -> None:
    binary = shutil.which("redis-server") or services.missing("redis-server", package="redis-server")
    if shutil.which("openssl") is None or not _has_tls(binary):
        pytest.skip("no openssl, or a redis-server without TLS")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(
        [*make.split(), "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    port = services.free_port()
    words = f"--port 0 --tls-port {port} --tls-cert-file cert.pem --tls-key-file key.pem --tls-auth-clients no --save"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([binary, *words.split(), ""], cwd=tmp_path, stdout=log, stderr=log)
    try:
        with open_store(f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path}/cert.pem", tmp_path) as opened:
            for _ in range(300):
                try:
                    opened.write([(b"k" * 8, row(1))])
                    break
                except StoreUnavailable:
                    time.sleep(0.05)
            items = [(i.to_bytes(8, "big"), row(i) + bytes(1000)) for i in range(1200)]
            opened.write(items)
            keys = np.array([list(k) for k, _ in items], np.uint8)
            for timeout in (None, 20.0):
                (values,) = opened.fetch([Asked(keys)], timeout)
                assert values.width == 1016
                assert listed(values) == [v for _, v in items]
    finally:
        server.terminate()
        server.wait()


def _has_tls(binary: str) -> bool:
    done = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False)
    return "libssl" in done.stdout


# ------------------------------------------------------------------------------------------------------------- readers

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
MANY = 700
DEFINITIONS = """
import featurestore as fs
person = fs.Entity("person", key="id")
source = fs.BatchSource("events", fs.Parquet("events.parquet"), event_time="at")
newest = fs.FeatureView("newest", person, source, [fs.latest("x"), fs.latest("y"), fs.latest("n").default(7)])
short = fs.FeatureView("short", person, source, [fs.latest("x"), fs.latest("y")], ttl=fs.minutes(30))
sizes = (fs.minutes(10), fs.hours(1), fs.hours(3))
windows = fs.FeatureView("windows", person, source, [
    fs.count().over(*sizes), fs.sum("x").over(*sizes), fs.stddev_samp("x").over(*sizes), fs.max("n").over(*sizes),
    fs.last_k("n", 2).over(*sizes), fs.last("text").over(*sizes), fs.sum("x").over(fs.lifetime)])
request = fs.RequestSource("asked", columns={"price": fs.Float64})
dear = fs.OnDemand("dear", request["price"] / newest["x"])
pair = fs.Entity("pair", keys=("id", "n"))
pairs = fs.FeatureView("pairs", pair, source, [fs.latest("y")])
services = [fs.FeatureService(v.name, features=[v]) for v in (newest, short, windows, pairs)]
services += [fs.FeatureService("x_y", features=[newest["x"], newest["y"]]),
             fs.FeatureService("all", features=[newest, windows, dear])]
services += [fs.FeatureService(f"only_{f}", features=[windows[f]]) for f in
             ("count_10m", "x_sum_1h", "x_stddev_samp_3h", "n_max_10m", "n_last_2_1h", "text_last_3h", "x_sum_lifetime")]
"""


@pytest.fixture(scope="module", params=["lmdb", "redis"])
def project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[fs.FeatureStore]:
    folder = tmp_path_factory.mktemp("fast")
    url = (
        "lmdb://online" if request.param == "lmdb" else request.getfixturevalue("redis_url") + "?prefix=fast"
    )
    rng = np.random.default_rng(3)
    ids = np.concatenate([np.arange(MANY), rng.integers(0, MANY, 6 * MANY)])
    at = [NOON - timedelta(seconds=int(s)) for s in rng.integers(1, 4 * 3600, len(ids))]
    x = rng.normal(size=len(ids))
    x[::97] = -0.0
    rows = {
        "id": ids, "at": at, "x": x, "y": pa.array(rng.normal(size=len(ids)).astype(np.float32)),
        "n": pa.array(rng.integers(0, 3, len(ids)), mask=(rng.random(len(ids)) < 0.01) & (np.arange(len(ids)) >= MANY)),
        "text": [f"t{i}" for i in range(len(ids))],
    }  # fmt: skip
    pq.write_table(pa.table(rows), folder / "events.parquet")
    (folder / "fast.py").write_text(DEFINITIONS, encoding="utf-8")
    (folder / "fs.toml").write_text(f'[project]\nname = "fast"\n[online]\nurl = "{url}"\n', encoding="utf-8")
    with fs.FeatureStore(folder) as made:
        made.apply()
        made.materialize(end=NOON)
        yield made


def everything(read: Any) -> tuple[Any, ...]:
    return read.to_dict(), read.mask.tolist(), read.statuses.tolist(), read.ages.tolist()


SERVICES = ["newest", "short", "windows", "x_y"]


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("ago", [0, 45 * 60])
def test_many_at_once_are_what_each_is_alone(project: fs.FeatureStore, name: str, ago: int) -> None:
    """Batches that are plain, and those that are not: with unknown, expired and repeated entities among them."""
    reader, at = project.reader(name), NOON - timedelta(seconds=ago)
    rng = np.random.default_rng(5)
    alone = {i: everything(reader.get([i], at=at)) for i in range(40)}
    for batch in (range(40), range(3), [5, 5, 7], rng.integers(0, 40, 90), [38, 39, 2]):
        ids = [int(i) for i in batch]
        read = everything(reader.get(np.array(ids), at=at))
        for row_number, i in enumerate(ids):
            values, mask, statuses, ages = alone[i]
            assert {n: v[row_number] for n, v in read[0].items()} == {n: v[0] for n, v in values.items()}
            assert [read[k][row_number] for k in (1, 2, 3)] == [mask[0], statuses[0], ages[0]]


def test_windows_read_together_are_what_each_is_alone(project: fs.FeatureStore) -> None:
    whole = project.reader("windows").get(np.arange(-1, 50), at=NOON)
    for service in (
        "count_10m",
        "x_sum_1h",
        "x_stddev_samp_3h",
        "n_max_10m",
        "n_last_2_1h",
        "text_last_3h",
        "x_sum_lifetime",
    ):
        one = project.reader(f"only_{service}").get(np.arange(-1, 50), at=NOON)
        assert one.to_dict()[service] == whole.to_dict()[service]
        assert one.statuses[:, 0].tolist() == whole.statuses[:, whole.names.index(service)].tolist()


def test_ways_to_give_keys(project: fs.FeatureStore) -> None:
    reader = project.reader("newest")
    want = everything(reader.get({"id": [3, 4]}, at=NOON))
    for keys in (
        np.array([3, 4]),
        [3, 4],
        (3, 4),
        [{"id": 3}, {"id": 4}],
        np.array([3, 4], np.int32),
        pa.array([3, 4]),
    ):
        assert everything(reader.get(keys, at=NOON)) == want
    assert everything(reader.get(3, at=NOON)) == everything(reader.get([3], at=NOON))
    assert len(reader.get([], at=NOON)) == len(reader.get(np.array([], np.int64), at=NOON)) == 0
    assert reader.get([3, None], at=NOON).statuses[1].tolist() != want[2][1]
    with pytest.raises(RequestError, match=r"has the keys id, n, and values came without their names"):
        project.reader("pairs").get([1, 2])
    with pytest.raises(RequestError, match=r"is 1\.5 in row 0"):
        reader.get(np.array([1.5]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["newest", "windows", "x_y"])
def test_a_buffer_of_the_callers_is_filled(project: fs.FeatureStore, name: str, dtype: Any) -> None:
    reader = project.reader(name)
    for ids in (np.arange(60), np.array([-5, 1, 1])):
        want = reader.get(ids, at=NOON).to_numpy(np.dtype(dtype).name)
        out = np.full(want.shape, 99, dtype)
        read = reader.get(ids, out, at=NOON)
        assert out.tobytes() == want.tobytes()
        assert read.to_numpy(np.dtype(dtype).name).tobytes() == want.tobytes()
        assert not np.signbit(out[out == 0]).any()
        plain = memoryview(bytearray(out.nbytes)).cast("B").cast(out.dtype.char, list(out.shape))
        assert read.into(plain) is plain
        assert bytes(plain) == want.tobytes()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((2, 2)), r"of shape \(2, 2\)"),
        (np.empty((3, 2), np.float16), "of float16"),
        (np.empty((3, 2), np.int32), "of int32"),
        (np.empty((3, 2), ">f4"), "of >f4"),
        (np.empty((2, 3), np.float32).T, "not C-contiguous"),
        (np.broadcast_to(np.float32(0), (3, 2)), "not C-contiguous and read-only"),
        ([[0.0, 0.0]] * 3, "is a list without memory that can be shared"),
        (bytes(24), r"of shape \(24,\) and of uint8 and read-only"),
    ],
)
def test_a_buffer_that_does_not_fit_is_refused_before_anything_is_read(
    project: fs.FeatureStore, out: Any, message: str
) -> None:
    reader = project.reader("x_y")
    with pytest.raises(RequestError, match=message):
        reader.get(np.arange(3), out)
    with pytest.raises(RequestError, match=message):
        asyncio.run(reader.get_async(np.arange(3), out))


def test_request_columns_and_what_is_computed_of_them(project: fs.FeatureStore) -> None:
    reader = project.reader("all")
    read = reader.get([1, -1], request={"price": [3.0, 1.0]}, at=NOON)
    x = project.reader("newest").get([1], at=NOON).to_dict()["x"][0]
    assert read.to_dict()["dear"] == [3.0 / x, None]
    with pytest.raises(RequestError, match="request column 'price' of service 'all' is missing"):
        reader.get([1])


def test_a_reader_is_what_the_store_reads_with(project: fs.FeatureStore) -> None:
    online = project.get_online_features("windows", {"id": [1, 2]}, at=NOON)
    assert everything(online) == everything(project.reader("windows").get([1, 2], at=NOON))
    assert project.reader("windows") is project.reader("windows")


def test_the_tensor_goes_to_others_by_dlpack(project: fs.FeatureStore) -> None:
    read = project.reader("newest").get(np.arange(5), at=NOON)
    shared = np.from_dlpack(read)
    assert shared.dtype == np.float32
    assert shared.tobytes() == read.to_numpy().tobytes()


IN_JAX = """
import sys
import jax, numpy as np
import featurestore as fs
with fs.FeatureStore(sys.argv[1]) as store:
    read = store.reader("newest").get(np.arange(5), at=sys.argv[2])
    assert np.asarray(jax.numpy.from_dlpack(read)).tobytes() == read.to_numpy().tobytes()
"""


def test_jax_takes_the_tensor_by_dlpack(project: fs.FeatureStore) -> None:
    """In a process of its own: one that holds JAX must not fork, and other tests do."""
    if find_spec("jax") is None:
        pytest.skip("could not import 'jax'")
    words = [sys.executable, "-c", IN_JAX, str(project.config.root), NOON.isoformat()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_torch_reads_into_tensors(project: fs.FeatureStore) -> None:
    torch = pytest.importorskip("torch")
    reader = project.reader("x_y")
    out = torch.empty((5, 2), pin_memory=torch.cuda.is_available())
    read = reader.get(np.arange(5), out, at=NOON)
    assert torch.equal(out, read.to_torch())
    assert torch.equal(torch.from_dlpack(read), out)
    weights = torch.nn.Parameter(torch.empty((5, 2)), requires_grad=False)
    reader.get(np.arange(5), weights, at=NOON)
    assert torch.equal(weights, out)
    for wrong, said in (
        (torch.empty((5, 2), dtype=torch.float16), "of float16"),
        (torch.empty((2, 5)).T, "not C-contiguous"),
        (torch.empty((5, 2), device="meta"), "meta"),
        (torch.empty((5, 2), requires_grad=True), "grad"),
        (torch.empty((5, 2)).untyped_storage(), "UntypedStorage"),
    ):
        with pytest.raises(RequestError, match=said):
            reader.get(np.arange(5), wrong)


def test_torch_shares_the_memory_of_the_array_it_is_given(
    project: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    read = project.reader("x_y").get(np.arange(5), at=NOON)
    array = read.to_numpy()
    monkeypatch.setattr(OnlineFeatures, "to_numpy", lambda _: array)
    for device in ("cpu", torch.device("cpu")):
        assert read.to_torch(device).data_ptr() == array.ctypes.data
    assert torch.from_dlpack(read).data_ptr() == array.ctypes.data
    assert read.to_torch("meta").shape == (5, 2)


# --------------------------------------------------------------------------------------------------------- event loops


@contextmanager
def counted(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many keys each read of the store asks for."""
    asked: list[int] = []
    fetch = reader.store.fetch

    def count(batches: Sequence[Asked], timeout: float | None = None) -> list[Values]:
        asked.append(sum(map(len, batches)))
        return fetch(batches, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(reader.store, "fetch", count)
        yield asked


def test_what_is_asked_in_one_tick_is_one_read(
    project: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = project.reader("newest")
    want = [everything(reader.get([i % 9, i], at=NOON)) for i in range(20)]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(
            *(project.get_online_features_async("newest", {"id": [i % 9, i]}, at=NOON) for i in range(20))
        )

    assert isinstance(reader, Reader)
    with counted(reader, monkeypatch) as asked:
        got = asyncio.run(all_at_once())
    assert [everything(g) for g in got] == want
    assert len({g.request_id for g in got}) == 20
    assert asked == [20]  # each entity once


def test_moments_and_request_columns_stay_apart(project: fs.FeatureStore) -> None:
    reader = project.reader("all")
    asked = [(i, float(i), NOON - timedelta(minutes=i % 2 * 20)) for i in range(1, 9)]
    want = [everything(reader.get([i], request={"price": [p]}, at=at)) for i, p, at in asked]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(
            *(reader.get_async([i], None, {"price": [p]}, at=at) for i, p, at in asked)
        )

    assert [everything(g) for g in asyncio.run(all_at_once())] == want


def test_one_request_that_does_not_fit_leaves_the_others_alone(project: fs.FeatureStore) -> None:
    reader = project.reader("newest")

    async def all_at_once() -> list[Any]:
        asked = (reader.get_async(keys, at=NOON) for keys in ([1], ["no"], [2]))
        return await asyncio.gather(*asked, return_exceptions=True)

    one, wrong, two = asyncio.run(all_at_once())
    assert isinstance(wrong, RequestError)
    assert [len(one), len(two)] == [1, 1]


def test_one_entity_that_is_corrupt_leaves_the_others_alone(project: fs.FeatureStore) -> None:
    reader = project.reader("short")
    assert isinstance(reader, Reader)
    (group,) = reader._groups
    ((where,), _) = entity_keys(group.view, [[55]], group.codec.prefix + BASE)
    (was,) = reader.store.read([where])
    assert was is not None
    reader.store.write([(where, b"junk" * 16)])
    try:

        async def all_at_once() -> list[Any]:
            asked = (reader.get_async([i], at=NOON) for i in (54, 55, 56))
            return await asyncio.gather(*asked, return_exceptions=True)

        before, wrong, after = asyncio.run(all_at_once())
    finally:
        reader.store.write([(where, was)])
    assert isinstance(wrong, StoreCorrupt)
    assert [len(before), len(after)] == [1, 1]


def test_each_request_has_its_own_deadline(project: fs.FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = project.reader("newest")
    assert isinstance(reader, Reader)
    assert isinstance(reader, Reader)
    fetch = reader.store.fetch

    def slow(batches: Sequence[Asked], timeout: float | None = None) -> list[Values]:
        time.sleep(0.3)
        return fetch(batches, timeout)

    async def all_at_once() -> list[Any]:
        given = [reader.get_async([1], timeout=0.05, at=NOON), reader.get_async([2], at=NOON)]
        gone = asyncio.ensure_future(reader.get_async([3], at=NOON))
        asyncio.get_running_loop().call_later(0.05, gone.cancel)
        return await asyncio.gather(*given, gone, return_exceptions=True)

    monkeypatch.setattr(reader.store, "fetch", slow)
    late, whole, gone = asyncio.run(all_at_once())
    assert isinstance(late, StoreUnavailable)
    assert "no answer within 0.05 s" in str(late)
    assert len(whole) == 1
    assert isinstance(gone, asyncio.CancelledError)


def test_a_reader_works_on_both_sides_of_a_fork(project: fs.FeatureStore) -> None:
    reader = project.reader("windows")
    ids = np.arange(20)
    want = reader.get(ids, at=NOON).to_numpy().tobytes()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, b"%d" % (reader.get(ids, at=NOON).to_numpy().tobytes() == want))
        finally:
            os._exit(0)
    os.close(write)
    same = reader.get(ids, at=NOON).to_numpy().tobytes() == want
    with os.fdopen(read, "rb") as answer:
        assert answer.read() == b"1"
    os.waitpid(child, 0)
    assert same


def test_threads_share_a_reader(project: fs.FeatureStore) -> None:
    reader = project.reader("all")
    want = {i: everything(reader.get([i, 1], request={"price": 2.0}, at=NOON)) for i in range(8)}
    wrong: list[int] = []

    def read(i: int) -> None:
        wrong.extend(
            i for _ in range(30) if everything(reader.get([i, 1], request={"price": 2.0}, at=NOON)) != want[i]
        )

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
