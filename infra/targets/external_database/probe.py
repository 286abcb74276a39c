"""Ask a Postgres from inside a container of Letta's image: can its server and its migrations use it?

Run by Letta's interpreter with this text as its argument; it has none of our packages, but both
drivers. Reads `{"servers": URL IN PARTS, "direct": URL IN PARTS, "versions": FOLDER}` from stdin (see
`database_url.as_document`) and prints one JSON document; `rules.py` judges. Nothing is left
in the database: what is tried is rolled back.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

SECONDS = 10.0
ROUNDS = 4
SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # protocol 3.0, "SSLRequest"
SYSTEM_FILE = "/etc/ssl/certs/ca-certificates.crt"
AUTHORITY_FILE = Path("/tmp/authority.pem")  # noqa: S108  # inside the container
PASSWORD_FILE = Path("/tmp/password")  # noqa: S108  # inside the container
TRIAL = "letta_ops_trial"

Document = dict[str, Any]


def main() -> None:
    asked = json.load(sys.stdin)
    servers, direct = asked["servers"], asked["direct"]
    found: Document = {"servers": asyncio.run(way(servers)), "same": servers == direct}
    found["direct"] = found["servers"] if found["same"] else asyncio.run(way(direct))
    found["facts"] = None
    if found["direct"]["failed"] is None:
        found["migrations"], found["facts"] = ask(direct, Path(asked["versions"]))
    print(json.dumps(found))


async def way(target: Document) -> Document:
    """How far one URL leads, as the server would go; `failed` has the stage and the reason."""
    seen: Document = {"failed": None, "tls_offered": None, "pooled": None}
    seen |= {name: target[name] for name in ("host", "port", "user", "database", "tls")}
    try:
        seen["tls_offered"] = offered(target)
        links = [await connect(target)]
    except Stage as stage:
        seen["failed"] = stage.as_json()
        return seen
    try:
        links.append(await connect(target))
        seen["pooled"] = await pooled(*links)
        seen["identity"] = await identity(links[0])
    except Stage as stage:
        seen["failed"] = stage.as_json()
    except Exception as error:  # noqa: BLE001  # of the driver's many kinds; each is an answer
        seen["failed"] = Stage("driver", error).as_json()
    finally:
        for link in links:
            link.terminate()
    return seen


class Stage(Exception):  # noqa: N818  # not an error of ours: where the way ended
    """How far we came, and why not further."""

    def __init__(self, stage: str, error: BaseException) -> None:
        super().__init__(stage)
        self.stage, self.error = stage, error

    def as_json(self) -> Document:
        state = getattr(self.error, "sqlstate", None)
        message = getattr(self.error, "verify_message", None) or str(self.error)
        kind = type(self.error).__name__
        return {"stage": self.stage, "message": message.strip() or kind, "sqlstate": state}


def offered(target: Document) -> bool:
    """Whether the server offers TLS; raises Stage `dns`, `tcp`, `tls`."""
    try:
        socket.getaddrinfo(target["host"], target["port"], type=socket.SOCK_STREAM)
    except OSError as error:
        raise Stage("dns", error) from error
    try:
        link = socket.create_connection((target["host"], target["port"]), SECONDS)
    except OSError as error:
        raise Stage("tcp", error) from error
    with link:
        try:
            link.sendall(SSL_REQUEST)
            answer = link.recv(1)
        except OSError as error:
            raise Stage("protocol", error) from error
        if answer not in (b"S", b"N"):
            raise Stage("protocol", ValueError("what answers there doesn't speak Postgres"))
        context = tls_context(target)
        if answer == b"S" and isinstance(context, ssl.SSLContext):
            try:
                context.wrap_socket(link, server_hostname=target["host"]).close()
            except OSError as error:
                raise Stage("tls", error) from error
    return answer == b"S"


def tls_context(target: Document) -> ssl.SSLContext | bool | None:
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


async def connect(target: Document) -> Any:
    """Connect as Letta's server does; raises Stage `authentication` or `driver`."""
    asyncpg: Any = importlib.import_module("asyncpg")
    prepare(target)
    address = {name: target[name] for name in ("host", "port", "user", "database")}
    try:
        return await asyncpg.connect(
            **address, ssl=target["tls"], timeout=SECONDS, command_timeout=SECONDS,
            statement_cache_size=0,
        )  # fmt: skip
    except asyncpg.PostgresError as error:
        raise Stage("authentication", error) from error
    except Exception as error:
        raise Stage("driver", error) from error


