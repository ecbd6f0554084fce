"""How long it takes to begin: `import featurestore`, its heavier faces, and `fs --help`, each in a fresh process.

    python benchmarks/startup.py [--repeat N]

The floor is `python -c pass`; contenders take turns. Figures are wall time of the whole process, floor included. Compiled
bytecode is there before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from _common import machine, verdict

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import featurestore": ["-c", "import featurestore"],
    "from featurestore import FeatureView": ["-c", "from featurestore import FeatureView"],
    "from featurestore import FeatureStore": ["-c", "from featurestore import FeatureStore"],
    "fs --help": ["-m", "featurestore.cli", "--help"],
}
JUDGED = ("import featurestore", "fs --help")


def seconds(arguments: list[str]) -> float:
    before = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    taken = time.perf_counter() - before
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed\n{done.stderr}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=11)
    given = parser.parse_args()
    print(machine("duckdb", "numpy", "pyarrow", "click", "rich"))
    runs: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(given.repeat + 1):
        for name, arguments in COMMANDS.items():
            taken = seconds(arguments)
            if turn:
                runs[name].append(taken)
    middle = {name: statistics.median(taken) for name, taken in runs.items()}
    for name, taken in runs.items():
        over = middle[name] / middle["python -c pass"]
        print(
            f"  {name:<40}{middle[name]:7.3f} s   best {min(taken):6.3f} s   {over:5.1f} x the floor",
            flush=True,
        )
    for name in JUDGED:
        verdict(name, middle[name], 0.4, 0.25, unit="s")


if __name__ == "__main__":
    main()
