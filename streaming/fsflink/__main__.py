"""`python -m fsflink run JOB.json` runs a job until it ends, `submit JOB.json` hands it to a cluster and leaves it there.

`serve` runs one job file after another, named on standard input.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from fsflink.flink import NotBuilt, run
from fsflink.job import Job

USAGE = "usage: python -m fsflink run JOB.json | submit JOB.json | serve"


def main(arguments: list[str]) -> int:
    match arguments:
        case ["run" | "submit" as verb, path]:
            try:
                print(json.dumps(run(replace(Job.read(Path(path)), wait=verb == "run"))))
            except (NotBuilt, ValueError, OSError) as error:
                print(error, file=sys.stderr)
                return 1
            return 0
        case ["serve"]:
            serve()
            return 0
        case _:
            print(USAGE, file=sys.stderr)
            return 2


def serve() -> None:
    """One JVM for many jobs: a line of JSON comes back for each path, with `error` where the job failed."""
    for line in sys.stdin:
        try:
            answer = run(Job.read(Path(line.strip())))
        except Exception as error:  # noqa: BLE001  # whatever it is, the one who asked is told, and asks on
            answer = {"error": causes(error)}
        print(json.dumps(answer), flush=True)


def causes(error: BaseException) -> str:
    """What went wrong and why, without the frames of a Java stack."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("at ", "... ")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
