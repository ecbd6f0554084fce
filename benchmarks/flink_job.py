"""The compiled Flink job against the same aggregates written by hand in Flink SQL, in one JVM, over the same bytes.

    python benchmarks/flink_job.py [--events N] [--keys N] [--repeat N] [--copies] [--parallelism N]

JSON events of uniform keys from a file, eight aggregates over two hops, into nothing (Flink's blackhole). By hand it
is Flink's json format and plain GROUP BYs, in the same settings; the compiled job also judges each event, keeps 128-bit and
compensated sums and moments in double-doubles, and writes what is wrong with an event. `--copies` adds an event_id: by hand
the first of several copies is taken by ROW_NUMBER, as Flink's documentation says. Needs `make -C streaming`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, verdict

import featurestore as fs
from featurestore import declare, ir
from featurestore.compile.flink_job import files_wire, job_of
from featurestore.lower import lower
from featurestore.types import Float64, Int64, String, Timestamp

STREAMING = Path(__file__).parents[1] / "streaming"
PYTHON = STREAMING / ".venv" / "bin" / "python"
START = np.datetime64("2024-03-10T00:00:00", "us")
SPAN = 60 * 60 * 1_000_000
COLUMNS = {"card": Int64, "id": String, "ts": Timestamp, "x": Float64, "n": Int64}


def the_view(*, copies: bool) -> ir.View:
    """Eight aggregates over hops of a minute and of an hour."""
    source = fs.StreamSource(
        "events",
        batch=fs.Parquet("events.parquet"),
        stream=fs.Kafka("events", bootstrap="here"),
        event_time="ts",
        event_id="id" if copies else None,
        columns=COLUMNS,
        lateness=fs.hours(2),
    )
    windows = fs.minutes(10), fs.hours(10)
    features = [
        fs.count(), fs.sum("x"), fs.mean("x"), fs.min("x"), fs.max("x"), fs.stddev_pop("x"), fs.sum("n"), fs.max("n"),
    ]  # fmt: skip
    view = fs.FeatureView("v", fs.Entity("card", key="card"), source, [f.over(*windows) for f in features])
    return lower(declare.declarations_in([fs.FeatureService("read", features=[view])]), lambda _: {}).views[0]


def write_events(path: Path, count: int, keys: int) -> None:
    rng = np.random.default_rng(7)
    with path.open("w") as out:
        for begin in range(0, count, 100_000):
            some = min(100_000, count - begin)
            times = np.sort(rng.integers(0, SPAN // max(1, count // 100_000), some)) + begin * SPAN // count
            stamps = np.datetime_as_string(START + times)
            cards, x, n = rng.integers(0, keys, some), rng.normal(size=some), rng.integers(0, 1000, some)
            out.writelines(
                f'{{"card": {c}, "id": "e{begin + i}", "ts": "{t}", "x": {a!r}, "n": {b}}}\n'
                for i, (c, t, a, b) in enumerate(
                    zip(cards.tolist(), stamps, x.tolist(), n.tolist(), strict=True)
                )
            )


def by_hand(path: Path, *, copies: bool) -> tuple[list[str], list[str]]:
    """Statements and inserts as somebody who knows Flink would write them."""
    columns = "card BIGINT, id STRING, ts TIMESTAMP(6), x DOUBLE, n BIGINT, came AS PROCTIME()"
    options = (
        f"'connector' = 'filesystem', 'path' = '{path.as_uri()}', "
        "'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601'"
    )
    statements = [f"CREATE TEMPORARY TABLE hand ({columns}) WITH ({options})"]
    source = "hand"
    if copies:
        source = (
            "(SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY card, ts, id ORDER BY came) AS copy FROM hand) "
            "WHERE copy = 1)"
        )
    inserts = []
    made = "COUNT(*) AS a, SUM(x) AS b, AVG(x) AS c, MIN(x) AS d, MAX(x) AS e, STDDEV_POP(x) AS f, SUM(n) AS g, MAX(n) AS h"
    for unit in ("MINUTE", "HOUR"):
        out = f"hand_{unit.lower()}"
        kinds = "card BIGINT, tile TIMESTAMP(6), a BIGINT, b DOUBLE, c DOUBLE, d DOUBLE, e DOUBLE, f DOUBLE, g BIGINT, h BIGINT"
        statements.append(
            f"CREATE TEMPORARY TABLE {out} ({kinds}, PRIMARY KEY (card, tile) NOT ENFORCED) WITH ('connector' = 'blackhole')"
        )
        inserts.append(
            f"INSERT INTO {out} SELECT card, FLOOR(ts TO {unit}) AS tile, {made} FROM {source} GROUP BY card, FLOOR(ts TO {unit})"
        )
    return statements, inserts


def compiled(path: Path, *, copies: bool) -> tuple[list[str], list[str], dict[str, str]]:
    """The compiled job, all that it writes into nothing."""
    job = job_of(the_view(copies=copies), files_wire(path.as_uri()))
    statements = [*job.functions, *(step.sql for step in job.statements)]
    inserts = []
    for i, query in enumerate(job.queries):
        columns = ", ".join(f"`{name}` {kind}" for name, kind in query.columns.items())
        key = ", ".join(f"`{name}`" for name in list(query.columns)[: query.keys])
        statements.append(
            f"CREATE TEMPORARY TABLE out{i} ({columns}, PRIMARY KEY ({key}) NOT ENFORCED) WITH ('connector' = 'blackhole')"
        )
        inserts.append(f"INSERT INTO out{i} {query.sql}")
    letters = "`reason` STRING, `detail` STRING, `event_time` BIGINT, `payload` BYTES"
    statements.append(f"CREATE TEMPORARY TABLE letters ({letters}) WITH ('connector' = 'blackhole')")
    inserts.append(f"INSERT INTO letters {job.dead_letters}")
    return statements, inserts, dict(job.settings)


@dataclass
class Driver:
    """The driver of `streaming/`, one JVM for all runs."""

    process: subprocess.Popen[str]
    folder: Path

    def run(
        self, settings: Mapping[str, str], statements: list[str], inserts: list[str]
    ) -> tuple[float, float]:
        """Seconds that the job ran, and of processor time that the JVM took for it."""
        before = self.cpu()
        answer = self.ask(
            {"settings": dict(settings), "statements": statements, "inserts": inserts, "wait": True}
        )
        return answer["seconds"], self.cpu() - before

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        file = self.folder / "job.json"
        file.write_text(json.dumps(job))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{file}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise SystemExit(answer["error"])
        return answer

    def cpu(self) -> float:
        """Of the JVM, which is the driver's child."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        total = 0
        for child in children:
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / 100