def prepare(target: Document) -> None:
    """Give asyncpg password and certificates as it gets them in the server: by files."""
    os.environ.pop("PGSSLROOTCERT", None)
    if target["authority"] == "system":
        os.environ["PGSSLROOTCERT"] = SYSTEM_FILE
    elif target["authority"]:
        AUTHORITY_FILE.write_text(target["authority"])
        os.environ["PGSSLROOTCERT"] = str(AUTHORITY_FILE)
    PASSWORD_FILE.touch(mode=0o600)
    PASSWORD_FILE.write_text(target["password_file"] or "")
    os.environ["PGPASSFILE"] = str(PASSWORD_FILE)


async def pooled(one: Any, other: Any) -> bool:
    """Whether two connections of ours share Postgres' sessions: then a pooler lends them out.

    On Postgres itself each has its own backend, and keeps it.
    """
    asyncpg: Any = importlib.import_module("asyncpg")
    query = "SELECT pg_backend_pid()"
    try:
        mine = await one.fetchval(query)
        for _ in range(ROUNDS):
            async with other.transaction():
                theirs = await other.fetchval(query)
                if theirs == mine or await one.fetchval(query) != mine:
                    return True
        await one.execute("SET letta_ops.trial = 'kept'")
        return bool(await one.fetchval("SELECT current_setting('letta_ops.trial', true)") != "kept")
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        return True  # a prepared statement of ours is on a session that we no longer have
    except TimeoutError:
        return True  # the one session that there is was lent to the other connection


async def identity(link: Any) -> list[Any]:
    """What is the same for two URLs exactly when they lead to the same tables as the same role."""
    async with link.transaction():
        row = await link.fetchrow(
            "SELECT current_user::text, current_database()::text, current_schema()::text,"
            " extract(epoch FROM pg_postmaster_start_time())::bigint,"
            " (SELECT oid::bigint FROM pg_database WHERE datname = current_database())"
        )
    return list(row)


