"""The peer: Feast in an environment of its own, for it pins packages that this project has newer.

`FEAST_PYTHON` names a Python that has Feast. Otherwise one is made with uv in `.cache/`, once; where that cannot be had, what is
printed says so, and the figures lack their peer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
FEAST = "feast[redis]==0.67.0"

REPO = """
import sys
from datetime import datetime, timedelta, timezone
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float32
root, port = sys.argv[1], sys.argv[2]
open(f"{root}/feature_store.yaml", "w").write(f'''project: p
provider: local
registry: {root}/registry.db
entity_key_serialization_version: 3
online_store:
  type: redis
  connection_string: "127.0.0.1:{port}"
''')
store = FeatureStore(repo_path=root)
thing = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
view = FeatureView(name="numbers", entities=[thing], ttl=timedelta(days=99999),
                   schema=[Field(name=f"f{i}", dtype=Float32) for i in range(20)],
                   source=FileSource(path=sys.argv[3], timestamp_field="ts"))
store.apply([thing, view])
store.materialize(datetime(2023, 1, 1, tzinfo=timezone.utc), datetime(2023, 12, 31, tzinfo=timezone.utc))
"""

READS = """
import json, statistics, sys, time
from feast import FeatureStore
store = FeatureStore(repo_path=sys.argv[1])
names = [f"numbers:f{i}" for i in range(20)]
for line in sys.stdin:
    asked = json.loads(line)
    if "values" in asked:
        got = store.get_online_features(features=names, entity_rows={"id": asked["values"]}).to_dict()
        print(json.dumps([got[f"f{i}"] for i in range(20)]), flush=True)
        continue
    took, cpu = [], time.process_time()
    for i in range(asked["calls"]):
        rows = {"id": asked["keys"][i % len(asked["keys"])]}
        before = time.perf_counter()
        store.get_online_features(features=names, entity_rows=rows)
        took.append(time.perf_counter() - before)
    cpu = (time.process_time() - cpu) / asked["calls"]
    print(json.dumps([statistics.median(took) * 1e6, cpu * 1e6]), flush=True)
"""


def feast_python() -> Path | None:
    """A Python that has Feast; None, with a loud word why, where none can be had."""
    given = os.environ.get("FEAST_PYTHON")
    if given is not None:
        return Path(given)
    home = ROOT / ".cache" / f"feast-{FEAST.rpartition('=')[2]}"
    python, ready = home / "bin" / "python", home / "ready"
    if ready.exists():
        return python
    print(f"making an environment with {FEAST} in {home}, once", flush=True)
    uv = str(ROOT / "scripts" / "uv")
    for argv in (
        [uv, "venv", "--clear", "--python", sys.executable, str(home)],
        [uv, "pip", "install", "--quiet", "--python", str(python), FEAST],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            print(
                f"SKIPPED: {FEAST} cannot be had here, and nothing is compared with it\n  {done.stderr.strip()[-500:]}"
            )
            print("  FEAST_PYTHON=… names a Python that has it", flush=True)
            return None
    ready.touch()
    return python


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"FEAST_USAGE": "False"}


def prepare(python: Path, repo: Path, redis_port: int, parquet: Path) -> None:
    """A Feast repository in `repo`, applied and materialised into the Redis at a port of this machine."""
    repo.mkdir()
    argv = [str(python), "-c", REPO, str(repo), str(redis_port), str(parquet)]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False, cwd=repo)
    if done.returncode:
        raise SystemExit(f"Feast could not be set up\n{done.stderr[-3000:]}")


Ask = Callable[[str], str]


@contextmanager
def reads(python: Path, repo: Path) -> Iterator[Ask]:
    """A process of Feast's that reads: a line of JSON in, one out (see READS)."""
    argv = [str(python), "-W", "ignore", "-c", READS, str(repo)]
    with subprocess.Popen(
        argv, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repo
    ) as process:

        def ask(line: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
            said = process.stdout.readline()
            if not said:
                raise SystemExit("Feast's process ended")
            return said

        yield ask
        assert process.stdin is not None
        process.stdin.close()