def job(events: int, keys: int, repeat: int, parallelism: int, *, copies: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, short = Path(folder) / "events.jsonl", Path(folder) / "short.jsonl"
        write_events(path, events, keys)
        write_events(short, events // 5, keys)
        print(
            f"{events:,} JSON events of {path.stat().st_size // events} bytes, {keys:,} uniform keys, 8 aggregates x 2 hops, "
            f"parallelism {parallelism}, {'with' if copies else 'no'} event_id, into nothing",
            flush=True,
        )
        with (Path(folder) / "flink.log").open("w") as log, subprocess.Popen(
            [PYTHON, "-m", "fsflink", "serve"], cwd=STREAMING, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log, text=True,
        ) as process:  # fmt: skip
            driver = Driver(process, Path(folder))
            runs: dict[str, list[tuple[float, float]]] = {"by hand": [], "compiled": []}
            for turn in range(-1, repeat):
                file = short if turn < 0 else path  # the first turn is for the JVM to compile what it runs
                ours, inserts, settings = compiled(file, copies=copies)
                settings |= {
                    "parallelism.default": str(parallelism),
                    "execution.checkpointing.dir": f"file://{folder}/checkpoints",
                    "restart-strategy.type": "none",
                }
                for name, work in (("by hand", by_hand(file, copies=copies)), ("compiled", (ours, inserts))):
                    took = driver.run(settings, *work)
                    if turn >= 0:
                        runs[name].append(took)
                        print(f"  {name:<10}{took[0]:8.2f} s{took[1]:8.2f} s of processor", flush=True)
            assert process.stdin is not None
            process.stdin.close()
    middle = {name: sorted(took)[len(took) // 2] for name, took in runs.items()}
    cpu = {name: sorted(c for _, c in took)[len(took) // 2] for name, took in runs.items()}
    for name, (wall, _) in middle.items():
        print(
            f"{name:<10} {events / wall:,.0f} events/s, {cpu[name] / events * 1e6:.1f} us of processor an event"
        )
    verdict(
        "throughput against Flink SQL by hand",
        middle["by hand"][0] / middle["compiled"][0],
        0.9,
        1.0,
        cpu=cpu["by hand"] / cpu["compiled"],
        more_is_better=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--copies", action="store_true")
    args = parser.parse_args()
    print(machine("numpy"))
    job(args.events, args.keys, args.repeat, args.parallelism, copies=args.copies)


if __name__ == "__main__":
    main()
