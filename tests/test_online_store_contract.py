"""What every online store promises, kept by LMDB and by a real Redis over TCP and over a Unix socket."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from featurestore.errors import (
    ConfigError,
    FeatureStoreError,
    OnlineStoreError,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
)
from featurestore.online import lmdb as lmdb_store
from featurestore.online.store import COUNTER_OFFSET, HEADER_SIZE, MAX_KEY, OnlineStore, open_store
from tests import services

AWKWARD = [
    b"\0",
    b"\0\0",
    b"\xff\xff",
    b"plain",
    b"a*b",
    b"a?b",
    b"a[b]c",
    b"a\\*b",
    b"a^-b",
    b"new\r\nline $3",
    "Zürich".encode(),
    bytes(range(256)),
    b"k" * MAX_KEY,
]


@dataclass
class Place:
    """Where a store under test lies; `open` opens it once more."""

    url: str
    base: Path
    opened: list[OnlineStore] = field(default_factory=list)

    def open(self) -> OnlineStore:
        self.opened.append(open_store(self.url, self.base))
        return self.opened[-1]

    @property
    def is_lmdb(self) -> bool:
        return self.url.startswith("lmdb")


@pytest.fixture(params=["lmdb", "redis over tcp", "redis over a unix socket", "redis cluster"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    where = Place("lmdb://.fs/online", tmp_path)
    if request.param == "redis cluster":
        where.url = request.getfixturevalue("redis_cluster")
        emptied(where.url)
    elif request.param != "lmdb":
        server: services.RedisServer = request.getfixturevalue("fresh_redis")
        where.url = server.url if "tcp" in request.param else f"{server.unix_url}?db=0"
    yield where
    for store in where.opened:
        store.close()


def servers_of(url: str) -> list[int]:
    """The ports of a cluster's servers."""
    return [int(part.rpartition(":")[2]) for part in url.split(",")]


def emptied(url: str) -> None:
    for port in servers_of(url):
        with redis.Redis(host="127.0.0.1", port=port) as client:
            client.flushall()


@pytest.fixture
def store(place: Place) -> OnlineStore:
    return place.open()


def row(counter: int, payload: bytes = b"") -> bytes:
    return b"fsv1\0\0\0\0" + counter.to_bytes(HEADER_SIZE - COUNTER_OFFSET, "little") + payload


def key(number: int) -> bytes:
    return b"view-007b" + struct.pack("<q", number)


