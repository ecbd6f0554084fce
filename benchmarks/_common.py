"""What benchmarks share: the machine in a line, each contender in a process of its own, figures side by side."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figures:
    """What one run of one contender took; `rows` is what it answered."""

    wall: float
    cpu: float
    rss_mb: int
    rows: int
    note: str = ""


def machine(*packages: str) -> str:
    """Processor, cores, memory, and the versions of what is measured."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = names[0] if names else platform.machine()
    return f"{processor}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}, {versions}"


def measure(work: Callable[[], tuple[int, str]]) -> None:
    """Runs `work` in this process and prints its figures for the one that started it."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    rows, note = work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps(asdict(Figures(wall, cpu, after.ru_maxrss // 1024, rows, note))))


def alone(script: str, *arguments: str) -> Figures:
    """The figures of one contender: `script --alone arguments` in a fresh process."""
    done = subprocess.run(
        [sys.executable, script, "--alone", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed\n{done.stderr}")
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def race(script: str, contenders: Mapping[str, Sequence[str]], repeat: int) -> dict[str, Figures]:
    """Each contender `repeat` times, in turns; prints and gives the run of median wall time of each."""
    runs: dict[str, list[Figures]] = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, arguments in contenders.items():
            runs[name].append(alone(script, *arguments))
    middle = {}
    for name, done in runs.items():
        walls = [f.wall for f in done]
        f = middle[name] = next(f for f in done if f.wall == statistics.median_low(walls))
        spread = f"{min(walls):.2f}-{max(walls):.2f}" if repeat > 1 else ""
        print(
            f"  {name:<44}{f.wall:8.2f} s {spread:>14}  cpu {f.cpu:7.2f} s  rss {f.rss_mb:6,} MB  {f.note}",
            flush=True,
        )
    return middle


def ratios(a: Figures, b: Figures) -> tuple[float, float]:
    """How much longer `a` took than `b`: by the clock, and in processor time, which a busy machine disturbs less."""
    return a.wall / b.wall, a.cpu / b.cpu


def verdict(
    what: str,
    value: float,
    must: float,
    reach: float,
    *,
    unit: str = "x",
    cpu: float | None = None,
    more_is_better: bool = False,
) -> None:
    """One line: the figure beside what it must and may reach, and the same in processor time."""
    met = [value >= goal if more_is_better else value <= goal for goal in (must, reach)]
    word = "reached" if met[1] else "met" if met[0] else "MISSED"
    sign = ">=" if more_is_better else "<="
    also = f"; {cpu:.2f} in processor time" if cpu is not None else ""
    print(
        f"  -> {what}: {value:.2f} {unit} (must {sign} {must:g}, reach {reach:g}): {word}{also}\n", flush=True
    )
