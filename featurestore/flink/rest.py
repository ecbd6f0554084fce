"""What is asked of a Flink cluster by its REST server."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from featurestore.errors import FlinkError, FlinkUnavailable

PATIENCE_SECONDS: Final = 10.0
SAVEPOINT_SECONDS: Final = 120.0

LIVE: Final = frozenset({"CREATED", "INITIALIZING", "RUNNING", "RESTARTING", "RECONCILING", "FAILING"})
"""States of a job that goes on by itself, or soon will not."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that is complete: where it lies, how large it is, and when it was begun (UTC microseconds)."""

    path: str
    bytes: int
    at: int


@dataclass(frozen=True, slots=True)
class Rest:
    """A cluster's REST server, by its URL."""

    url: str

    def alive(self) -> bool:
        """Whether it answers."""
        try:
            self.ask("/overview")
        except FlinkUnavailable:
            return False
        return True

    def slots(self) -> int:
        """How many slots its task managers have."""
        return int(self.ask("/overview")["slots-total"])

    def jobs(self) -> dict[str, str]:
        """The state of each job that it knows, by id."""
        return {job["id"]: job["status"] for job in self.ask("/jobs")["jobs"]}

    def restarts(self, job: str) -> int | None:
        """How often a job was restarted by Flink; None where it does not say."""
        found = self.ask(f"/jobs/{job}/metrics?get=numRestarts")
        return int(found[0]["value"]) if found else None

    def failure(self, job: str) -> str | None:
        """What a job last failed of."""
        entries = (
            self.ask(f"/jobs/{job}/exceptions?maxExceptions=1").get("exceptionHistory", {}).get("entries", [])
        )
        if not entries:
            return None
        lines = str(entries[0].get("stacktrace") or entries[0].get("exceptionName")).splitlines()
        causes = [line for line in lines if line.startswith("Caused by:")]
        return (causes[-1] if causes else lines[0])[:500]

    def checkpoint(self, job: str) -> Checkpoint | None:
        """A job's newest complete checkpoint or savepoint."""
        newest = self.ask(f"/jobs/{job}/checkpoints")["latest"]
        found = [newest[kind] for kind in ("completed", "savepoint") if newest.get(kind)]
        if not found:
            return None
        last = max(found, key=lambda c: c["trigger_timestamp"])
        return Checkpoint(
            last["external_path"], int(last["state_size"]), 1000 * int(last["trigger_timestamp"])
        )

    def stop(self, job: str, directory: str) -> str:
        """Stops a job with a savepoint, and where that lies. Raises FlinkError when none could be taken: the job runs on."""
        asked = self.ask(f"/jobs/{job}/stop", {"targetDirectory": directory, "drain": False})
        deadline = time.monotonic() + SAVEPOINT_SECONDS
        while time.monotonic() < deadline:
            told = self.ask(f"/jobs/{job}/savepoints/{asked['request-id']}")
            if told["status"]["id"] == "COMPLETED":
                operation = told["operation"]
                if "location" in operation:
                    return str(operation["location"])
                raise FlinkError(
                    f"no savepoint could be taken: {_cause(operation)}\n  the job goes on; its checkpoints are kept"
                )
            time.sleep(0.2)
        raise FlinkError(f"no savepoint was taken within {SAVEPOINT_SECONDS:.0f} s\n  the job goes on")

    def cancel(self, job: str) -> None:
        """Ends a job without a savepoint; its checkpoints are kept."""
        self.ask(f"/jobs/{job}", method="PATCH")

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, method: str | None = None) -> Any:
        """The answer to one request. Raises FlinkUnavailable when nobody answers, FlinkError for a refusal."""
        raw = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310  (the URL is the project's own setting)
            self.url.rstrip("/") + path,
            raw,
            {"content-type": "application/json"},
            method=method or ("GET" if raw is None else "POST"),
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            if error.code == 503:
                raise FlinkUnavailable(f"the Flink cluster at {self.url} is starting: {said}") from error
            raise FlinkError(
                f"the Flink cluster at {self.url} refused {path}: {error.code} {said}"
            ) from error
        except (OSError, TimeoutError) as error:
            raise FlinkUnavailable(
                f"the Flink cluster at {self.url} does not answer: {error}\n"
                "  `fs stream start` starts a local one; for another see [stream] cluster"
            ) from error
        return json.loads(text) if text else {}


def _cause(operation: Mapping[str, Any]) -> str:
    trace = str(operation.get("failure-cause", {}).get("stack-trace", "unknown")).splitlines()
    causes = [line for line in trace if line.startswith("Caused by:")]
    return (causes[-1] if causes else trace[0])[:500]