def python(code: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own; its arguments are in `sys.argv[1:]`."""
    with process(code, *arguments) as running:
        out, err = running.communicate(timeout=120)
    assert not check or running.returncode == 0, err
    return subprocess.CompletedProcess([], running.returncode, out, err)


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code), *map(str, arguments)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


PRELUDE = """
import os, sys
from pathlib import Path
from featurestore.errors import *
from featurestore.online.store import open_store
def row(counter, payload=b""):
    return b"fsv1" + bytes(4) + counter.to_bytes(8, "little") + payload
"""


# --- bytes in, the same bytes out ------------------------------------------------------------------


def test_any_bytes_come_back(store: OnlineStore) -> None:
    items = [(name, row(0, name[::-1] + bytes(range(256)))) for name in AWKWARD]
    assert store.write(items) == len(items)
    assert store.read(AWKWARD) == [value for _, value in items]
    assert dict(store.scan(b"")) == dict(items)
    for name, value in items:  # alone, and so in the shape for keys of one length
        assert store.read([name]) == [value]


def test_values_may_be_empty_or_large(store: OnlineStore) -> None:
    items = [(b"empty", b""), (b"large", os.urandom(6 << 20)), (b"small", b"x")]
    assert store.write(items) == 3
    assert store.read([b"large", b"empty", b"small"]) == [items[1][1], b"", b"x"]


def test_read_keeps_the_order_and_knows_what_is_missing(store: OnlineStore) -> None:
    store.write([(key(n), row(n)) for n in range(10)])
    wanted = [key(3), key(99), key(3), b"other", key(0)]
    assert store.read(wanted) == [row(3), None, row(3), None, row(0)]


def test_an_empty_batch_does_nothing(store: OnlineStore) -> None:
    assert store.read([]) == []
    assert store.write([]) == store.write(iter(())) == 0
    assert store.replace([], []) == []
    assert store.delete([]) == store.delete_prefix(b"x") == store.count(b"") == 0
    assert list(store.scan(b"")) == []
    store.set_metas({})
    assert store.size().keys == 0


def test_a_hundred_thousand_items_from_a_generator(store: OnlineStore) -> None:
    many = 100_000
    assert store.write((key(n), row(n, b"v" * (n % 50))) for n in range(many)) == many
    wanted = list(range(0, many, 7))
    assert store.read([key(n) for n in wanted]) == [row(n, b"v" * (n % 50)) for n in wanted]
    assert store.count(b"view-007") == store.size().keys == many
    assert store.size().bytes > many * 24
    assert dict(store.scan(b"view-007b")).keys() == {key(n) for n in range(many)}
    assert store.delete_prefix(b"view-007b") == many
    assert store.count(b"") == 0


def test_the_last_of_a_repeated_key_stays(store: OnlineStore) -> None:
    assert store.write([(b"k", b"1"), (b"a", b"x"), (b"k", b"2"), (b"k", b"3")]) == 4
    assert store.read([b"k"]) == [b"3"]
    assert store.write([(key(1), row(n)) for n in range(3000)]) == 3000
    assert store.read([key(1)]) == [row(2999)]


@pytest.mark.parametrize("name", [b"", b"k" * (MAX_KEY + 1)], ids=["empty", "too long"])
def test_a_key_of_a_wrong_length_is_refused(store: OnlineStore, name: bytes) -> None:
    with pytest.raises(OnlineStoreError, match=f"1 to {MAX_KEY} bytes"):
        store.write([(b"good", b"1"), (name, b"2")])
    assert store.read([b"good"]) == [None]


def test_a_write_stops_where_its_source_fails(place: Place) -> None:
    def items() -> Iterator[tuple[bytes, bytes]]:
        yield from ((key(n), row(n)) for n in range(2000))
        raise RuntimeError("the source broke")

    store = place.open()
    with pytest.raises(RuntimeError, match="the source broke"):
        store.write(items())
    assert store.read([b"none"]) == [None]  # replies of the broken write answer nobody else
    assert store.write([(b"k", b"v")]) == 1
    if place.is_lmdb:
        assert store.count(b"view") == 0


# --- prefixes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [b"a*", b"a?", b"a[b", b"\\", b"^", b"\xff", b"\0", b"-"])
def test_a_prefix_is_bytes_and_no_pattern(store: OnlineStore, prefix: bytes) -> None:
    inside = [prefix, prefix + b"1", prefix + b"\0", prefix + b"\xff"]
    outside = [b"a", b"aXb", b"ab", b"zz", b"\xfe", b"\x01", b"\\"[: len(prefix) - 1] + b"q"]
    store.write((name, b"v") for name in inside + outside)
    assert sorted(name for name, _ in store.scan(prefix)) == sorted(inside)
    assert store.count(prefix) == len(inside)
    assert store.delete_prefix(prefix) == len(inside)
    assert sorted(name for name, _ in store.scan(b"")) == sorted(set(outside))


def test_a_scan_pages_through_the_longest_keys_and_bears_writes(store: OnlineStore) -> None:
    names = [b"p" * (MAX_KEY - 2) + struct.pack(">H", n) for n in range(2500)]
    store.write((name, b"v") for name in names)
    seen = set()
    for at, (name, _) in enumerate(store.scan(b"p")):
        seen.add(name)
        if at % 500 == 0:
            store.write([(b"q%d" % at, b"v")])
    assert seen == set(names)


def test_delete_counts_what_was_there(store: OnlineStore) -> None:
    store.write((key(n), b"v") for n in range(1500))
    assert store.delete([key(n) for n in range(1000, 3000)]) == 500
    assert store.delete([key(1), key(1), b"never"]) == 1
    assert store.count(b"") == 999


# --- compare and set -------------------------------------------------------------------------------


def test_replace_needs_the_expected_counter(store: OnlineStore) -> None:
    assert store.replace([(b"k", row(1))], [0]) == [False]
    assert store.replace([(b"k", row(1))], [None]) == [True]
    assert store.replace([(b"k", row(9))], [None]) == [False]
    assert store.replace([(b"k", row(9))], [2]) == [False]
    assert store.read([b"k"]) == [row(1)]
    assert store.replace([(b"k", row(2, b"more"))], [1]) == [True]
    assert store.read([b"k"]) == [row(2, b"more")]


@pytest.mark.parametrize("counter", [0, 10, 0x0D0A, 255, 2**53 + 1, 2**64 - 1])
def test_a_counter_is_compared_in_all_its_bits(store: OnlineStore, counter: int) -> None:
    store.write([(b"k", row(counter))])
    assert store.replace([(b"k", row(7))], [counter ^ 1]) == [False]
    assert store.replace([(b"k", row(7))], [counter]) == [True]


def test_replace_takes_a_batch_in_order(store: OnlineStore) -> None:
    items = [(b"k", row(1)), (b"k", row(2)), (b"k", row(2)), (b"other", row(1))]
    assert store.replace(items, [None, 1, 1, 5]) == [True, True, False, False]
    many = [(key(n), row(1)) for n in range(1234)]
    store.write(many[::3])
    assert store.replace(many, [None] * 1234) == [n % 3 != 0 for n in range(1234)]


@pytest.mark.parametrize("value", [b"", b"short", b"fsv1\0\0\0\0" + b"\1" * 7])
def test_a_value_without_a_header_is_there_and_matches_no_counter(store: OnlineStore, value: bytes) -> None:
    store.write([(b"k", value)])
    expected: list[int | None] = [None, 0, 1]
    assert store.replace([(b"k", row(1))] * 3, expected) == [False, False, False]
    assert store.read([b"k"]) == [value]


def test_of_many_threads_exactly_one_wins_each_step(store: OnlineStore) -> None:
    wins: list[int] = []
    threads = [threading.Thread(target=lambda: wins.append(steps(store, 150))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read([b"k"]) == [row(sum(wins))]
    assert len(wins) == 4


def steps(store: OnlineStore, tries: int) -> int:
    won = 0
    for _ in range(tries):
        [value] = store.read([b"k"])
        seen = None if value is None else int.from_bytes(value[COUNTER_OFFSET:HEADER_SIZE], "little")
        won += store.replace([(b"k", row((seen or 0) + 1))], [seen])[0]
    return won


STEPS = """
store, won = open_store(sys.argv[1], Path(sys.argv[2])), 0
for _ in range(200):
    [value] = store.read([b"k"])
    seen = None if value is None else int.from_bytes(value[8:16], "little")
    won += store.replace([(b"k", row((seen or 0) + 1))], [seen])[0]
print(won)
"""


def test_of_many_processes_exactly_one_wins_each_step(place: Place) -> None:
    with process(STEPS, place.url, place.base) as one, process(STEPS, place.url, place.base) as two:
        wins = [int(running.communicate(timeout=120)[0].split()[-1]) for running in (one, two)]
    assert place.open().read([b"k"]) == [row(sum(wins))]
    assert sum(wins) >= 200


# --- metas and identity ----------------------------------------------------------------------------


def test_metas_are_apart_from_data(store: OnlineStore) -> None:
    assert store.get_meta("watermark") is None
    store.set_metas({"watermark": b"\0\xff", "view/eins ü": b"2", "!": b"3"})
    assert store.write([(b".watermark", b"data"), (b"watermark", b"data"), (b"!", b"data")]) == 3
    assert store.get_meta("watermark") == b"\0\xff"
    assert store.get_meta("view/eins ü") == b"2"
    assert store.size().keys == store.count(b"") == len(dict(store.scan(b""))) == 3
    assert store.delete_prefix(b"") == 3
    assert store.get_meta("!") == b"3"


def test_metas_come_with_their_data(store: OnlineStore) -> None:
    assert store.write(((key(n), row(n)) for n in range(5)), metas={"cut": b"12:00"}) == 5
    assert store.get_meta("cut") == b"12:00"
    assert store.write([], metas={"cut": b"13:00"}) == 0
    assert store.get_meta("cut") == b"13:00"
    with pytest.raises(OnlineStoreError):
        store.write([(b"", b"no such key")], metas={"cut": b"14:00"})
    assert store.get_meta("cut") == b"13:00"


def test_identity_outlives_opening_and_deleting(place: Place) -> None:
    store = place.open()
    first = store.identity()
    store.write([(b"k", b"v")])
    store.delete_prefix(b"")
    assert store.identity() == first
    store.close()
    assert place.open().identity() == first


# --- sharing ---------------------------------------------------------------------------------------


def test_a_closed_store_says_so(place: Place) -> None:
    with place.open() as store:
        store.write([(b"k", b"v")])
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: store.read([b"k"]),
        lambda: store.write([(b"k", b"w")]),
        lambda: store.get_meta("m"),
        store.identity,
    ]
    for call in calls:
        with pytest.raises(OnlineStoreError, match=r"closed(.|\n)*open it again"):
            call()
    assert "closed" in store.doctor()[0]
    assert place.open().read([b"k"]) == [b"v"]


def test_two_stores_on_one_place_see_each_other(place: Place) -> None:
    one, two = place.open(), place.open()
    one.write([(b"k", b"v")])
    assert two.read([b"k"]) == [b"v"]
    one.close()
    assert two.read([b"k"]) == [b"v"]


def test_threads_read_whole_batches_while_others_write(store: OnlineStore) -> None:
    # In a cluster a moment is that of one entity: what differs in the eighth byte.
    names = (
        [key(n) for n in range(300)]
        if "Cluster" not in repr(store)
        else [b"view-00%cname" % n for n in b"bh"]
    )
    store.write((name, row(0)) for name in names)
    over = threading.Event()
    torn: list[object] = []

    def reading() -> None:
        while not over.is_set():
            values = store.read(names)
            if None in values or len(set(values)) > 1:
                torn.append(values)

    readers = [threading.Thread(target=reading) for _ in range(4)]
    for reader in readers:
        reader.start()
    for counter in range(1, 100):
        store.write([(name, row(counter)) for name in names])
    over.set()
    for reader in readers:
        reader.join()
    assert torn == []  # 300 keys are one transaction in LMDB, and one MSET and one MGET in Redis


FORKED = """
import threading, time
store = open_store(sys.argv[1], Path(sys.argv[2]))
store.write([(b"k", row(1))])
assert store.read([b"k"]) == [row(1)]
over = threading.Event()
def busy():
    while not over.is_set():
        store.read([b"k"] * 50)
        store.write([(b"busy", b"v")])
if sys.version_info < (3, 12):  # later versions warn of threads at a fork, rightly; the lock must hold here too
    threading.Thread(target=busy).start()
time.sleep(0.05)
children = []
for child in range(6):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert store.read([b"k"])[0] is not None
            store.write([(b"child%d" % child, b"v")])
            second = open_store(sys.argv[1], Path(sys.argv[2]))
            assert second.read([b"child%d" % child]) == [b"v"]
            second.close()
            code = 0
        finally:
            os._exit(code)
    children.append(pid)
    assert store.read([b"k"]) == [row(1)]
codes = [os.waitpid(pid, 0)[1] for pid in children]
over.set()
assert codes == [0] * 6, codes
assert store.count(b"child") == 6
store.write([(b"after", b"v")])
assert store.read([b"after"]) == [b"v"]
"""


def test_both_sides_of_a_fork_go_on(place: Place) -> None:
    python(FORKED, place.url, place.base)
    assert place.open().count(b"child") == 6


def test_a_healthy_store_has_nothing_to_report(store: OnlineStore) -> None:
    store.write((key(n), row(n)) for n in range(1000))
    assert store.doctor() == []


# --- LMDB ------------------------------------------------------------------------------------------


@pytest.fixture
def small_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_store, "FIRST_MAP", 1 << 20)


def lmdb_at(path: Path, options: str = "") -> OnlineStore:
    return open_store(f"lmdb://{path}{options}", Path("/nowhere"))


def test_the_map_grows_under_readers_in_threads_and_processes(tmp_path: Path, small_map: None) -> None:
    watching = """
    store = open_store(f"lmdb://{sys.argv[1]}", Path("/"))
    print("ready", flush=True)
    while store.get_meta("done") is None:
        assert store.read([b"first"]) == [b"v"]
    store.write([(b"watcher", b"was here")])
    print(store.count(b""))
    """
    over = threading.Event()
    failed: list[BaseException] = []
    with lmdb_at(tmp_path / "s") as store:
        store.write([(b"first", b"v")])

        def reading() -> None:
            try:
                while not over.is_set():
                    assert store.read([b"first"] * 20) == [b"v"] * 20
                    assert store.count(b"f") == 1
            except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
                failed.append(error)

        readers = [threading.Thread(target=reading) for _ in range(3)]
        for reader in readers:
            reader.start()
        with process(watching, tmp_path / "s") as watcher:
            assert watcher.stdout is not None
            watcher.stdout.readline()
            for batch in range(8):
                store.write((b"b%d-%06d" % (batch, n), b"v" * 300) for n in range(10_000))
            store.set_metas({"done": b"1"})
            out, err = watcher.communicate(timeout=60)
        over.set()
        for reader in readers:
            reader.join()
        assert (failed, err, out.strip()) == ([], "", "80002")
        assert store.read([b"watcher"]) == [b"was here"]


def test_a_batch_over_the_limit_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with lmdb_at(tmp_path, "?map_size=2MiB") as store:
        store.write(((key(n), row(n)) for n in range(100)), metas={"cut": b"1"})
        with pytest.raises(StoreFull, match=r"2097152 bytes; nothing was written\n.*map_size=4MiB"):
            store.write(((b"x%d" % n, b"v" * 1000) for n in range(5000)), metas={"cut": b"2"})
        assert store.count(b"") == 100
        assert store.get_meta("cut") == b"1"
        assert store.write([(b"small", b"v")]) == 1
        store.write((b"x%d" % n, b"v" * 1000) for n in range(1350))
        assert "of the limit of 2097152 bytes is in use" in store.doctor()[0]


def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path) -> None:
    # No disk of our own to fill: a limit on the length of a file cuts writes short in the same way.
    filling = """
    import resource, signal
    store = open_store(f"lmdb://{sys.argv[1]}", Path("/"))
    store.write([(b"k%d" % n, b"v" * 100) for n in range(1000)])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    try:
        store.write([(b"x%d" % n, b"v" * 1000) for n in range(5000)])
    except StoreFull as error:
        print(error)
    assert store.count(b"") == 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.write([(b"x%d" % n, b"v" * 1000) for n in range(5000)])
    assert store.count(b"") == 6000
    """
    said = python(filling, tmp_path / "s").stdout
    assert str(tmp_path / "s") in said
    assert "disk is full" in said
    assert "nothing was written" in said


WRITER = """
store, batch = open_store(f"lmdb://{sys.argv[1]}", Path("/")), 0
while True:
    batch += 1
    store.write(((b"k%06d" % n, row(batch, b"v" * 100)) for n in range(20000)), metas={"batch": b"%d" % batch})
    print(batch, flush=True)
"""


def test_a_killed_writer_leaves_whole_batches(tmp_path: Path) -> None:
    for round_ in range(5):
        with process(WRITER, tmp_path) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.013 * round_ + 0.005)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        with lmdb_at(tmp_path) as store:
            values = {value for _, value in store.scan(b"")}
            batch = int(store.get_meta("batch") or b"")
            assert values == {row(batch, b"v" * 100)}
            assert store.count(b"") == 20_000
            assert store.doctor() == []
            store.write([(b"k000000", row(batch, b"v" * 100))])  # the dead writer's lock is free


def damaged(tmp_path: Path, damage: Callable[[Path], object]) -> Path:
    with lmdb_at(tmp_path / "s") as store:
        store.write((key(n), row(n, b"v" * 100)) for n in range(20_000))
    damage(tmp_path / "s" / "data.mdb")
    return tmp_path / "s"


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"not a database" * 1000),
        lambda file: file.write_bytes(b"short"),
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: os.truncate(file, 3 * 4096),
        lambda file: os.truncate(file, 4096),
    ],
    ids=["another file", "a few bytes", "half of it", "the first pages", "one page"],
)
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = damaged(tmp_path, damage)
    for _ in range(2):
        with pytest.raises(StoreCorrupt) as caught:
            lmdb_at(path)
        assert str(path) in str(caught.value)
        assert "delete the directory and materialise again" in str(caught.value)
    shutil.rmtree(path)
    with lmdb_at(path) as store:
        assert store.count(b"") == 0


def test_the_doctor_finds_a_damaged_page(tmp_path: Path) -> None:
    def scribble(file: Path) -> None:
        with file.open("r+b") as opened:
            opened.seek(40 * 4096)
            opened.write(b"\x55" * 4096)

    with lmdb_at(damaged(tmp_path, scribble)) as store:
        assert "delete the directory and materialise again" in store.doctor()[0]


def test_a_file_that_ends_in_free_pages_is_whole(tmp_path: Path) -> None:
    with lmdb_at(tmp_path) as store:
        store.write((key(n), row(n, b"v" * 100)) for n in range(5000))
        store.delete_prefix(b"")
        for _ in range(10):  # moves what is left to pages in front
            store.write([(b"k", b"v")])
    os.truncate(tmp_path / "data.mdb", (tmp_path / "data.mdb").stat().st_size - 2 * 4096)
    with lmdb_at(tmp_path) as store:
        assert store.read([b"k"]) == [b"v"]
        store.write((key(n), row(n, b"v" * 100)) for n in range(5000))
        assert store.doctor() == []


def test_a_place_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OnlineStoreError, match=str(path)):
            lmdb_at(path)


def test_a_directory_without_permission_is_named(tmp_path: Path) -> None:
    # Root may do anything, so it steps down.
    denied = """
    import featurestore.online.lmdb
    if os.geteuid() == 0:
        os.setegid(65534), os.seteuid(65534)
    try:
        open_store(f"lmdb://{sys.argv[1]}", Path("/"))
    except OnlineStoreError as error:
        print(error)
    """
    with lmdb_at(tmp_path / "s"):
        pass
    (tmp_path / "s").chmod(0o500)
    for file in (tmp_path / "s").iterdir():
        file.chmod(0o400)
    said = python(denied, tmp_path / "s").stdout
    assert str(tmp_path / "s") in said
    assert "no permission" in said


def test_a_directory_deleted_and_made_again_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_store, "LOOK_SECONDS", 0.05)
    with lmdb_at(tmp_path / "s") as store:
        store.write([(b"k", b"old")])
        before = store.identity()
        shutil.rmtree(tmp_path / "s")
        assert store.identity() != before
        assert store.read([b"k"]) == [None]
        shutil.rmtree(tmp_path / "s")
        python("open_store('lmdb://' + sys.argv[1], Path('/')).write([(b'k', b'new')])", tmp_path / "s")
        time.sleep(0.1)
        assert store.read([b"k"]) == [b"new"]
        shutil.rmtree(tmp_path / "s")
        store.write([(b"k", b"into the new one")])
        assert store.read([b"k"]) == [b"into the new one"]


def test_one_directory_under_two_names_is_one_environment(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "s")
    with lmdb_at(tmp_path / "s") as one, lmdb_at(tmp_path / "link") as two:
        one.write([(b"k", b"v")])
        assert two.read([b"k"]) == [b"v"]


# --- Redis -----------------------------------------------------------------------------------------


class OwnRedis:
    """A Redis that a test may stop, freeze and fill."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.port = home, port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.start()

    def start(self) -> None:
        binary = shutil.which("redis-server") or services.missing("redis-server", package="redis-server")
        command = services.redis_command(binary, self.home, self.port)
        self.process = subprocess.Popen(
            command.argv, cwd=self.home, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        assert services.wait_until(command.answers, self.process)

    def stop(self) -> None:
        services.stop(self.process)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    with services.directory("fs-own-redis-") as home:
        server = OwnRedis(home, services.free_port())
        yield server
        server.stop()


def redis_at(url: str) -> OnlineStore:
    return open_store(url, Path("/nowhere"))


@pytest.mark.redis
def test_a_redis_that_came_back_empty_has_another_identity(own_redis: OwnRedis) -> None:
    with redis_at(own_redis.url) as store:
        store.write([(b"k", row(1))])
        first = store.identity()
        own_redis.stop()
        own_redis.start()
        second = store.identity()
        assert second != first
        assert store.read([b"k"]) == [None]
        assert store.replace([(b"k", row(1))], [None]) == [True]  # the server forgot the script as well
        with own_redis.client() as client:
            client.flushall()
        assert store.identity() not in (first, second)


@pytest.mark.redis
def test_a_server_that_is_down_is_named(own_redis: OwnRedis) -> None:
    with redis_at(own_redis.url) as used, redis_at(own_redis.url) as fresh:
        used.write([(b"k", b"v")])
        assert used.read([b"k"]) == [b"v"]
        own_redis.stop()
        calls: list[Callable[[OnlineStore], object]] = [
            lambda store: store.read([b"k"]),
            lambda store: store.write([(b"k", b"v")]),
            lambda store: store.identity(),
        ]
        for store in (used, fresh):
            for call in calls:
                with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{own_redis.port}(.|\n)*is it running"):
                    call(store)
            assert "is it running" in store.doctor()[0]
        own_redis.start()
        assert used.write([(b"k", b"w")]) == 1
        assert fresh.read([b"k"]) == [b"w"]


@pytest.mark.redis
def test_a_server_that_hangs_costs_no_more_than_the_timeout(own_redis: OwnRedis) -> None:
    with redis_at(f"{own_redis.url}?timeout=0.3&connect_timeout=0.3") as store:
        store.write([(b"k", b"v")])
        store.read([b"k"])
        with own_redis.frozen():
            for timeout, most in ((0.05, 0.25), (None, 0.9)):
                for names in ([b"k"], [b"k"] * 2000):
                    start = time.monotonic()
                    with pytest.raises(StoreUnavailable, match="no answer"):
                        store.read(names, timeout=timeout)
                    assert time.monotonic() - start < most
            with pytest.raises(StoreUnavailable, match="no answer"):
                store.read([b"k"], timeout=0)
        assert store.read([b"k"], timeout=5) == [b"v"]  # no late answer is taken for this one
        assert store.read([b"k"]) == [b"v"]


@pytest.mark.redis
def test_a_dropped_connection_is_made_again(own_redis: OwnRedis) -> None:
    with redis_at(own_redis.url) as store, own_redis.client() as client:
        store.write([(b"k", b"v")])
        store.read([b"k"])
        for _ in range(3):
            client.client_kill_filter(_type="normal", skipme=True)
            assert store.read([b"k"]) == [b"v"]
            assert store.write([(b"k", b"v")]) == 1
            client.client_kill_filter(_type="normal", skipme=True)
            assert store.read([b"k"] * 1500) == [b"v"] * 1500
            assert store.replace([(b"k", row(1))], [None]) == [False]


@pytest.mark.redis
def test_a_flushed_script_is_sent_again(own_redis: OwnRedis) -> None:
    with redis_at(own_redis.url) as store, own_redis.client() as client:
        for counter in range(3):
            client.script_flush()
            assert store.replace([(b"k", row(counter + 1))], [counter or None]) == [True]


@pytest.mark.redis
def test_a_full_server_keeps_what_it_has(own_redis: OwnRedis) -> None:
    with redis_at(own_redis.url) as store, own_redis.client() as client:
        store.write((key(n), row(1)) for n in range(1000))
        store.replace([(key(0), row(1))], [1])
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + (4 << 20))
        with pytest.raises(StoreFull, match=r"maxmemory(.|\n)*\d+ items are written"):
            store.write((b"x%d" % n, b"v" * 1000) for n in range(20_000))
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreFull, match=r"maxmemory(.|\n)*0 items are decided"):
            store.replace([(key(0), row(2))], [1])
        assert store.read([key(n) for n in range(1000)]) == [row(1)] * 1000
        assert any("maxmemory is in use" in problem for problem in store.doctor())


