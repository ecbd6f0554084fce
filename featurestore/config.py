"""`fs.toml`: where things are kept. Values may hold `${VARIABLE}`; `FS_SECTION_KEY` in the environment wins over the file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurestore.channels import LOG, Channel, channels_of
from featurestore.errors import ConfigError, Problem, Where, nearest

FILE = "fs.toml"

_TEXT, _LIST, _WHOLE, _TABLE = "a text", "a list of texts", "a whole number", "a table of texts"
_KNOWN: dict[str, dict[str, str]] = {
    "project": {"name": _TEXT, "definitions": _LIST},
    "registry": {"url": _TEXT},
    "online": {"url": _TEXT},
    "offline": {"path": _TEXT, "memory_limit": _TEXT, "threads": _WHOLE},
    "stream": {
        "engine": _TEXT,
        "events": _TEXT,
        "cluster": _TEXT,
        "checkpoints": _TEXT,
        "project": _TEXT,
        "parallelism": _WHOLE,
        "writers": _WHOLE,
        "partitions": _WHOLE,
        "memory_mb": _WHOLE,
        "checkpoint_seconds": _WHOLE,
        "outage_hours": _WHOLE,
        "restart": _TEXT,
    },
    "capture": {
        "path": _TEXT,
        "sink": _TEXT,
        "bootstrap": _TEXT,
        "topic": _TEXT,
        "properties": _TABLE,
        "linger_ms": _WHOLE,
        "buffer_rows": _WHOLE,
    },
    "server": {
        "host": _TEXT,
        "port": _WHOLE,
        "uds": _TEXT,
        "workers": _WHOLE,
        "timeout_ms": _WHOLE,
        "max_body_bytes": _WHOLE,
        "max_rows": _WHOLE,
        "max_in_flight": _WHOLE,
        "max_lag_ms": _WHOLE,
        "requests_per_second": _WHOLE,
        "receive_seconds": _WHOLE,
        "keep_alive_seconds": _WHOLE,
        "drain_seconds": _WHOLE,
        "poll_ms": _WHOLE,
        "log_requests": _WHOLE,
        "tls_certificate": _TEXT,
        "tls_key": _TEXT,
        "tls_client_ca": _TEXT,
    },
}
_KNOWN["alerts"] = {"cooldown": _TEXT, "runbooks": _TEXT, "metrics": _TEXT}

RESTARTS = ("exponential-delay", "fixed-delay", "failure-rate", "none")
"""What Flink does by itself with a job that failed, by Flink's own names."""

SINKS = ("log", "kafka")
"""Where what was served is kept."""
ENGINES = ("embedded", "flink")
"""What may run a stream: DuckDB in a process of its own, or a Flink cluster."""

EVENTS = ("log", "kafka")
"""Where events of a source with a topic are: in a local log that stands for the topic, or in the topic."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one project. Paths in URLs are relative to `root`, the folder of `fs.toml`.

    `definitions` are globs below `root` of the files to load. `memory_limit` bounds DuckDB (`"2GB"`; None is DuckDB's own
    bound, 80 % of the machine); `threads` its cores (None is all); `stream_engine` is one of `ENGINES`, `stream_events` one of
    `EVENTS`, `capture_sink` one of `SINKS`. What was served waits for `capture_linger_ms` in a buffer of `capture_buffer_rows`.
    """

    root: Path
    name: str
    definitions: tuple[str, ...] = ("**/*.py",)
    registry_url: str = "sqlite:///.fs/registry.db"
    online_url: str = "lmdb://.fs/online"
    offline_path: str = ".fs/offline"
    memory_limit: str | None = None
    threads: int | None = None
    stream_engine: str = "embedded"
    stream_events: str = "log"
    capture_path: str = ".fs/capture"
    capture_sink: str = "log"
    capture_bootstrap: str = ""
    capture_topic: str = ""
    capture_properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    capture_linger_ms: int = 50
    capture_buffer_rows: int = 262_144
    environment: str | None = None
    flink: Mapping[str, str | int] = field(default_factory=dict)
    """What `[stream]` says of Flink, by name; `featurestore.flink.place` has the meaning of each."""
    alerts: Mapping[str, str] = field(default_factory=dict)
    """What `[alerts]` says, by name: `cooldown`, `runbooks`, `metrics`."""
    channels: Mapping[str, Channel] = field(default_factory=lambda: {"log": LOG})
    """Where alerts go, by name; what is secret is not filled in."""
    server: Mapping[str, str | int] = field(default_factory=dict)
    """What `[server]` says, by name; `featurestore.server.settings` has the meaning of each."""

    @property
    def capture(self) -> Path:
        """The folder of the capture log."""
        return self.root / self.capture_path

    @property
    def offline(self) -> Path:
        return self.root / self.offline_path

    @property
    def monitored(self) -> Path:
        """What the newest pass of the monitors found, as Prometheus reads it: servers of this folder show it beside theirs."""
        return self.offline / "monitoring" / "metrics.prom"


