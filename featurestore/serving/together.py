"""Requests of one tick of an event loop, answered by one read of the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import FeatureStoreError, StoreUnavailable
from featurestore.serving.request import Request
from featurestore.serving.result import OnlineFeatures

if TYPE_CHECKING:
    from featurestore.serving.reader import Reader

MOST_ROWS = 4096
"""A read gathers no more rows than this from several requests: they would wait for each other."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    request: Request
    deadline: float | None
    answer: asyncio.Future[OnlineFeatures]


class Together:
    """Gathers the requests of a tick for each moment asked for, and answers them in a thread, so that the loop goes on.

    A request waits for nothing but the end of the tick. Each has its own deadline; the read itself may take as long as the
    longest. What fails for all is tried for each alone where the fault may be one entity's.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._waiting: dict[tuple[asyncio.AbstractEventLoop, int | None], list[_Waiting]] = {}

    async def answer(self, request: Request, at: int | None, timeout: float | None) -> OnlineFeatures:  # noqa: ASYNC109
        """The vectors of a prepared request. Raises StoreUnavailable when `timeout` seconds have passed."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else time.monotonic() + timeout
        one = _Waiting(request, deadline, loop.create_future())
        mine = self._waiting.setdefault((loop, at), [])
        mine.append(one)
        if len(mine) == 1:
            loop.call_soon(self._flush, loop, at)
        try:
            async with asyncio.timeout(timeout):
                return await one.answer
        except TimeoutError:
            raise StoreUnavailable(
                f"service '{self._reader.service.name}': no answer within {timeout} s\n  is the store overloaded?"
            ) from None

    def _flush(self, loop: asyncio.AbstractEventLoop, at: int | None) -> None:
        batch: list[_Waiting] = []
        rows = 0
        for one in self._waiting.pop((loop, at)):
            if batch and rows + one.request.rows > MOST_ROWS:
                self._begin(loop, batch, at)
                batch, rows = [], 0
            batch.append(one)
            rows += one.request.rows
        self._begin(loop, batch, at)

    def _begin(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Waiting], at: int | None) -> None:
        done = loop.run_in_executor(None, self._answers, batch, at)
        done.add_done_callback(lambda answers: _hand_out(batch, answers))

    def _answers(self, batch: Sequence[_Waiting], at: int | None) -> list[OnlineFeatures | BaseException]:
        try:
            deadlines = [one.deadline for one in batch]
            left = (
                None if None in deadlines else max(d for d in deadlines if d is not None) - time.monotonic()
            )
            if left is not None and left <= 0:
                raise StoreUnavailable("no time is left before the deadline")
            if len(batch) == 1:
                return [self._reader.answer(batch[0].request, at, left)]
            whole = self._reader.answer(Request.joined([one.request for one in batch]), at, left)
        except FeatureStoreError as error:
            if len(batch) == 1 or isinstance(error, StoreUnavailable):
                return [error] * len(batch)
            return [answer for one in batch for answer in self._answers([one], at)]
        out: list[OnlineFeatures | BaseException] = []
        start = 0
        for one in batch:
            out.append(whole.part(start, start + one.request.rows, one.request))
            start += one.request.rows
        return out


def _hand_out(
    batch: Sequence[_Waiting], answers: asyncio.Future[list[OnlineFeatures | BaseException]]
) -> None:
    failed = asyncio.CancelledError() if answers.cancelled() else answers.exception()
    given = [failed] * len(batch) if failed is not None else answers.result()
    for one, answer in zip(batch, given, strict=True):
        if one.answer.done():  # its caller gave up
            continue
        if isinstance(answer, asyncio.CancelledError):
            one.answer.cancel()
        elif isinstance(answer, BaseException):
            one.answer.set_exception(answer)
        else:
            one.answer.set_result(answer)
