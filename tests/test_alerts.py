"""Alerts: how one lives, what of it is told, and that it is told at least once and, to who tells copies apart, only once."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from featurestore.channels import Channel, channels_of
from featurestore.config import Config, load_config
from featurestore.errors import ConfigError, DefinitionError
from featurestore.monitor.alerts import AlertState, Notification, acknowledged, advance, snoozed
from featurestore.monitor.findings import Finding, State
from featurestore.monitor.outbox import FIRST_WAIT, PATIENCE, deliver, post, stuck
from featurestore.monitor.sending import NotDelivered, body, headline, send
from featurestore.policy import Alert, Monitor, parse_when, policies_in
from featurestore.registry import Registry, open_registry
from featurestore.registry.alerts import changing, outbox
from featurestore.time import DAY, HOUR, MINUTE, hours, minutes, moment
from tests.mail import MailServer, mail_server

NOW = moment("2025-03-03T12:00:00")  # a Monday


def found(state: State = "bad", subject: str = "amount", said: str = "it moved", **figures: float) -> Finding:
    return Finding("m", "spend", "drift", subject, state, said, figures, models=("fraud",))


def lived(alert: Alert, *steps: tuple[int, State | None]) -> list[str]:
    """What is told of one alert over time: minutes, and what was found then (None: another subject alone)."""
    states: dict[str, AlertState] = {}
    monitor = Monitor("m", on="spend", alerts=[alert])
    told = []
    for minute, state in steps:
        given = [] if state is None else [found(state)]
        states, notes = advance(states, monitor, given, NOW + minute * MINUTE, cooldown=DAY)
        told += [f"{minute} {note.event}" for note in notes]
    return told


LIVES: list[tuple[str, Alert, list[tuple[int, State | None]], list[str]]] = [
    ("it is told at once where it need not last", Alert("drift"), [(0, "bad")], ["0 firing"]),
    ("it is told once while it lasts", Alert("drift"), [(0, "bad"), (5, "bad"), (60, "bad")], ["0 firing"]),
    ("it is told again after the cool-down", Alert("drift", cooldown=hours(1)),
     [(0, "bad"), (59, "bad"), (60, "bad")], ["0 firing", "60 firing"]),
    ("and that it is over", Alert("drift"), [(0, "bad"), (5, "ok"), (9, "ok")], ["0 firing", "5 resolved"]),
    ("what does not last is told to nobody", Alert("drift", lasting=minutes(10)),
     [(0, "bad"), (5, "ok"), (6, "bad"), (12, "ok")], []),
    ("what lasts long enough is", Alert("drift", lasting=minutes(10)),
     [(0, "bad"), (5, "bad"), (10, "bad"), (11, "ok")], ["10 firing", "11 resolved"]),
    ("what could not be judged neither begins nor ends it", Alert("drift"),
     [(0, "unknown"), (1, "bad"), (2, "unknown"), (3, "ok")], ["1 firing", "3 resolved"]),
    ("nor does what was not looked at", Alert("drift", lasting=minutes(2)), [(0, "bad"), (1, None), (2, "bad")], ["2 firing"]),
    ("what comes and goes is told once in a cool-down", Alert("drift", cooldown=hours(1)),
     [(0, "bad"), (1, "ok"), (2, "bad"), (3, "ok"), (60, "bad")], ["0 firing", "1 resolved", "60 firing"]),
    ("it is over when it has been well for a while", Alert("drift", settle=minutes(5)),
     [(0, "bad"), (1, "ok"), (2, "bad"), (3, "ok"), (8, "ok")], ["0 firing", "8 resolved"]),
    ("an alert on other subjects hears nothing", Alert("drift", subjects=("price*",)), [(0, "bad")], []),
    ("an alert on another condition hears nothing", Alert("schema"), [(0, "bad")], []),
]  # fmt: skip


@pytest.mark.parametrize("case", LIVES, ids=lambda case: case[0])
def test_the_life_of_an_alert(case: tuple[str, Alert, list[tuple[int, State | None]], list[str]]) -> None:
    _, alert, steps, want = case
    assert lived(alert, *steps) == want


def step(
    states: dict[str, AlertState], minute: int, *given: Finding, **alert: Any
) -> tuple[dict[str, AlertState], list[Notification]]:
    monitor = Monitor("m", on="spend", alerts=[Alert("drift", **alert)])
    return advance(states, monitor, given, NOW + minute * MINUTE, cooldown=10 * MINUTE)


def test_what_begins_together_is_told_in_one_message() -> None:
    states, notes = step(
        {}, 0, found(subject="a", said="a moved"), found(subject="b", said="b moved"), found("ok", "c")
    )
    (note,) = notes
    assert note.subjects == (("a", "a moved"), ("b", "b moved"))
    message = note.to_json()
    assert headline(message) == "[WARNING] spend: drift (a, b)"
    for part in (
        "a: a moved",
        "Since 2025-03-03T12:00:00Z",
        "Models that read it: fraud",
        "`fs drift spend --all`",
        "docs/runbooks/drift.md",
    ):
        assert part in body(message)
    states, notes = step(states, 1, found("ok", "a"), found(subject="b"))
    assert [(n.event, n.subjects[0][0]) for n in notes] == [("resolved", "a")]
    assert "It had lasted since" in body(notes[0].to_json())
    assert sorted(s.state for s in states.values()) == ["firing", "resolved"]


def test_the_same_run_twice_makes_the_same_message() -> None:
    _, first = step({}, 0, found())
    _, again = step({}, 0, found())
    assert first[0].id == again[0].id
    _, later = step({}, 1, found())
    assert later[0].id != first[0].id


def test_who_took_note_of_it_is_told_no_more_before_it_is_over() -> None:
    states, _ = step({}, 0, found())
    (key,) = states
    states = {key: acknowledged(states[key], "ada")}
    states, notes = step(states, 20, found())
    assert notes == []
    states, notes = step(states, 21, found("ok"))
    assert [n.event for n in notes] == ["resolved"]
    _, notes = step(states, 40, found())
    assert [n.event for n in notes] == ["firing"]


def test_what_is_snoozed_keeps_quiet_until_then() -> None:
    states, _ = step({}, 0, found())
    states = {k: snoozed(s, NOW + 30 * MINUTE) for k, s in states.items()}
    states, notes = step(states, 20, found())
    assert notes == []
    _, notes = step(states, 30, found())
    assert [n.event for n in notes] == ["firing"]


@pytest.mark.parametrize(
    ("when", "figures", "holds"),
    [("drift.effect >= 0.5", {"effect": 0.5}, True), ("drift.effect > 0.5", {"effect": 0.5}, False),
     ("drift.share<0.2", {"share": 0.1}, True),
     ("drift.effect >= 0.5", {}, None), ("drift", {}, True)],
)  # fmt: skip
def test_a_condition_may_compare_a_figure(
    when: str, figures: dict[str, float], *, holds: bool | None
) -> None:
    assert parse_when(when).holds(bad=True, figures=figures) is holds


def test_mistakes_in_policies_are_told_at_once_with_their_lines() -> None:
    loud: Any = "loud"
    with pytest.raises(DefinitionError) as refused:
        policies_in(
            [
                Monitor("m", on="spend", window="6 hours", baseline="yesterday"),
                Monitor(
                    "m",
                    on="spend",
                    alerts=[Alert("drit"), Alert("drift.effct > 1"), Alert("drift", severity=loud)],
                ),
            ]
        )
    said = str(refused.value)
    for part in (
        "'yesterday' is no baseline",
        "did you mean 'drift'",
        "did you mean 'effect'",
        "no severity 'loud'",
        "two monitors are named 'm'",
    ):
        assert part in said
    assert said.count("test_alerts.py:") >= 4


# ------------------------------------------------------------------------------------------------------------- channels


@dataclass
class Receiver:
    """A real HTTP server that keeps what it is sent, and answers as it is told."""

    url: str
    got: list[tuple[str, Mapping[str, str], Any]]
    answers: list[int]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    got: list[tuple[str, Mapping[str, str], Any]] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, dict(self.headers), json.loads(said)))
            code = answers.pop(0) if answers else 200
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Receiver(f"http://127.0.0.1:{server.server_port}", got, answers)
    server.shutdown()
    server.server_close()


def message() -> dict[str, Any]:
    _, (note,) = step({}, 0, found(said="it moved"))
    return note.to_json()


def test_a_webhook_gets_the_whole_message_and_its_id(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "s3cr3t")
    channel = Channel("hook", "webhook", (("url", f"{receiver.url}/in"), ("token", "${HOOK_TOKEN}")))
    send(channel, message())
    ((path, headers, said),) = receiver.got
    assert (path, headers["Authorization"]) == ("/in", "Bearer s3cr3t")
    assert headers["Idempotency-Key"] == said["id"] == message()["id"]
    assert (said["event"], said["severity"], said["models"]) == ("firing", "warning", ["fraud"])
    assert "Next step:" in said["text"]


def test_slack_and_alertmanager_get_the_shapes_they_take(receiver: Receiver) -> None:
    send(Channel("s", "slack", (("url", f"{receiver.url}/services/x"),)), message())
    send(Channel("a", "alertmanager", (("url", receiver.url),)), message())
    slack, manager = receiver.got
    assert slack[2]["text"] == "[WARNING] spend: drift (amount)"
    assert slack[2]["attachments"][0]["color"].startswith("#")
    assert manager[0] == "/api/v2/alerts"
    (alert,) = manager[2]
    assert alert["labels"] == {
        "alertname": "drift",
        "monitor": "m",
        "on": "spend",
        "subject": "amount",
        "severity": "warning",
    }
    assert alert["annotations"]["runbook_url"] == "docs/runbooks/drift.md"
    assert "endsAt" not in alert


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody vouches for but itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("MISSING: openssl, which makes the certificate of a mail server")
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=mail", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    files = ["-out", str(made[0]), "-keyout", str(made[1])]
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *files],
        check=True,
        capture_output=True,
    )
    return made


def mailing(server: MailServer, **more: Any) -> Channel:
    to = ["a@x.org", "b@x.org"]
    settings = {"host": "127.0.0.1", "port": server.port, "from": "fs@x.org", "to": to, "tls": "none", **more}
    return Channel("mail", "smtp", tuple(settings.items()))


def test_mail_says_in_its_subject_what_happened() -> None:
    with mail_server() as server:
        send(mailing(server), message())
        send(mailing(server), message())  # a copy: a mailbox tells it by its id
    (sender, to, mail), (_, _, copy) = server.mails
    assert (sender, to) == ("fs@x.org", ["a@x.org", "b@x.org"])
    assert mail["To"] == "a@x.org, b@x.org"
    assert mail["Subject"] == "[WARNING] spend: drift (amount)"
    assert mail["Message-ID"] == copy["Message-ID"] == f"<{message()['id']}@featurestore>"
    text = mail.get_content().replace("\r\n", "\n").strip()
    assert text == body(message()).strip()
    assert "docs/runbooks/drift.md" in text


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_mail_goes_over_an_encrypted_line_to_whom_a_certificate_vouches_for(
    certificate: tuple[Path, Path], tls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "s3cr3t")
    with mail_server(certificate, at_once=tls == "tls") as server:
        channel = mailing(server, tls=tls, user="fs", password="${MAIL_PASSWORD}")
        with pytest.raises(NotDelivered, match="channel 'mail'") as refused:
            send(channel, message())  # nobody vouches for it yet
        assert "s3cr3t" not in repr(refused.value)
        assert server.users == []
        assert server.mails == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        send(channel, message())
    assert server.users == [("fs", "s3cr3t")]
    assert server.encrypted == [True]


def test_mail_that_is_not_taken_says_why() -> None:
    with mail_server() as server:
        with pytest.raises(NotDelivered, match="NotSupported"):
            send(mailing(server, tls="starttls"), message())  # it offers none: nothing goes in the open
        for command, answer, want in (
            ("DATA", "452 no room", "452"),
            ("MAIL", "550 not you", "550"),
            ("AUTH", "535 who are you", "535"),
        ):
            server.refuse = {command: answer}
            with pytest.raises(NotDelivered, match=want):
                send(mailing(server, user="fs", password="x"), message())
        server.refuse = {}
        with pytest.raises(NotDelivered, match="not ASCII") as refused:
            send(mailing(server, user="fs", password="gehüim"), message())
        assert "hüim" not in repr(refused.value)
        server.refuse = {"RCPT": "550 nobody of that name"}
        with pytest.raises(NotDelivered, match="Refused"):
            send(mailing(server), message())
    assert server.mails == []
    with pytest.raises(NotDelivered, match="refused"):
        send(mailing(server), message())


def test_the_log_is_a_channel(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "featurestore.alerts"):
        send(Channel("log"), message())
    assert "[WARNING] spend: drift (amount)" in caplog.text


FAILURES: list[tuple[str, Callable[[str], str], int, str]] = [
    ("an answer that is none", lambda url: url, 500, "it answered 500"),
    ("a redirect, which would take the token along", lambda url: url, 302, "it answered 302"),
    (
        "nobody there",
        lambda _: "http://127.0.0.1:9/x?key=hidden",
        0,
        "(http://127.0.0.1:9): Connection refused",
    ),
    ("no address of the web", lambda _: "file:///etc/passwd", 0, "neither http:// nor https://"),
]


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case[0])
def test_what_is_not_delivered_says_why_and_holds_no_secret(
    case: tuple[str, Callable[[str], str], int, str], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url, code, want = case
    receiver.answers.append(code)
    monkeypatch.setenv("HIDDEN_URL", url(f"{receiver.url}/hooks/s3cr3t"))
    with pytest.raises(NotDelivered) as refused:
        send(Channel("hook", "webhook", (("url", "${HIDDEN_URL}"),)), message())
    assert want in str(refused.value)
    assert not any(s in repr(refused.value) for s in ("s3cr3t", "hidden", "passwd"))
    assert refused.value.__cause__ is None
    monkeypatch.delenv("HIDDEN_URL")
    with pytest.raises(NotDelivered, match="HIDDEN_URL is not set"):
        send(Channel("hook", "webhook", (("url", "${HIDDEN_URL}"),)), message())


def test_channels_are_read_from_the_settings_with_their_secrets_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK", "https://hooks.example/s3cr3t")
    (tmp_path / "fs.toml").write_text(
        '[alerts]\ncooldown = "4h"\n[alerts.channels.ops]\nkind = "slack"\nurl = "${SLACK}"\nhours = "08:00-20:00"\n'
        '[env.prod.alerts.channels.am]\nkind = "alertmanager"\nurl = "http://am:9093"\n'
    )
    config = load_config(tmp_path, "prod")
    assert set(config.channels) == {"log", "ops", "am"}
    assert config.alerts == {"cooldown": "4h"}
    assert "s3cr3t" not in repr(config)


def test_mistakes_in_channels_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "fs.toml").write_text(
        '[alerts.channels.a]\nkind = "slak"\n[alerts.channels.b]\nkind = "webhook"\nurl = "http://x"\ntoken = "in the open"\n'
        '[alerts.channels.c]\nkind = "smtp"\nhost = "m"\nport = "25"\nhours = "8-20"\n'
        '[alerts.channels.d]\nkind = "webhook"\nuri = "x"\n'
    )
    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path)
    said = str(refused.value)
    for part in ("did you mean 'slack'", "holds its token in the open", "'port' that is not of the right type", "lacks 'from'",
                 "write 08:00-20:00", "has no setting 'uri'", "fs.toml:1", "fs.toml:3"):  # fmt: skip
        assert part in said
    assert 'in the open"' not in said.replace("holds its token in the open", "")


HOURS = [
    ("inside the hours", {"hours": "08:00-20:00"}, "2025-03-03T12:00", "2025-03-03T12:00"),
    ("before them", {"hours": "08:00-20:00"}, "2025-03-03T03:00", "2025-03-03T08:00"),
    ("after them it is the next day", {"hours": "08:00-20:00"}, "2025-03-03T20:00", "2025-03-04T08:00"),
    ("over midnight", {"hours": "22:00-06:00"}, "2025-03-03T12:00", "2025-03-03T22:00"),
    ("over midnight, inside", {"hours": "22:00-06:00"}, "2025-03-03T05:59", "2025-03-03T05:59"),
    ("on working days", {"hours": "09:00-17:00", "days": "mon-fri"}, "2025-03-08T12:00", "2025-03-10T09:00"),
    (
        "in a zone of its own",
        {"hours": "08:00-20:00", "timezone": "America/New_York"},
        "2025-03-03T12:30",
        "2025-03-03T13:00",
    ),
    (
        "after the clock of the zone moved",
        {"hours": "08:00-20:00", "timezone": "America/New_York"},
        "2025-03-10T05:00",
        "2025-03-10T12:00",
    ),
]


@pytest.mark.parametrize("case", HOURS, ids=lambda case: case[0])
def test_hours_hold_back_what_is_not_critical(case: tuple[str, dict[str, str], str, str]) -> None:
    _, settings, at, opens = case
    channels, wrong = channels_of({"c": {"kind": "log", **settings}})
    assert wrong == []
    assert channels["c"].opens(moment(at)) == moment(opens)


# --------------------------------------------------------------------------------------------------------------- outbox


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = "sqlite:///registry.db" if request.param == "sqlite" else request.getfixturevalue("fresh_postgres")
    return open_registry(url, tmp_path)


def note(**alert: Any) -> Notification:
    return step({}, 0, found(), **alert)[1][0]


def posted(registry: Registry, *notes: Notification, channels: Mapping[str, Channel]) -> list[str]:
    with changing(registry) as changes:
        return post(changes, notes, channels, NOW)


def test_a_message_is_delivered_once_however_often_it_is_written(registry: Registry) -> None:
    sent: list[str] = []
    channels = {"log": Channel("log"), "ops": Channel("ops")}
    one = note(channels=("ops", "log"))
    posted(registry, one, channels=channels)
    posted(registry, one, channels=channels)
    for _ in range(2):
        deliver(registry, channels, NOW, lambda c, m: sent.append(f"{c.name} {m['id']}"))
    assert sent == [f"log {one.id}", f"ops {one.id}"]


def test_what_fails_is_tried_again_later_and_later_and_given_up_after_a_week(registry: Registry) -> None:
    tries: list[int] = []

    def fails(channel: Channel, message: Mapping[str, Any]) -> None:
        tries.append(now)
        raise NotDelivered("no")

    channels = {"log": Channel("log")}
    posted(registry, note(), channels=channels)
    for now in range(NOW, NOW + PATIENCE + 2 * HOUR, 10 * MINUTE):
        deliver(registry, channels, now, fails)
    waits = [b - a for a, b in pairwise(tries)]
    assert waits == sorted(waits)
    assert FIRST_WAIT <= waits[0] <= waits[-1] <= HOUR + 10 * MINUTE
    (one,) = outbox(registry)
    assert (one.given_up_at is not None, one.error) == (True, "no")
    assert [w.id for w in stuck(registry, now)] == [one.id]


def test_a_message_that_another_run_took_up_is_left_to_it_until_that_run_must_be_dead(
    registry: Registry,
) -> None:
    channels = {"log": Channel("log")}
    posted(registry, note(), channels=channels)
    sent: list[str] = []

    def killed(channel: Channel, message: Mapping[str, Any]) -> None:
        deliver(registry, channels, NOW + 1, lambda *_: sent.append("while it is held"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver(registry, channels, NOW, killed)
    assert sent == []
    deliver(registry, channels, NOW + 10 * MINUTE, lambda *_: sent.append("after the lease"))
    assert sent == ["after the lease"]


def test_a_channel_that_is_not_written_is_told_to_the_log_and_said(registry: Registry) -> None:
    wrong = posted(registry, note(channels=("opps",)), channels={"log": Channel("log")})
    assert wrong == ["alert 'drift' goes to channel 'opps', which fs.toml does not have: told to the log"]
    assert [w.channel for w in outbox(registry)] == ["log"]


def test_outside_its_hours_a_channel_waits_but_not_for_what_is_critical(registry: Registry) -> None:
    channels, _ = channels_of({"ops": {"kind": "log", "hours": "13:00-20:00"}})
    posted(
        registry,
        note(channels=("ops",)),
        note(channels=("ops",), severity="critical", name="worse"),
        channels=channels,
    )
    sent: list[str] = []
    deliver(registry, channels, NOW, lambda _, m: sent.append(m["severity"]))
    assert sent == ["critical"]
    deliver(registry, channels, NOW + HOUR, lambda _, m: sent.append(m["severity"]))
    assert sent == ["critical", "warning"]


KILLED = """
import os, signal, sys
from pathlib import Path
from featurestore.channels import Channel
from featurestore.monitor import outbox
from featurestore.registry import open_registry
registry = open_registry("sqlite:///registry.db", Path(sys.argv[1]))
def send(channel, message):
    with open(Path(sys.argv[1]) / "sent", "a") as f:
        f.write(message["id"] + "\\n")
        f.flush(); os.fsync(f.fileno())
    os.kill(os.getpid(), signal.SIGKILL)
outbox.deliver(registry, {"log": Channel("log")}, int(sys.argv[2]), send)
"""


def test_a_run_killed_between_sending_and_noting_it_sends_again_under_the_same_id(tmp_path: Path) -> None:
    registry = open_registry("sqlite:///registry.db", tmp_path)
    posted(registry, note(), channels={"log": Channel("log")})
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(NOW)],
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert done.returncode == -signal.SIGKILL
    sent = (tmp_path / "sent").read_text().split()
    deliver(registry, {"log": Channel("log")}, NOW + HOUR, lambda _, m: sent.append(m["id"]))
    assert sent == [note().id] * 2
    assert deliver(registry, {"log": Channel("log")}, NOW + 2 * HOUR).sent == 0


def test_settings_without_channels_have_the_log() -> None:
    assert set(Config(Path(), "x").channels) == {"log"}
