"""`python -m fsflink run JOB.json` runs a job until it ends, `submit JOB.json` hands it to a cluster and leaves it there.

Which cluster, and what else is not the job's own, a file of Flink's settings says: `submit JOB.json SETTINGS.json`. They are set
on the environment itself: PyFlink's gateway takes no `execution.target` from the file that FLINK_CONF_DIR names.

`serve` runs one job file after another, named on standard input.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from fsflink.flink import NotBuilt, run
from fsflink.job import Job

USAGE = "usage: python -m fsflink run JOB.json [SETTINGS.json] | submit JOB.json [SETTINGS.json] | serve"


def main(arguments: list[str]) -> int:
    match arguments:
        case ["run" | "submit" as verb, path, *more] if len(more) <= 1:
            try:
                job = Job.read(Path(path))
                told = json.loads(Path(more[0]).read_text()) if more else {}
                print(json.dumps(run(replace(job, wait=verb == "run", settings={**job.settings, **told}))))
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