@pytest.mark.redis
def test_a_server_that_may_forget_is_reported(own_redis: OwnRedis) -> None:
    with redis_at(own_redis.url) as store, own_redis.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        [problem] = store.doctor()
        assert str(own_redis.port) in problem
        assert "noeviction" in problem


@pytest.mark.redis
def test_a_wrong_password_is_refused_and_never_shown(own_redis: OwnRedis) -> None:
    at = f"127.0.0.1:{own_redis.port}"
    with own_redis.client() as client:
        client.config_set("requirepass", "s3cret/Word")
    with redis_at(f"redis://:s3cret%2FWord@{at}/0") as store:
        assert store.write([(b"k", b"v")]) == 1
        assert "s3cret" not in repr(store)
    with redis_at(f"unix://{own_redis.home}/redis.sock?password=s3cret%2FWord") as store:
        assert store.read([b"k"]) == [b"v"]
        assert "s3cret" not in repr(store)
    for login in (":wr0ng@", "someone:wr0ng@", ""):
        with redis_at(f"redis://{login}{at}/0") as store:
            with pytest.raises(OnlineStoreError, match=at) as caught:
                store.read([b"k"])
            assert not isinstance(caught.value, StoreUnavailable)
            assert "wr0ng" not in everything_said(caught.value)


