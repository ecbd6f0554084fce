"""The servers the other tests rely on are real, private and empty."""

from __future__ import annotations

import psycopg
import redis

from tests.services import PostgresServer, RedisServer


def test_redis_answers_on_its_port_and_on_its_socket(fresh_redis: RedisServer) -> None:
    with redis.Redis.from_url(fresh_redis.url) as tcp, redis.Redis.from_url(fresh_redis.unix_url) as unix:
        tcp.set("key", b"value")
        assert unix.get("key") == b"value"


def test_redis_refuses_writes_rather_than_forget(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("save") == {"save": ""}


def test_postgres_answers_on_its_port_and_on_its_socket(postgres_server: PostgresServer) -> None:
    for url in (postgres_server.url, postgres_server.unix_url):
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_fresh_database_holds_no_tables(fresh_postgres: str) -> None:
    with psycopg.connect(fresh_postgres) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert tables == (0,)
