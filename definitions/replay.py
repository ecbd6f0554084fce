"""A year watched day by day: what `fs monitor run` would have told each morning, and how many messages that would have been.

python definitions/replay.py [--from 2013-02-01] [--to 2014-01-02]
"""

from __future__ import annotations

import argparse
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from featurestore import FeatureStore

HERE = Path(__file__).parent


class Told(logging.Handler):
    """What the channel `log` is told: the headline and the first thing that is said of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        head, first, *_ = record.getMessage().splitlines()
        self.lines.append(f"{head}  {first.partition(': ')[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="start", default="2013-02-01")
    parser.add_argument("--to", dest="end", default="2014-01-02")
    options = parser.parse_args()
    log, told = logging.getLogger("featurestore.alerts"), Told()
    log.addHandler(told)
    log.setLevel(logging.WARNING)  # not what is over
    log.propagate = False
    day = datetime.fromisoformat(options.start).replace(tzinfo=UTC)
    with FeatureStore(HERE) as store:
        store.apply()
        while day <= datetime.fromisoformat(options.end).replace(tzinfo=UTC):
            before = len(told.lines)
            store.monitor(at=day)
            for line in told.lines[before:]:
                print(f"{day:%d %b}  {line}", flush=True)
            day += timedelta(days=1)
    print(f"{len(told.lines)} messages")


if __name__ == "__main__":
    main()