@pytest.mark.redis
def test_a_key_of_another_kind_is_an_error_of_ours(own_redis: OwnRedis) -> None:
    with redis_at(own_redis.url) as store, own_redis.client() as client:
        client.rpush(b"fs:k", b"a list")
        assert store.read([b"k"]) == [None]
        with pytest.raises(OnlineStoreError, match="WRONGTYPE"):
            store.replace([(b"k", row(1))], [1])


@pytest.mark.redis
def test_stores_with_different_prefixes_share_a_database(own_redis: OwnRedis) -> None:
    with redis_at(own_redis.url) as plain, redis_at(f"{own_redis.url}?prefix=f") as other:
        plain.write([(b"k", b"1")], metas={"m": b"1"})
        other.write([(b"k", b"2"), (b"s:k", b"3")], metas={"m": b"2"})
        assert (plain.read([b"k"]), other.read([b"k"])) == ([b"1"], [b"2"])
        assert (plain.get_meta("m"), other.get_meta("m")) == (b"1", b"2")
        assert plain.identity() != other.identity()
        assert other.delete_prefix(b"") == 2
        assert plain.size().keys == 1


@pytest.mark.redis
def test_databases_are_apart(own_redis: OwnRedis) -> None:
    with redis_at(own_redis.url) as zero, redis_at(own_redis.url[:-1] + "3") as three:
        zero.write([(b"k", b"v")])
        assert three.read([b"k"]) == [None]


