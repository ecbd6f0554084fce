"""`fs serve`."""

from __future__ import annotations

import click

from featurestore.cli.output import print_json
from featurestore.cli.project import Settings, command
from featurestore.errors import ConfigError

_FILE = click.Path(dir_okay=False)


@command("serve")
@click.option(
    "--host", metavar="ADDRESS", help="Where to listen. Default: 127.0.0.1; elsewhere callers need keys."
)
@click.option("--port", type=int, metavar="N", help="Default: 6566; 0 is any that is free.")
@click.option("--uds", type=_FILE, metavar="PATH", help="A unix socket instead of host and port.")
@click.option("--workers", type=int, metavar="N", help="Processes that serve. Default: 1.")
@click.option(
    "--tls-certificate", type=_FILE, metavar="FILE", help="Serve TLS with this certificate chain (PEM)."
)
@click.option("--tls-key", type=_FILE, metavar="FILE", help="The certificate's private key (PEM).")
@click.option(
    "--tls-client-ca", type=_FILE, metavar="FILE", help="Callers need a certificate of this authority."
)
def serve_command(
    settings: Settings,
    host: str | None,
    port: int | None,
    uds: str | None,
    workers: int | None,
    tls_certificate: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
) -> None:
    """Serve features over HTTP, until SIGTERM or Ctrl-C; requests under way are finished first.

    Further settings are those of [server] in fs.toml. Logs are JSON lines on stderr.
    """
    config = settings.config()
    try:
        from featurestore.server.run import serve
        from featurestore.server.settings import Settings as Server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("featurestore"):
            raise
        raise ConfigError(f"`fs serve` wants {error.name}\n  pip install 'featurestore[server]'") from error
    given = {
        "host": host,
        "port": port,
        "uds": uds,
        "workers": workers,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
    }
    told = Server.of({**config.server, **{k: v for k, v in given.items() if v is not None}})

    def announce(url: str) -> None:
        if settings.json:
            print_json({"url": url})
        else:
            settings.note(f"serving on {url}")

    serve(config.root, config.environment, told, announce)
