"""Mixed load on `fs serve` for half an hour, and whether its memory grows.

    python benchmarks/soak.py [--minutes 30] [--warm MINUTES] [--store redis|lmdb] [--workers N] [--pace 1] [--reload 60]

Serves a project of its own on a free port of 127.0.0.1: 20,000 entities, 20 float features, one service that is captured. Clients
of every kind ask at once (`_mixed.py`): binary tensors, JSON tensors, JSON in Feast's shape, lists of features, Arrow, events,
predictions, probes; requests that are wrong, bodies that are too large, bytes that are no HTTP, clients that go away or send a
byte at a time. Every `--reload` seconds `fs apply` brings a new version of a service, and it is asked until that one answers.
`--pace` multiplies the requests a second, which are some 200.

Memory is RSS of each process of the server. The growth is its median over the last sixth of the run against the median over the
sixth that follows `--warm` (a third of the run if not given), of the process that grew most; open files are judged alike. The
exit status is 1 where memory grew by more than `--most` percent, an answer was not the right one, or the server logged a fault.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from _common import machine
from _mixed import NOW, PATIENCE, Line, Load, clicks, definitions, fine, table
from online_read import a_redis
from server import children, running

from featurestore.store import FeatureStore

SERVE = ("-m", "featurestore.cli")
"""What Python is told before `serve`; a test puts a server there that leaks."""

MANY = 20
"""Wrong answers with which a run ends before its time."""

SETTINGS = """
[server]
receive_seconds = 2
poll_ms = 200
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment: seconds since the start, MiB, and what it holds open."""

    process: int
    seconds: float
    rss: float
    anonymous: float
    files: int
    threads: int


def sample(process: int, seconds: float) -> Sample:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    said = {k: v.split() for k, _, v in (line.partition(":") for line in lines)}
    mib = {k: int(said[k][0]) / 1024 for k in ("VmRSS", "RssAnon")}
    files = sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
    return Sample(process, seconds, mib["VmRSS"], mib["RssAnon"], files, int(said["Threads"][0]))


def growth(values: Sequence[tuple[float, float]], warm: float) -> float:
    """How much more the last sixth of a run has than the sixth after `warm` seconds, as a ratio less 1.

    >>> growth([(float(s), 100.0 if s < 30 else 110.0) for s in range(60)], 20.0)
    0.1
    """
    ends = max(s for s, _ in values)
    first = [v for s, v in values if warm <= s <= warm + ends / 6]
    last = [v for s, v in values if s >= ends - ends / 6]
    if not first or not last:
        raise SystemExit("too few samples after the warm-up\n  give more --minutes or less --warm")
    return round(statistics.median(last) / statistics.median(first) - 1, 6)


class Reloads:
    """New versions of a service, applied beside the server as a user would, and asked for until they answer."""

    def __init__(self, folder: Path, load: Load, every: float) -> None:
        self._folder, self._load, self._every = folder, load, every
        self._line = Line(load.port)
        self.edition, self.slowest = 1, 0.0
        self._thread = threading.Thread(target=self._run, name="reloads", daemon=True)

    def begin(self) -> None:
        if self._every:
            self._thread.start()

    def end(self) -> None:
        if self._every:
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._load.stop.wait(self._every):
            try:
                self._once()
            except (AssertionError, OSError) as error:
                self._load.wrong.append(f"reload: {error!r}"[:2000])

    def _once(self) -> None:
        self.edition += 1
        (self._folder / "soak.py").write_text(definitions(self.edition), encoding="utf-8")
        argv = [sys.executable, "-m", "featurestore.cli", "-C", str(self._folder), "apply", "--yes"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"fs apply failed: {done.stderr}"
        began = time.monotonic()
        while (said := self._answers()) != self.edition:
            assert time.monotonic() - began < PATIENCE, (
                f"edition {self.edition} is applied, and {said} answers"
            )
            time.sleep(0.05)
        self.slowest = max(self.slowest, time.monotonic() - began)

    def _answers(self) -> int:
        asked = {"feature_service": "changing", "entities": {"id": [1], "x": [1.0]}}
        answer = self._line.ask("POST", "/get-online-features", json.dumps(asked).encode())
        if fine(answer) != "200":
            return 0
        values = [r["values"][0] for r in answer.json()["results"][2:]]
        assert values == [1.0 + i for i in range(len(values))], values
        return len(values)


@contextmanager
def served(folder: Path, store: str, workers: int, argv: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A project in `folder` behind `fs serve`: its process and port."""
    place = folder / "redis"
    place.mkdir()
    if store == "redis":
        with a_redis(place) as socket:
            prepare(folder, f"unix://{socket}")
            with _running(folder, workers, argv) as server:
                yield server
    else:
        prepare(folder, "lmdb://.fs/online")
        with _running(folder, workers, argv) as server:
            yield server


