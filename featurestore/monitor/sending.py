"""How a message is given to a channel: one function for each kind. Each raises `NotDelivered`, with nothing secret in it."""

from __future__ import annotations

import json
import logging
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

from featurestore.channels import Channel
from featurestore.config import expand
from featurestore.errors import ConfigError, FeatureStoreError

TIMEOUT_SECONDS = 10
_LOG = logging.getLogger("featurestore.alerts")
_COLOURS = {"info": "#439fe0", "warning": "#daa038", "critical": "#d00000"}

Message = Mapping[str, Any]


class NotDelivered(FeatureStoreError):
    """A channel did not take a message. The text says why, and holds no secret."""


def send(channel: Channel, message: Message) -> None:
    """Gives a message to a channel. Raises NotDelivered."""
    settings = {}
    for key, value in channel.settings:
        try:
            settings[key] = _filled(value)
        except ConfigError as error:
            raise NotDelivered(f"channel '{channel.name}': {str(error).splitlines()[0]}") from None
    _KINDS[channel.kind](channel.name, settings, message)


def _filled(value: Any) -> Any:
    if isinstance(value, list):
        return [_filled(v) for v in value]
    return expand(value) if isinstance(value, str) else value


# --------------------------------------------------------------------------------------------------------------- wording


def headline(message: Message) -> str:
    """One line: what happened, to what, how bad."""
    word = {"firing": message["severity"].upper(), "resolved": "RESOLVED"}[message["event"]]
    names = [s["subject"] for s in message["subjects"] if s["subject"]]
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"[{word}] {message['on']}: {message['alert']}{f' ({some})' if some else ''}"


def body(message: Message) -> str:
    """What happened, since when, which models, the next step and the runbook."""
    lines = [f"{s['subject'] or message['on']}: {s['said']}" for s in message["subjects"][:20]]
    left = len(message["subjects"]) - 20
    lines += [f"… and {left} more"] if left > 0 else []
    models = ", ".join(message["models"])
    if message["event"] == "resolved":
        return "\n".join(
            [*lines, f"It had lasted since {message['since']}, and was over at {message['at']}."]
        )
    return "\n".join(
        [
            *lines,
            f"Since {message['since']}, seen by monitor '{message['monitor']}'."
            + (f" Models that read it: {models}." if models else ""),
            f"Next step: {message['next_step']}.",
            f"Runbook: {message['runbook']}",
        ]
    )


# ------------------------------------------------------------------------------------------------------------- the kinds


def _log(name: str, settings: Message, message: Message) -> None:
    level = logging.INFO if message["event"] == "resolved" else logging.WARNING
    _LOG.log(level, "%s\n%s", headline(message), body(message))


def _webhook(name: str, settings: Message, message: Message) -> None:
    _post(name, settings, {**message, "text": f"{headline(message)}\n{body(message)}"}, message["id"])


def _slack(name: str, settings: Message, message: Message) -> None:
    colour = "#2eb886" if message["event"] == "resolved" else _COLOURS[message["severity"]]
    said = {
        "text": headline(message),
        "attachments": [{"color": colour, "text": body(message), "fallback": headline(message)}],
    }
    _post(name, settings, said, message["id"])


def _alertmanager(name: str, settings: Message, message: Message) -> None:
    """One alert for each subject, as its v2 API takes them; `endsAt` says that one is over."""
    alerts = []
    for one in message["subjects"]:
        labels = {
            "alertname": message["condition"],
            "monitor": message["monitor"],
            "on": message["on"],
            "subject": one["subject"],
            "severity": message["severity"],
        }
        annotations = {
            "summary": headline(message),
            "description": one["said"],
            "next_step": message["next_step"],
            "runbook_url": message["runbook"],
        }
        alert: dict[str, Any] = {"labels": labels, "annotations": annotations, "startsAt": message["since"]}
        if message["event"] == "resolved":
            alert["endsAt"] = message["at"]
        alerts.append(alert)
    url = settings["url"].rstrip("/")
    _post(
        name,
        {**settings, "url": url if url.endswith("/alerts") else f"{url}/api/v2/alerts"},
        alerts,
        message["id"],
    )


def _post(name: str, settings: Message, value: Any, identity: str) -> None:
    url = settings["url"]
    if urlsplit(url).scheme not in ("http", "https"):
        raise NotDelivered(f"channel '{name}': its url begins with neither http:// nor https://")
    headers = {"Content-Type": "application/json", "Idempotency-Key": identity, "User-Agent": "featurestore"}
    if settings.get("token"):
        headers["Authorization"] = f"Bearer {settings['token']}"
    request = urllib.request.Request(url, json.dumps(value).encode(), headers)  # noqa: S310  the scheme was looked at
    where = f"channel '{name}' ({_host(url)})"
    try:
        with _opener().open(request, timeout=TIMEOUT_SECONDS) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as error:
        with error:
            raise NotDelivered(f"{where}: it answered {error.code}") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        # Not chained: the library may quote the whole URL.
        reason = getattr(error, "reason", error)
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
        raise NotDelivered(f"{where}: {text}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A channel that has moved is to be written anew: a redirect would carry the token to whoever it names."""

    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


def _smtp(name: str, settings: Message, message: Message) -> None:
    mail = EmailMessage()
    to = settings["to"]
    mail["Subject"], mail["From"] = headline(message), settings["from"]
    mail["To"] = ", ".join(to) if isinstance(to, list) else to
    mail["Message-ID"] = f"<{message['id']}@featurestore>"  # what a mailbox tells copies by
    mail.set_content(body(message))
    host, tls = settings["host"], settings.get("tls", "starttls")
    port = settings.get("port", {"tls": 465, "starttls": 587, "none": 25}[tls])
    try:
        context = ssl.create_default_context()
        made = (
            smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_SECONDS, context=context)
            if tls == "tls"
            else smtplib.SMTP(host, port, timeout=TIMEOUT_SECONDS)
        )
        with made as server:
            if tls == "starttls":
                server.starttls(context=context)
            if settings.get("user"):
                server.login(settings["user"], settings.get("password", ""))
            server.send_message(mail)
    except smtplib.SMTPResponseException as error:
        raise NotDelivered(f"channel '{name}' ({host}:{port}): it answered {error.smtp_code}") from None
    except UnicodeError:  # of the library's login; what it could not encode is a secret
        raise NotDelivered(f"channel '{name}' ({host}:{port}): its user or password is not ASCII") from None
    except (smtplib.SMTPException, OSError) as error:
        text = getattr(error, "strerror", None) or type(error).__name__
        raise NotDelivered(f"channel '{name}' ({host}:{port}): {text}") from None


_KINDS: dict[str, Callable[[str, Message, Message], None]] = {
    "log": _log,
    "webhook": _webhook,
    "slack": _slack,
    "smtp": _smtp,
    "alertmanager": _alertmanager,
}

__all__ = ["NotDelivered", "body", "headline", "send"]