# --- URLs ------------------------------------------------------------------------------------------


def everything_said(error: BaseException | None) -> str:
    """The message of an error and of all that led to it."""
    return "" if error is None else f"{error!r} {error} {everything_said(error.__cause__)}"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("cassandra://host/1", "no online store for 'cassandra://'"),
        ("reddis://host/1", "did you mean 'redis'"),
        ("/var/lib/store", "is not a URL"),
        ("lmdb://", "names no directory"),
        ("lmdb://.fs/online?mapsize=1GiB", "did you mean 'map_size'"),
        ("lmdb://.fs/online?map_size=big", "'big' is not a size"),
        ("lmdb://.fs/online?map_size=", "is not a size"),
        ("lmdb://.fs/online?map_size", "has no value"),
        ("redis://host:port/0", "not a host, a port and a database"),
        ("redis://host/zero", "not a host, a port and a database"),
        ("redis://host/0?timeout=0", "not a positive number of seconds"),
        ("redis://host/0?timeout=soon", "option 'timeout'"),
        ("redis://host/0?prefix=a:b", "not 1 to 16 letters and digits"),
        ("unix://relative.sock", "names no socket from the root"),
        ("unix:///run/redis.sock?db=x", "not the number of a database"),
    ],
)
def test_a_url_that_names_no_store_says_what_would(url: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url, tmp_path)
    assert says in str(caught.value)
    assert "\n  " in str(caught.value) or "option" in str(caught.value)


