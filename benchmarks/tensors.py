"""From a read to a tensor of PyTorch: what handing it over costs, and how fast rows get into the memory of a GPU.

    python benchmarks/tensors.py [cpu] [gpu] [--rounds N]

Wants PyTorch (`pip install featurestore[torch]`), and for `gpu` CUDA; without one of them it says so and ends with status 2.
Reads are of 20 float32 latest values from a Redis of our own behind a Unix socket, and compared with the data.

- `cpu`: `to_torch()` less `to_numpy()` of the same read, in pairs; the client's `to_torch()`; and what a tensor as `out=` costs
  more than an array. That they share memory is looked at, not timed.
- `gpu`: rows a second into device memory: looked up into a ring of pinned buffers while the copies before are under way; the same
  with pageable buffers; and pinned, each copy waited for. Beside them the copy alone, pinned and pageable, and the lookup alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, verdict
from online_read import a_redis, make_data, make_project

from featurestore.client import Vectors
from featurestore.serving.result import OnlineFeatures, buffer_of

FEATURES = 20
Call = Callable[[], Any]


def refuse(why: str) -> None:
    print(f"refused: {why}", file=sys.stderr)
    sys.exit(2)


# -------------------------------------------------------------------------------------------------------------------- cpu


def added(longer: Call, shorter: Call, pairs: int) -> tuple[float, float]:
    """The median of what `longer` takes more than `shorter` beside it, and of `shorter`, in microseconds."""
    clock, more, base = time.perf_counter, [], []
    for i in range(pairs + 20):
        a = clock()
        shorter()
        b = clock()
        longer()
        c = clock()
        if i >= 20:  # the first are for warming up
            more.append(c - b - (b - a))
            base.append(b - a)
    return statistics.median(more) * 1e6, statistics.median(base) * 1e6


@contextmanager
def arrays_made() -> Iterator[list[Any]]:
    """The arrays that `to_numpy` gives meanwhile."""
    made: list[Any] = []
    whole = OnlineFeatures.to_numpy

    def noting(self: OnlineFeatures, *given: Any) -> Any:
        made.append(whole(self, *given))
        return made[-1]

    OnlineFeatures.to_numpy = noting  # type: ignore[method-assign]
    try:
        yield made
    finally:
        OnlineFeatures.to_numpy = whole  # type: ignore[method-assign]


def on_cpu(torch: Any, store: Any, data: dict[str, Any], rounds: int) -> None:
    reader = store.reader("read_numbers")
    for rows in (1, 100, 1000, 10_000):
        picked = np.arange(rows)
        keys, truth = data["ids"][picked], data["matrix"][picked]
        read = reader.get(keys)
        with arrays_made() as made:
            shared = [read.to_torch(), torch.from_dlpack(read)]
        for tensor, array in zip(shared, made, strict=True):
            assert tensor.data_ptr() == array.ctypes.data, "a copy was made"
            np.testing.assert_array_equal(tensor.numpy(), truth)
        vectors = Vectors(
            "read_numbers", 1, read.tensor_names, read.to_numpy(), read.mask, "r", degraded=False
        )
        assert vectors.to_torch().data_ptr() == vectors.values.ctypes.data, "a copy was made"
        array, tensor = np.empty((rows, FEATURES), np.float32), torch.empty((rows, FEATURES))
        reader.get(keys, tensor)
        np.testing.assert_array_equal(tensor.numpy(), truth)
        pairs = max(200, 100 * rounds // max(rows // 1000, 1))
        hand, base = added(read.to_torch, read.to_numpy, pairs)
        mine, _ = added(vectors.to_torch, lambda: None, pairs)
        into, _ = added(
            lambda t=tensor: buffer_of(t, t.shape, "s"), lambda a=array: buffer_of(a, a.shape, "s"), pairs
        )
        print(
            f"  {rows:>6} x {FEATURES}: to_numpy {base:7.1f} us, to_torch {hand:+.2f}; the client's to_torch {mine:.2f} us;"
            f" a read into a tensor and not an array {into:+.2f}"
        )
        verdict(f"{rows} rows, result to torch, no copies", max(hand, mine, into), 5, 2, unit="us")


# -------------------------------------------------------------------------------------------------------------------- gpu


class Ring:
    """Host buffers and the device tensors that they are copied to; a buffer is written again when its copy is done.

    `device` may be the processor, where nothing runs beside: for trying what is done here without a GPU.
    """

    def __init__(self, torch: Any, device: str, rows: int, size: int, *, pinned: bool, wait: bool) -> None:
        self._on = torch.cuda if torch.device(device).type == "cuda" else torch.cpu
        self.host = [torch.empty((rows, FEATURES), pin_memory=pinned) for _ in range(size)]
        self.device = [torch.empty((rows, FEATURES), device=device) for _ in range(size)]
        self._copied: list[Any] = [None] * size
        self._stream, self._wait = self._on.Stream(), wait

    def fill(self, number: int, read: Callable[[Any], Any]) -> None:
        """Reads into the next buffer, and begins to copy it."""
        i = number % len(self.host)
        if self._copied[i] is not None:
            self._copied[i].synchronize()
        read(self.host[i])
        with self._on.stream(self._stream):
            self.device[i].copy_(self.host[i], non_blocking=True)
            self._copied[i] = self._on.Event()
            self._copied[i].record(self._stream)
        if self._wait:
            self._copied[i].synchronize()

    def finish(self) -> None:
        for event in self._copied:
            if event is not None:
                event.synchronize()


def rate(ring: Ring, read: Callable[[int, Any], Any], rows: int, batches: int) -> float:
    began = time.perf_counter()
    for n in range(batches):
        ring.fill(n, lambda out, n=n: read(n, out))
    ring.finish()
    return rows * batches / (time.perf_counter() - began)


def into_device(torch: Any, device: str, store: Any, data: dict[str, Any], rounds: int) -> None:
    """Rows a second into `device`, each way in turns; ratios are taken within a round."""
    reader, rng, pinning = store.reader("read_numbers"), np.random.default_rng(3), torch.cuda.is_available()
    for rows in (100, 1000, 10_000):
        picks = [rng.choice(len(data["ids"]), rows, replace=False) for _ in range(8)]
        keys = [data["ids"][p] for p in picks]
        rings = {
            "pinned": Ring(torch, device, rows, 4, pinned=pinning, wait=False),
            "pageable": Ring(torch, device, rows, 4, pinned=False, wait=False),
            "pinned, each waited for": Ring(torch, device, rows, 4, pinned=pinning, wait=True),
        }

        def read(n: int, out: Any, keys: Any = keys) -> None:
            reader.get(keys[n % 8], out)

        def nothing(n: int, out: Any) -> None:
            return None

        batches = max(20, 100_000 // rows)
        done: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, ring in rings.items():
                done.setdefault(name, []).append(rate(ring, read, rows, batches))
                for i in range(4):
                    got = ring.device[(batches - 1 - i) % 4].cpu().numpy()
                    np.testing.assert_array_equal(got, data["matrix"][picks[(batches - 1 - i) % 8]])
            for name in ("pinned", "pageable"):
                done.setdefault(f"copy alone, {name}", []).append(rate(rings[name], nothing, rows, batches))
            began, out = time.perf_counter(), rings["pageable"].host[0]
            for n in range(batches):
                read(n, out)
            done.setdefault("lookup alone", []).append(rows * batches / (time.perf_counter() - began))
        for name, rates in done.items():
            middle = statistics.median(rates)
            print(
                f"  {rows:>6} x {FEATURES}  {name:<24}{middle:14,.0f} rows/s  {middle * FEATURES * 4 / 1e9:8.3f} GB/s"
            )
        for name, by in (("pinned", "pageable"), ("pinned", "pinned, each waited for"), ("pinned", "lookup alone"),
                         ("copy alone, pinned", "copy alone, pageable")):  # fmt: skip
            ratio = statistics.median(a / b for a, b in zip(done[name], done[by], strict=True))
            print(f"  {rows:>6} x {FEATURES}  {name} over {by}: {ratio:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="cpu, gpu; both by default")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    parts = given.parts or ["cpu", "gpu"]
    try:
        import torch
    except ImportError:
        refuse("PyTorch is not installed\n  pip install featurestore[torch]")
    if parts == ["gpu"] and not torch.cuda.is_available():
        refuse(
            f"PyTorch {torch.__version__} sees no GPU here\n  `python benchmarks/tensors.py cpu` wants none"
        )
    print(machine("numpy", "redis"), f"torch {torch.__version__}", sep=", ")
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as name:
        folder = Path(name)
        data = make_data(folder)
        with a_redis(folder) as socket:
            store = make_project(folder, f"unix://{socket}")
            if "cpu" in parts:
                on_cpu(torch, store, data, given.rounds)
            if "gpu" in parts and torch.cuda.is_available():
                print(torch.cuda.get_device_name())
                into_device(torch, "cuda", store, data, given.rounds)
            store.close()
    if "gpu" in parts and not torch.cuda.is_available():
        refuse(f"PyTorch {torch.__version__} sees no GPU here: nothing was measured of one")


if __name__ == "__main__":
    main()