def prepare(folder: Path, url: str) -> None:
    pq.write_table(table(), folder / "numbers.parquet")
    (folder / "clicks").mkdir()
    pq.write_table(clicks(), folder / "clicks" / "first.parquet")
    (folder / "soak.py").write_text(definitions(1), encoding="utf-8")
    (folder / "fs.toml").write_text(f'[online]\nurl = "{url}"\n{SETTINGS}', encoding="utf-8")
    with FeatureStore(folder) as made:
        made.apply(who="soak")
        made.materialize(end=NOW)


@contextmanager
def _running(folder: Path, workers: int, argv: Sequence[str]) -> Iterator[tuple[int, int]]:
    options = ["-C", str(folder), "serve", "--port", "0", "--json", "--workers", str(workers)]
    with running([sys.executable, *argv, *options], folder / "serve.log") as (process, port):
        Line(port, 600).ask("GET", "/health")  # who comes before the workers are up waits
        yield process, port


def soak(folder: Path, given: argparse.Namespace, argv: Sequence[str] = SERVE) -> list[str]:
    """The whole run; what went wrong in it, a sentence each."""
    length = given.minutes * 60
    warm = length / 3 if given.warm is None else given.warm * 60
    samples: list[Sample] = []
    with served(folder, given.store, given.workers, argv) as (parent, port):
        load = Load(port, table(), given.pace)
        reloads = Reloads(folder, load, given.reload)
        load.begin()
        reloads.begin()
        began, lines = time.monotonic(), 0
        print("  minutes  requests    process       RSS  anonymous  files  threads", flush=True)
        while (now := time.monotonic() - began) < length and len(load.wrong) < MANY:
            found = [sample(p, now) for p in [parent, *children(parent)]]
            samples += found
            if now >= lines * length / 15:
                lines += 1
                show(found, load)
            time.sleep(min(length / 120, 5.0))
        load.end()
        reloads.end()
        show([sample(p, now) for p in [parent, *children(parent)]], load)
    return judged(samples, warm, load, reloads, given, (folder / "serve.log").read_text())


def show(samples: Sequence[Sample], load: Load) -> None:
    for s in samples:
        print(
            f"  {s.seconds / 60:7.1f}  {sum(load.counts.values()):8,}  {s.process:9}  {s.rss:6.1f} M"
            f"  {s.anonymous:7.1f} M  {s.files:5}  {s.threads:7}",
            flush=True,
        )


def judged(
    samples: Sequence[Sample], warm: float, load: Load, reloads: Reloads, given: argparse.Namespace, log: str
) -> list[str]:
    for kind in sorted({k for k, _ in load.counts}):
        said = {s: n for (k, s), n in sorted(load.counts.items()) if k == kind}
        print(f"  {kind:<14}{sum(said.values()):9,}  {', '.join(f'{s}: {n:,}' for s, n in said.items())}")
    print(
        f"  {reloads.edition - 1} new versions, the slowest answered {reloads.slowest:.1f} s after it was applied"
    )
    wrong = [*load.wrong]
    wrong += [line[:2000] for line in log.splitlines() if '"event":"fault"' in line][:MANY]
    if len(load.wrong) >= MANY:
        return wrong
    of: dict[int, list[Sample]] = {}
    for one in samples:
        of.setdefault(one.process, []).append(one)
    memory = max(growth([(s.seconds, s.rss) for s in ones], warm) for ones in of.values())
    files = max(growth([(s.seconds, float(s.files)) for s in ones], warm) for ones in of.values())
    for what, value in (("memory", memory), ("open files", files)):
        word = "met" if value * 100 <= given.most else "MISSED"
        print(
            f"  -> growth of {what} after {warm / 60:.1f} minutes: {value:+.2%} (must <= {given.most:g} %): {word}"
        )
        if word == "MISSED":
            wrong.append(f"{what} grew by {value:.1%}")
    return wrong


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm", type=float, help="minutes that do not count; a third by default")
    parser.add_argument(
        "--store", choices=("redis", "lmdb"), default="redis" if shutil.which("redis-server") else "lmdb"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--pace", type=float, default=1.0)
    parser.add_argument(
        "--reload", type=float, default=60.0, help="seconds between two new versions; 0 is never"
    )
    parser.add_argument("--most", type=float, default=5.0, help="percent that memory may grow")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, serve: Any = SERVE) -> int:
    given = parsed(argv)
    print(machine("uvicorn", "fastapi", "numpy", "pyarrow"))
    print(f"{given.store}, workers: {given.workers}, {given.minutes:g} minutes, pace {given.pace:g}")
    with tempfile.TemporaryDirectory(prefix="fs-soak-") as name:
        wrong = soak(Path(name), given, serve)
    for line in wrong:
        print(f"  WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