def test_a_cluster_named_as_one_server_says_how_to_name_it(redis_cluster: str) -> None:
    port = servers_of(redis_cluster)[0]
    with open_store(f"redis://127.0.0.1:{port}/0", Path()) as store:
        with pytest.raises(OnlineStoreError, match=r"write redis\+cluster://host:port"):
            store.write([(key(n), row(1)) for n in range(50)])
        with pytest.raises(OnlineStoreError, match=r"write redis\+cluster://host:port"):
            store.read([key(n) for n in range(50)])


def test_keys_that_differ_in_the_eighth_byte_alone_are_one_command(redis_cluster: str) -> None:
    """Base and head of an entity are read at one moment."""
    emptied(redis_cluster)
    with open_store(redis_cluster, Path()) as store:
        store.write(
            [(b"1234567" + role + struct.pack("<q", n), row(1)) for n in range(300) for role in (b"b", b"h")]
        )
    found = []
    for port in servers_of(redis_cluster):
        with redis.Redis(host="127.0.0.1", port=port) as client:
            found.append({name.replace(b"}1234567h", b"}1234567b") for name in client.keys("fs:*")})
    assert [len(names) for names in found if names] == [len(n) for n in found]
    assert sum(map(len, found)) == 300


def test_a_slot_that_moves_is_followed(redis_cluster: str) -> None:
    emptied(redis_cluster)
    items = [(b"view-007%06d" % n, row(n)) for n in range(400)]
    with open_store(redis_cluster, Path()) as store:
        store.write(items)
        ports = servers_of(redis_cluster)
        clients: list[Any] = [redis.Redis(host="127.0.0.1", port=port) for port in ports]
        names = [c.execute_command("CLUSTER MYID").decode() for c in clients]
        slots = {int(clients[0].execute_command("CLUSTER KEYSLOT", name)) for name in clients[0].keys("fs:*")}
        moved = sorted(slots)[:40]
        for number, slot in enumerate(moved):
            clients[1].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[0])
            clients[0].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[1])
            there = clients[0].execute_command("CLUSTER GETKEYSINSLOT", slot, 100)
            clients[0].execute_command("MIGRATE", "127.0.0.1", ports[1], "", 0, 5000, "KEYS", *there)
            if number % 8 == 0:  # in the middle of moving
                assert store.read([k for k, _ in items]) == [v for _, v in items]
                store.write(items[:50])
            for client in (clients[1], clients[0], clients[2]):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[1])
        assert store.read([k for k, _ in items]) == [v for _, v in items]
        assert store.write(items) == len(items)
        for slot in moved:  # back, for whoever comes next
            clients[0].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[1])
            clients[1].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[0])
            there = clients[1].execute_command("CLUSTER GETKEYSINSLOT", slot, 100)
            if there:
                clients[1].execute_command("MIGRATE", "127.0.0.1", ports[0], "", 0, 5000, "KEYS", *there)
            for client in clients:
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[0])
        assert store.read([k for k, _ in items]) == [v for _, v in items]
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:s3c@host:x/0",
        "redis://user:5/s3c@host/0",
        "redis://user:5?s3c=1@host/0",
        "redis://user:5?s3c@host/0",
        "redis://user:5#s3c@host/0",
        "redis://user:s3c@host/0?nonsense=1",
        "redis://user:s3c@host/0?timeout=no",
        "rediz://user:s3c@host/0",
        "redis+cluster://user:s3c@host/0",
        "unix://user:s3c@relative.sock",
        "unix:///run/x.sock?password=s3c&db=x",
        "redis:/user:s3c@host",
        "redis://user:s3c@[::1/0",
    ],
)
def test_a_password_is_in_no_message(url: str, tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError) as caught:
        open_store(url, tmp_path)
    assert "s3c" not in everything_said(caught.value)


def test_relative_paths_start_at_the_base_directory(tmp_path: Path) -> None:
    with (
        open_store("lmdb://.fs/online", tmp_path),
        open_store(f"lmdb://{tmp_path}/absolute", Path("/nowhere")),
    ):
        assert (tmp_path / ".fs" / "online" / "data.mdb").exists()
        assert (tmp_path / "absolute" / "data.mdb").exists()