def load_config(
    root: Path, environment: str | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """Reads `root/fs.toml`, applies `[env.NAME]` and the environment. All mistakes at once, as a ConfigError."""
    variables = os.environ if environ is None else environ
    path = root / FILE
    if not path.is_file():
        raise ConfigError(
            f"{root}: there is no {FILE} here\n  `fs init {root}` makes a project, or name its folder"
        )
    text = path.read_text(encoding="utf-8")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    problems: list[Problem] = []
    environments = raw.pop("env", {})
    channels = dict(_channels_in(raw))
    merged = _checked(raw, text, path, problems)
    if environment is not None:
        if environment not in environments:
            known = nearest(environment, environments)
            problems.append(Problem(f"no [env.{environment}]", Where(str(path), 0), tuple(known)))
        else:
            channels |= _channels_in(environments[environment])
            for section, values in _checked(environments[environment], text, path, problems).items():
                merged.setdefault(section, {}).update(values)
    for section, keys in _KNOWN.items():
        for key in keys:
            value = variables.get(f"FS_{section}_{key}".upper())
            if value is not None:
                merged.setdefault(section, {})[key] = _from_environment(value, keys[key])
    settings = {
        f"{s}.{k}": _expand(v, variables, path, problems) for s, kv in merged.items() for k, v in kv.items()
    }
    engine = _one_of(ENGINES, "stream.engine", settings, text, path, problems) or ENGINES[0]
    events = _one_of(EVENTS, "stream.events", settings, text, path, problems)
    if engine == "flink" and events == "log":
        line = Where(str(path), _line_of(text, r"events\s*="))
        problems.append(Problem("events = 'log' is not for engine 'flink', which reads topics", line))
    _one_of(RESTARTS, "stream.restart", settings, text, path, problems)
    sink = _one_of(SINKS, "capture.sink", settings, text, path, problems)
    if sink == "kafka" and not (settings.get("capture.bootstrap") and settings.get("capture.topic")):
        line = Where(str(path), _line_of(text, r"sink\s*="))
        problems.append(Problem("the capture sink 'kafka' wants 'bootstrap' and 'topic' in [capture]", line))
    for name in ("linger_ms", "buffer_rows"):
        if (given := settings.get(f"capture.{name}", 1)) < 1:
            line = Where(str(path), _line_of(text, rf"{name}\s*="))
            problems.append(Problem(f"'{name}' in [capture] is {given}: give 1 or more", line))
    for name in ("parallelism", "writers", "partitions", "memory_mb", "checkpoint_seconds", "outage_hours"):
        if (given := settings.get(f"stream.{name}", 1)) < (name != "writers"):
            line = Where(str(path), _line_of(text, rf"{name}\s*="))
            problems.append(Problem(f"'{name}' in [stream] is {given}: give 1 or more", line))
    found, wrong = channels_of(channels)
    for channel, what, help in wrong:
        line = Where(
            str(path), _line_of(text, rf"\[(env\.\w+\.)?alerts\.channels\.\"?{re.escape(channel)}\b")
        )
        problems.append(Problem(f"channel '{channel}' {what}", line, help))
    if problems:
        raise ConfigError("\n\n".join(map(str, problems)))
    defaults = Config(root, root.resolve().name)
    return Config(
        root=root,
        name=settings.get("project.name", defaults.name),
        definitions=tuple(settings.get("project.definitions", defaults.definitions)),
        registry_url=settings.get("registry.url", defaults.registry_url),
        online_url=settings.get("online.url", defaults.online_url),
        offline_path=settings.get("offline.path", defaults.offline_path),
        memory_limit=settings.get("offline.memory_limit"),
        threads=settings.get("offline.threads"),
        stream_engine=engine,
        stream_events=events or ("kafka" if engine == "flink" else defaults.stream_events),
        **{k.replace(".", "_"): v for k, v in settings.items() if k.startswith("capture.")},
        environment=environment,
        flink={
            k.removeprefix("stream."): v
            for k, v in settings.items()
            if k.startswith("stream.") and k not in ("stream.engine", "stream.events")
        },
        alerts={k.removeprefix("alerts."): str(v) for k, v in settings.items() if k.startswith("alerts.")},
        channels=found,
        server={k.removeprefix("server."): v for k, v in settings.items() if k.startswith("server.")},
    )


def expand(text: str, environ: Mapping[str, str] | None = None) -> str:
    """`text` with each `${VARIABLE}` replaced. Raises ConfigError naming a variable that is not set."""
    variables = os.environ if environ is None else environ
    missing = [name for name in _VARIABLE.findall(text) if name not in variables]
    if missing:
        raise ConfigError(f"environment variable {missing[0]} is not set\n  it is named in {text!r}")
    return _VARIABLE.sub(lambda m: variables[m.group(1)], text)


def _channels_in(raw: dict[str, Any]) -> Mapping[str, Any]:
    """The channels of a file or an environment, taken out of it: what they hold is not filled in here."""
    alerts = raw.get("alerts")
    if not isinstance(alerts, dict) or not isinstance(alerts.get("channels", {}), dict):
        return {}
    return dict(alerts.pop("channels", {}))


def _checked(
    raw: Mapping[str, Any], text: str, path: Path, problems: list[Problem]
) -> dict[str, dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = {}
    for section, values in raw.items():
        if section not in _KNOWN or not isinstance(values, dict):
            line = Where(str(path), _line_of(text, rf"\[?{re.escape(section)}\b"))
            problems.append(Problem(f"unknown section [{section}]", line, tuple(nearest(section, _KNOWN))))
            continue
        for key, value in values.items():
            line = Where(str(path), _line_of(text, rf"{re.escape(key)}\s*="))
            wanted = _KNOWN[section].get(key)
            if wanted == _TABLE and isinstance(value, dict):
                value = _flat(value)  # noqa: PLW2901 (a dot in a key makes a table of its own)
            if wanted is None:
                help = tuple(nearest(key, _KNOWN[section]))
                problems.append(Problem(f"unknown setting '{key}' in [{section}]", line, help))
            elif not _fits(value, wanted):
                shown = "given" if wanted == _TABLE else repr(value)  # a table may hold a login
                problems.append(Problem(f"'{key}' in [{section}] is {shown}, which is not {wanted}", line))
            else:
                kept.setdefault(section, {})[key] = value
    return kept


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A table of tables as one, its keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def _one_of(
    known: tuple[str, ...],
    name: str,
    settings: Mapping[str, Any],
    text: str,
    path: Path,
    problems: list[Problem],
) -> str | None:
    """A setting that is one of a few words, None where nothing is said."""
    value = settings.get(name)
    if value is None or value in known:
        return value
    section, _, key = name.partition(".")
    line = Where(str(path), _line_of(text, rf"{key}\s*="))
    problems.append(Problem(f"no {section} {key} '{value}'", line, tuple(nearest(str(value), known))))
    return None


def _fits(value: object, wanted: str) -> bool:
    if wanted == _TEXT:
        return isinstance(value, str)
    if wanted == _LIST:
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if wanted == _TABLE:
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    return isinstance(value, int) and not isinstance(value, bool)


def _from_environment(value: str, wanted: str) -> Any:
    if wanted == _TEXT:
        return value
    if wanted == _LIST:
        return value.split(",")
    if wanted == _TABLE:
        return dict(one.partition("=")[::2] for one in value.split(",") if one)
    try:
        return int(value)
    except ValueError as error:
        raise ConfigError(f"an FS_… variable holds {value!r}, which is not {wanted}") from error


def _expand(value: Any, variables: Mapping[str, str], path: Path, problems: list[Problem]) -> Any:
    if isinstance(value, list):
        return [_expand(v, variables, path, problems) for v in value]
    if isinstance(value, dict):
        return {k: _expand(v, variables, path, problems) for k, v in value.items()}
    if not isinstance(value, str):
        return value
    try:
        return expand(value, variables)
    except ConfigError as error:
        problems.append(
            Problem(str(error).splitlines()[0], Where(str(path), 0), (f"it is named in {value!r}",))
        )
        return value


def _line_of(text: str, pattern: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*{pattern}", line):
            return number
    return 0
