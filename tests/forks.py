"""Processes to be killed, forked from one that has imported what they need: one costs milliseconds, not a second of imports."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOOP = """
# Each message is what to call `work` with, the child's standard output, and where to say its number and how it ended.
import faulthandler, json, os, signal, socket, sys, traceback
import pandas  # which pyarrow looks for at its first array: else each child would import it

faulthandler.enable()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
channel = socket.socket(fileno=int(sys.argv[1]))
while True:
    said, files, *_ = socket.recv_fds(channel, 1 << 16, 2)
    if not said:
        break
    if os.fork():
        for file in files:
            os.close(file)
        continue
    channel.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out, status = files
    child = os.fork()
    if not child:
        os.close(status)
        os.dup2(out, 1)
        os.close(out)
        try:
            work(*json.loads(said))
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(out)
    os.write(status, b"%d\\n" % child)
    os.write(status, b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os._exit(0)
"""


class Child:
    """One such process. `readline` reads what it prints; `wait` gives its exit status as `subprocess` does."""

    def __init__(self, out: int, status: int) -> None:
        self._out, self._status = os.fdopen(out), os.fdopen(status)
        self.pid = int(self._status.readline())

    def readline(self) -> str:
        return self._out.readline()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not select.select([self._status], [], [], 0)[0]

    def kill(self) -> None:
        """Kills it, unless it has ended; `wait` says which."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def rest(self) -> str:
        """What it prints until its end."""
        return self._out.read()

    def wait(self) -> int:
        with self._out, self._status:
            self.rest()
            return int(self._status.readline())


class Forks:
    """Starts children that call `work` of some code with given arguments, which go by JSON."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def start(self, *given: Any) -> Child:
        out, its_out = os.pipe()
        status, its_status = os.pipe()
        socket.send_fds(self._channel, [json.dumps(given).encode()], [its_out, its_status])
        os.close(its_out)
        os.close(its_status)
        return Child(out, status)

    def run(self, *given: Any) -> int:
        """The exit status of one that is waited for."""
        return self.start(*given).wait()


@contextmanager
def forks(code: str) -> Iterator[Forks]:
    """A process that has run `code`, which defines `work`, and forks."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        mine,
        subprocess.Popen(
            [sys.executable, "-c", code + LOOP, str(its.fileno())], pass_fds=[its.fileno()]
        ) as process,
    ):
        its.close()
        try:
            yield Forks(mine)
        finally:
            process.kill()  # its children are whose who started them
