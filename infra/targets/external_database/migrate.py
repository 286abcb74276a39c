"""Run alembic inside a container of Letta's image, over a connection whose TLS is as it was asked for.

Run by Letta's interpreter with this text as its argument. Reads `{"target": URL IN PARTS, "environment":
..., "secrets": [...]}` from stdin (see `database_url.as_document`).

pg8000, which alembic uses, takes no TLS settings from a URL, and by itself goes on in plaintext where
the server offers no TLS. So the connection gets its parameters here, past Letta's URL: that one only
says "Postgres", holds no password, and can't break on a `%` in it, as alembic's own settings would.
"""

from __future__ import annotations

import importlib
import json
import os
import ssl
import sys
from typing import Any

SYSTEM_FILE = "/etc/ssl/certs/ca-certificates.crt"
NOWHERE = "postgresql://nobody@nowhere.invalid/nothing"


def main() -> None:
    asked = json.load(sys.stdin)
    sys.path.insert(0, "/opt/letta-ops")
    launch: Any = importlib.import_module("launch")
    sys.path.remove("/opt/letta-ops")
    sys.stdout = launch.LogStream(sys.stdout, asked["secrets"])
    sys.stderr = launch.LogStream(sys.stderr, asked["secrets"])
    os.environ.update(asked["environment"] | {"LETTA_PG_URI": NOWHERE})
    route(asked["target"])
    importlib.import_module("alembic.config").main(argv=["upgrade", "head"])


def route(target: dict[str, Any]) -> None:
    """Lead every connection of pg8000 through SQLAlchemy to `target`."""
    sqlalchemy: Any = importlib.import_module("sqlalchemy")
    context = tls_context(target)

    def connect(dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        if dialect.driver != "pg8000":
            raise RuntimeError(f"the migrations use {dialect.driver}, not pg8000")
        names = ("host", "port", "user", "password", "database")
        parameters.clear()
        parameters.update({name: target[name] for name in names})
        parameters["ssl_context"] = context

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "do_connect", connect)


def tls_context(target: dict[str, Any]) -> ssl.SSLContext | bool | None:
    """pg8000's `ssl_context` with the meaning of libpq's sslmode. None: TLS where it is offered."""
    mode, authority = target["tls"], target["authority"]
    if mode in ("disable", "prefer"):
        return None if mode == "prefer" else False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"
    if authority is None:
        context.verify_mode = ssl.CERT_NONE
    elif authority == "system":
        context.load_verify_locations(cafile=SYSTEM_FILE)
    else:
        context.load_verify_locations(cadata=authority)
    return context


if __name__ == "__main__":
    main()
