"""Keys: who may do what, what is kept of a key, and where none is needed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featurestore.client import Client
from featurestore.errors import AccessDenied, ConfigError, NotFound, RegistryError
from featurestore.registry import Registry, open_registry
from featurestore.registry.keys import Keys, match
from featurestore.server.settings import Settings
from tests.served import Server, project, serving, wait_until

ASKED = {"feature_service": "plain", "entities": {"shop": ["s1"]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("access") / "shop", "[server]\npoll_ms = 100\n")


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, str]:
    made = {}
    for name, options in {
        "reader": ["--role", "read"],
        "plain": ["--service", "plain"],
        "boss": ["--role", "admin"],
        "gone": [],
    }.items():
        made[name] = json.loads(fs(folder, "key", "add", name, *options, "--json").stdout)["key"]
    return made


@pytest.fixture(scope="module")
def server(folder: Path, keys: dict[str, str]) -> Iterator[Server]:
    with serving(folder, "--host", "0.0.0.0") as running:
        yield running


def fs(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "featurestore.cli", *arguments, "--project", str(folder)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_server_that_others_can_reach_does_not_start_without_a_key(tmp_path: Path) -> None:
    folder = project(tmp_path / "shop")
    said = fs(folder, "serve", "--host", "0.0.0.0", "--port", "0")
    assert said.returncode == 1
    assert "fs key add" in said.stderr


@pytest.mark.parametrize(
    ("host", "needs"),
    [("127.0.0.1", False), ("127.8.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True),
     ("10.0.0.1", True), ("features.example.org", True)],
)  # fmt: skip
def test_keys_are_needed_wherever_others_can_get_in(host: str, needs: bool) -> None:
    assert Settings(host=host).needs_keys is needs
    assert not Settings(host=host, uds="/run/x.sock").needs_keys


def test_who_has_no_key_learns_nothing_but_that_it_runs(server: Server) -> None:
    for path in ("/health", "/v2/health/live", "/ready", "/v2/health/ready"):
        answer = server.ask("GET", path)
        assert answer.status == 200
        assert b"plain" not in answer.body
        assert b"shops" not in answer.body
    for path in ("/metrics", "/docs", "/openapi.json", "/v2", "/v2/models/plain", "/nowhere"):
        answer = server.ask("GET", path)
        assert answer.status == 401, path
        assert answer.json()["type"] == "AccessDenied"
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for path in (
        "/get-online-features",
        "/v2/models/plain/infer",
        "/v2/models/nope/infer",
        "/features/plain",
    ):
        assert server.post(path, ASKED).status == 401, path


def test_wrong_keys_open_nothing(server: Server, keys: dict[str, str]) -> None:
    right = keys["reader"]
    other = right[:-1] + ("A" if right[-1] != "A" else "B")
    for wrong in (
        other,
        right[:-1],
        right + "x",
        right.upper(),
        "fs_",
        "",
        "fs_000000000000_" + "a" * 43,
        "é",
    ):
        answer = server.post(
            "/get-online-features", ASKED, {"Authorization": f"Bearer {wrong}".encode().decode("latin-1")}
        )
        assert answer.status == 401, wrong


def test_roles_and_scopes(server: Server, keys: dict[str, str]) -> None:
    whole = {"feature_service": "buy", "entities": {"user_id": [1], "shop": ["s1"], "price_now": [1.0]}}
    assert server.post("/get-online-features", ASKED, bearer(keys["reader"])).status == 200
    assert server.post("/get-online-features", whole, {"X-API-Key": keys["boss"]}).status == 200
    row = json.dumps([{"k": 1}]).encode()
    assert server.post("/events/any", row).status == 401
    assert server.post("/events/any", row, bearer(keys["reader"])).status == 403
    assert server.post("/events/any", row, bearer(keys["boss"])).status == 404
    mine = bearer(keys["plain"])
    assert server.post("/get-online-features", ASKED, mine).status == 200
    assert server.ask("GET", "/v2/models/plain", headers=mine).status == 200
    for path, asked in (
        ("/get-online-features", whole),
        ("/get-online-features", {**whole, "feature_service": "buy@1"}),
        ("/get-online-features", {"feature_service": "nope", "entities": {}}),
        ("/get-online-features", {"features": ["spend:n_sum_7d"], "entities": {"user_id": [1]}}),
        ("/v2/models/buy/infer", {}),
        ("/v2/models/buy@1/infer", {}),
        ("/v2/models/nope/infer", {}),
        ("/features/buy", {}),
    ):
        answer = server.post(path, asked, mine)
        assert (answer.status, answer.json()["type"]) == (403, "AccessDenied"), path
    assert server.ask("GET", "/v2/models/buy", headers=mine).status == 403
    open_to_it = {"features": ["shops:amount"], "entities": {"shop": ["s1"]}}
    assert server.post("/get-online-features", open_to_it, mine).status == 200


def test_a_revoked_key_opens_nothing_soon_after(server: Server, folder: Path, keys: dict[str, str]) -> None:
    header = bearer(keys["gone"])
    assert server.post("/get-online-features", ASKED, header).status == 200
    gone = json.loads(fs(folder, "key", "revoke", "gone", "--json").stdout)
    assert gone["revoked_at"] is not None
    wait_until(lambda: server.post("/get-online-features", ASKED, header).status == 401)
    listed = json.loads(fs(folder, "key", "list", "--json").stdout)["keys"]
    assert [k["name"] for k in listed] == ["reader", "plain", "boss"]
    assert len(json.loads(fs(folder, "key", "list", "--all", "--json").stdout)["keys"]) == 4
    assert "plain" in fs(folder, "key", "list").stdout


def test_refusals_are_audited_and_no_secret_is_kept_or_logged(
    server: Server, folder: Path, keys: dict[str, str]
) -> None:
    server.post("/get-online-features", ASKED, bearer(keys["reader"] + "x"))
    server.post("/features/buy", b"", bearer(keys["plain"]))
    wait_until(lambda: len([line for line in server.lines() if line.get("audit")]) >= 2)
    reasons = {line["reason"] for line in server.lines() if line.get("audit")}
    assert reasons == {"no key", "not allowed"}
    callers = {(line["reason"], line["caller"]) for line in server.lines() if line.get("audit")}
    assert ("no key", "127.0.0.1") in callers
    assert ("not allowed", keys["plain"].split("_")[1]) in callers
    text = server.ask("GET", "/metrics", headers=bearer(keys["boss"])).body.decode()
    assert 'fs_refused_total{reason="no key"}' in text
    kept = b"".join(p.read_bytes() for p in (folder / ".fs").glob("registry.db*"))
    for key in keys.values():
        secret = key.rpartition("_")[2] if key.count("_") == 2 else key[16:]
        assert secret.encode() not in kept
        assert secret not in server.log.read_text()
        assert secret not in text


def test_the_client_shows_its_key(server: Server, keys: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{server.address[1]}"
    with Client(url, key=keys["plain"]) as client:
        assert len(client.get_online_features("plain", {"shop": ["s1"]})) == 1
        with pytest.raises(AccessDenied, match="may not read 'buy'"):
            client.get_online_features("buy", {"user_id": 1, "shop": "s1"}, request={"price_now": 1.0})
    with Client(url) as client, pytest.raises(AccessDenied, match="wants a key"):
        client.get_online_features("plain", {"shop": ["s1"]})


@pytest.fixture(params=["sqlite", "postgres"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    if request.param == "sqlite":
        return open_registry("sqlite:///registry.db", tmp_path)
    return open_registry(request.getfixturevalue("fresh_postgres"), tmp_path)


def test_keys_in_the_registry(registry: Registry) -> None:
    keys = Keys(registry)
    assert keys.all() == []
    with pytest.raises(NotFound):
        keys.add("a", "read", ["nope"], "me", 1)
    key, text = keys.add("a", "read", [], "me", 1)
    again, _ = keys.add("a", "write", [], "me", 2)
    assert registry.current().number == 0
    assert keys.all() == [key, again]
    assert match(text, keys.active()) == key
    assert match(text + "x", keys.active()) is None
    assert text not in repr(key)
    assert key.hash not in repr(key)
    with pytest.raises(RegistryError, match="2 keys are named 'a'"):
        keys.revoke("a", 3)
    assert keys.revoke(key.id, 3).revoked_at == 3
    assert keys.revoke(key.id, 4).revoked_at == 3
    assert match(text, keys.active()) is None
    assert keys.revoke("a", 5).id == again.id
    with pytest.raises(NotFound):
        keys.revoke("nobody", 6)
    assert again.may("read")
    assert not again.may("admin")


def test_tls_and_certificates_of_callers(tmp_path: Path, folder: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make certificates with")
    made: dict[str, Any] = {}
    for name in ("server", "caller"):
        made[name] = (str(tmp_path / f"{name}.pem"), str(tmp_path / f"{name}.key"))
        argv = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
                "-out", made[name][0], "-keyout", made[name][1]]  # fmt: skip
        subprocess.run(argv, check=True, capture_output=True)
    options = [
        "--tls-certificate",
        made["server"][0],
        "--tls-key",
        made["server"][1],
        "--tls-client-ca",
        made["caller"][0],
    ]
    with serving(folder, *options, log=tmp_path / "log") as server:
        assert server.url.startswith("https://127.0.0.1:")
        with Client(server.url, ca=made["server"][0], certificate=made["caller"]) as client:
            assert len(client.get_online_features("plain", {"shop": ["s1"]})) == 1
        for stranger in (Client(server.url, ca=made["server"][0]), Client(server.url)):
            with stranger, pytest.raises(Exception, match=r"(?i)certificate|reset|hung up|EOF|tls|ssl"):
                stranger.get_online_features("plain", {"shop": ["s1"]})


@pytest.mark.parametrize(
    ("given", "piece"),
    [({"port": 70000}, "65535"), ({"workers": 0}, "at least 1"), ({"tls_key": "x"}, "both"), ({"prot": 1}, "'port'"),
     ({"tls_certificate": "/nowhere", "tls_key": "/nowhere"}, "no file"), ({"tls_client_ca": "x"}, "none itself")],
)  # fmt: skip
def test_settings_that_cannot_be(given: dict[str, Any], piece: str) -> None:
    with pytest.raises(ConfigError, match=piece):
        Settings.of(given)


def test_a_place_that_is_taken(server: Server, folder: Path) -> None:
    said = fs(folder, "serve", "--host", "127.0.0.1", "--port", str(server.address[1]))
    assert said.returncode == 1
    assert "cannot serve on" in said.stderr


def test_comparing_takes_as_long_for_any_wrong_secret(tmp_path: Path) -> None:
    """Not proof, but a guard against a comparison that ends at the first difference."""
    keys = Keys(open_registry("sqlite:///registry.db", tmp_path))
    key, text = keys.add("a", "read", [], "me", 1)
    known = {key.id: key}
    early, late = (
        text[:17] + ("A" if text[17] != "A" else "B") + text[18:],
        text[:-1] + ("A" if text[-1] != "A" else "B"),
    )
    best: dict[str, float] = {}
    for wrong in (early, late) * 7:
        began = time.thread_time()  # of the clock, a busy machine makes anything
        for _ in range(2000):
            assert match(wrong, known) is None
        best[wrong] = min(best.get(wrong, 9.0), time.thread_time() - began)
    assert max(best.values()) < 2 * min(best.values())