def ask(target: Document, versions: Path) -> tuple[Document, Document | None]:
    """Connect as the migrations do, and ask for everything that `rules.py` judges."""
    native: Any = importlib.import_module("pg8000.native")
    seen: Document = {"failed": None}
    try:
        link = native.Connection(
            target["user"], target["host"], target["database"], target["port"],
            target["password"], ssl_context=tls_context(target), timeout=SECONDS,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001  # of the driver's many kinds; each is an answer
        return {"failed": Stage("driver", error).as_json()}, None
    try:
        facts = row(link, GENERAL)
        facts |= row(link, CONNECTIONS)
        facts["tables"] = [list(each) for each in link.run(TABLES)]
        facts["schemas"] = [each[0] for each in link.run(LETTA_SCHEMAS)]
        facts["vector"] = row(link, VECTOR)
        facts["trial"] = trial(link, facts["vector"]["version"] is None)
        facts |= revision(link, facts, versions)
        facts |= claimed(link, facts["claim_there"])
        facts["encrypted"] = [each for (each,) in link.run(ENCRYPTED) if sealed(link, each)]
    finally:
        link.close()
    return seen, facts


def row(link: Any, query: str) -> Document:
    values = link.run(query)[0]
    return {column["name"]: value for column, value in zip(link.columns, values, strict=True)}


def trial(link: Any, install: bool) -> Document:
    """Do what is needed later (the extension, a table with a vector), and take it back."""
    done: Document = {"extension": None, "table": None}
    link.run("BEGIN")
    try:
        link.run("SET LOCAL lock_timeout = '5s'")
        if install:
            done["extension"] = attempt(link, "CREATE EXTENSION vector")
        if done["extension"] is None:
            done["table"] = attempt(link, f"CREATE TABLE {TRIAL} (embedding vector(4096))")
    finally:
        link.run("ROLLBACK")
    return done


def attempt(link: Any, statement: str) -> Document | None:
    database_error: Any = importlib.import_module("pg8000.exceptions").DatabaseError
    try:
        link.run(statement)
    except database_error as error:
        fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        return {"message": fields.get("M", str(error)), "sqlstate": fields.get("C")}
    return None


def revision(link: Any, facts: Document, versions: Path) -> Document:
    """The alembic revision in the schema that is used, and whether this release knows it."""
    if "alembic_version" not in [name for name, _ in facts["tables"]]:
        return {"revision": None, "revision_known": None}
    failed = attempt(link, "SELECT version_num FROM alembic_version")
    found = [] if failed else link.run("SELECT version_num FROM alembic_version")
    if not found:
        return {"revision": None, "revision_known": None}
    mark = f'"{found[0][0]}"'
    known = any(mark in path.read_text() for path in versions.glob("*.py"))
    return {"revision": found[0][0], "revision_known": known}


def sealed(link: Any, place: str) -> bool:
    """Whether a column holds what Letta's encryption key is needed for; False where it can't be read.

    Letta's ciphertexts are base64 of 44 bytes and more (letta/helpers/crypto_utils.py, 0.16.8);
    without a key it keeps plain text in the same columns, and API keys have a dash or underscore.
    """
    table, column = place.split(".")
    query = f"SELECT 1 FROM {table} WHERE {column} ~ '^[A-Za-z0-9+/]{{58,}}=*$' LIMIT 1"  # noqa: S608
    return attempt(link, query) is None and bool(link.run(query))


def claimed(link: Any, there: bool) -> Document:
    query = "SELECT id FROM letta_ops.deployment LIMIT 1"
    if not there:
        return {"claimed_by": None, "claim_hidden": False}
    if attempt(link, query) is not None:
        return {"claimed_by": None, "claim_hidden": True}
    found = link.run(query)
    return {"claimed_by": found[0][0] if found else None, "claim_hidden": False}


GENERAL = """
SELECT current_setting('server_version_num')::int AS version,
    current_user::text AS role, current_database()::text AS name,
    current_schema()::text AS schema, current_setting('search_path') AS search_path,
    pg_is_in_recovery() AS replica,
    current_setting('default_transaction_read_only') = 'on' AS read_only,
    has_database_privilege(current_database(), 'CREATE') AS may_make_schemas,
    coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_make_tables,
    coalesce(has_schema_privilege(to_regnamespace('letta_ops'), 'CREATE')
        AND has_schema_privilege(to_regnamespace('letta_ops'), 'USAGE'), false) AS may_claim,
    EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'letta_ops' AND c.relname = 'deployment') AS claim_there
"""
# Everybody may see these numbers; of sessions of other roles only that they are there.
CONNECTIONS = """
SELECT current_setting('max_connections')::int AS most,
    CASE WHEN r.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true), '0')::int END AS reserved,
    r.rolconnlimit AS role_limit, d.datconnlimit AS database_limit,
    (SELECT sum(numbackends)::int FROM pg_stat_database) - 1 AS used,
    (SELECT numbackends FROM pg_stat_database WHERE datid = d.oid) - 1 AS used_here,
    (SELECT count(*)::int FROM pg_stat_activity
        WHERE usesysid = r.oid AND pid <> pg_backend_pid()) AS used_by_role,
    (SELECT count(*)::int FROM pg_stat_activity
        WHERE usesysid = r.oid AND datid = d.oid AND pid <> pg_backend_pid()) AS used_by_both
FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()
"""
ENCRYPTED = """
SELECT quote_ident(table_name) || '.' || quote_ident(column_name) FROM information_schema.columns
WHERE table_schema = current_schema() AND column_name LIKE '%\\_enc' ORDER BY 1
"""
# Without those of extensions.
TABLES = """
SELECT c.relname::text, pg_has_role(c.relowner, 'USAGE') FROM pg_class c
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = to_regnamespace(quote_ident(current_schema()))
    AND NOT EXISTS (SELECT 1 FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""
LETTA_SCHEMAS = """
SELECT n.nspname::text FROM pg_namespace n WHERE 2 = (SELECT count(*) FROM pg_class c
    WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname IN ('alembic_version', 'agents'))
ORDER BY 1
"""
VECTOR = """
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS version,
    (SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'vector') AS schema,
    to_regtype('vector') IS NOT NULL AS visible,
    (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS available
"""


if __name__ == "__main__":
    main()
