"""The benchmark that looks for leaks of the server: a short run of it ends well, and one of a server that leaks does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAKS = """
import sys
sys.path[:0] = ["benchmarks"]
import soak

LEAKING = '''
from featurestore.server.front import Front
kept, put = [], Front.put
def leaking(self):
    kept.append(bytearray(b"x" * 5_000_000))
    put(self)
Front.put = leaking  # with each tick of the worker, ten a second
from featurestore.cli import main
main()
'''
sys.exit(soak.main(sys.argv[1:], ("-c", LEAKING)))
"""


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *argv]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.slow
def test_a_short_soak_ends_well() -> None:
    options = ["--minutes", "0.15", "--store", "lmdb", "--reload", "2", "--most", "100"]
    done = run("benchmarks/soak.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "growth of memory" in done.stdout
    assert "0 new versions" not in done.stdout
    for kind in ("binary", "Feast", "Arrow", "captured", "bad", "gone"):
        assert f"  {kind} " in done.stdout


@pytest.mark.slow
def test_a_server_that_leaks_is_found() -> None:
    options = ["--minutes", "0.15", "--store", "lmdb", "--reload", "0", "--most", "10"]
    done = run("-c", LEAKS, *options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "WRONG: memory grew by" in done.stderr, done.stdout + done.stderr
