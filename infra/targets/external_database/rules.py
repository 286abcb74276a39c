"""Judging what `probe.py` found: every reason why Letta can't use a Postgres. Pure.

Each problem has a code of its own, what was found, and the next step. Nothing here knows a password.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra.database.claim import foreign
from infra.errors import LettaOpsError
from infra.stack.database_url import POOLER_PORT

OLDEST_SERVER = 13  # the migrations use gen_random_uuid() without an extension
OLDEST_VECTOR = (0, 4, 0)  # the first to take more than 1024 dimensions (its changelog)
OVERFLOW = 10  # connections that Letta opens beyond its pool (LETTA_PG_MAX_OVERFLOW)
OWN_CONNECTIONS = 3  # ours: the migration, its lock, the command line
MANY = 5  # names shown of a longer list
DOCUMENT = "docs/external-database.md"

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What the stack needs of the database."""

    deployment: str
    release: str
    replicas: int
    pool_size: int
    own_direct: bool  # database.direct_url is set
    has_key: bool  # the profile has an encryption key, from an earlier run or written by hand
    claimed: bool = False  # an earlier run has found or made this deployment's data there


@dataclass(frozen=True)
class Problem:
    """One reason against the database, and what a person can do about it."""

    code: str
    message: str
    hint: str


def problems(seen: Facts, wanted: Wanted) -> list[Problem]:
    """Judge the probe's document; an empty list means that Letta can use the database."""
    servers, direct, facts = seen["servers"], seen["direct"], seen["facts"]
    found = list(_way("database.url", servers))
    if wanted.own_direct:
        found += _way("database.direct_url", direct)
        found += _same(servers, direct)
    found += _poolers(servers, direct, wanted)
    if (failed := (seen.get("migrations") or {}).get("failed")) is not None:
        found.append(_migrations_driver(direct, failed))
    if facts is not None:
        found += _server(facts)
        found += _schema(facts)
        found += _extension(facts)
        found += _contents(facts, wanted)
        if not (servers["pooled"] and wanted.own_direct):
            found += _connections(facts, wanted)
    return found


def as_error(found: list[Problem]) -> LettaOpsError:
    """One error of them all; a single problem keeps its own code."""
    if len(found) == 1:
        return LettaOpsError(found[0].code, found[0].message, found[0].hint)
    listing = "\n".join(f"  - {each.message} [{each.code}]\n    {each.hint}" for each in found)
    return LettaOpsError(
        "database-unfit",
        f"the external database can't be used, for {len(found)} reasons:\n{listing}",
        f"mend them, then run the same command again: nothing has been made ({DOCUMENT})",
    )


def _way(key: str, access: Facts) -> Iterator[Problem]:
    place = f"{access['host']}:{access['port']}"
    if access["failed"] is not None:
        yield _unreachable(key, access, place)
    if access["tls_offered"] is False and access["tls"] == "prefer":
        yield Problem(
            "database-tls",
            f"{key}: {place} offers no TLS, and the URL doesn't say that it may do without:"
            " password and conversations would travel in the clear",
            "turn TLS on there and write ?sslmode=require, or, on a network that nobody else"
            " listens on, say so with ?sslmode=disable",
        )


def _unreachable(key: str, access: Facts, place: str) -> Problem:
    failed = access["failed"]
    stage, message, state = failed["stage"], failed["message"], failed["sqlstate"]
    if stage == "dns":
        return Problem(
            "database-dns",
            f"{key}: from inside a container, the name {access['host']} leads nowhere: {message}",
            "correct the host; where it is a name inside a Docker network, set database.network",
        )
    if stage == "tcp":
        return Problem(
            "database-unreachable",
            f"{key}: from inside a container, {place} can't be reached: {message}",
            "see whether Postgres listens there and a firewall or security group lets this machine"
            " in; localhost is the container itself: write the machine's address; where the"
            " database is in a Docker network, set database.network",
        )
    if stage == "tls" or (access["tls_offered"] is False and _insists(access)):
        reason = message if stage == "tls" else "the server offers no TLS"
        return Problem(
            "database-tls",
            f"{key}: asks for sslmode={access['tls']}, but {place}: {reason}",
            "turn TLS on in Postgres, or name its certificate authority with sslrootcert=FILE;"
            " verify-full also takes the name that is in the certificate",
        )
    if stage == "authentication":
        return _refused(key, access, place, message, state)
    return Problem(
        "database-driver",
        f"{key}: the server's driver (asyncpg) can't use {place}: {message}",
        f"see whether a Postgres or a pooler answers there, and its log; {DOCUMENT} has more",
    )


def _insists(access: Facts) -> bool:
    return access["tls"] not in ("disable", "prefer")


def _refused(key: str, access: Facts, place: str, message: str, state: str | None) -> Problem:
    message = f"{key}: {place} answers, but refuses {access['user']}: {message}"
    if state == "53300":
        hint = "end other connections, or raise max_connections or the role's limit"
        return Problem("database-connections", message, hint)
    if state == "3D000":
        return Problem(
            "database-missing", message, f"create it: CREATE DATABASE {access['database']}"
        )
    if state == "42501":
        hint = f"GRANT CONNECT ON DATABASE {access['database']} TO {access['user']}"
        return Problem("database-privileges", message, hint)
    if state == "28000":
        hint = (
            "correct the role; if pg_hba.conf refuses this machine or its lack of TLS, mend it there"
            " or write ?sslmode=require"
        )
        return Problem("database-authentication", message, hint)
    if state == "57P03":
        return Problem(
            "database-unreachable", message, "wait until Postgres is up, then run this again"
        )
    return Problem(
        "database-authentication",
        message,
        "correct role and password in the URL; special characters in them must be percent-encoded"
        " (@ is %40)",
    )


def _same(servers: Facts, direct: Facts) -> Iterator[Problem]:
    one, other = servers.get("identity"), direct.get("identity")
    if one is None or other is None or one == other:
        return
    if one[0] != other[0]:
        yield Problem(
            "database-urls-differ",
            f"database.url logs in as {one[0]} and database.direct_url as {other[0]}: the tables of"
            " one would not belong to the other",
            "use the same role in both",
        )
    else:
        yield Problem(
            "database-urls-differ",
            f"database.url leads to {one[1]} (schema {one[2]}) and database.direct_url to"
            f" {other[1]} (schema {other[2]}), not to the same database of the same server",
            "let both name the same database; after Postgres or the pooler restarted, run this again",
        )


def _poolers(servers: Facts, direct: Facts, wanted: Wanted) -> Iterator[Problem]:
    why = "it lends sessions for one transaction each, and migrations need one of their own"
    if wanted.own_direct:
        if direct["pooled"]:
            yield Problem(
                "database-pooler",
                f"database.direct_url leads through a transaction pooler too: {why}",
                _direct_hint(direct["port"], "database.direct_url must name"),
            )
    elif servers["pooled"]:
        yield Problem(
            "database-pooler",
            f"database.url leads through a transaction pooler: {why}",
            _direct_hint(servers["port"], "set database.direct_url to"),
        )


def _direct_hint(port: int, verb: str) -> str:
    usual = f" ({port} is a pooler's usual port, 5432 Postgres' own)" if port == POOLER_PORT else ""
    return f"{verb} the URL of Postgres itself, or of a session pooler{usual}; {DOCUMENT}"


def _migrations_driver(direct: Facts, failed: Facts) -> Problem:
    return Problem(
        "database-driver",
        f"the migrations' driver (pg8000) can't use {direct['host']}:{direct['port']}, though the"
        f" server's can: {failed['message']}",
        "see Postgres' log; pg8000 knows passwords by SCRAM, MD5 and in the clear, nothing else",
    )


def _server(facts: Facts) -> Iterator[Problem]:
    version = facts["version"] // 10000
    if version < OLDEST_SERVER:
        yield Problem(
            "database-version",
            f"PostgreSQL {version} is too old: Letta's migrations need {OLDEST_SERVER}",
            "update it, best to a version that still gets fixes",
        )
    if facts["replica"] or facts["read_only"]:
        what = "is a read-only replica" if facts["replica"] else "takes no writes from this role"
        yield Problem(
            "database-read-only",
            f"the database {facts['name']} {what}",
            "name the primary"
            if facts["replica"]
            else f"ALTER ROLE {facts['role']} SET default_transaction_read_only = off",
        )


def _schema(facts: Facts) -> Iterator[Problem]:
    role, name, schema = facts["role"], facts["name"], facts["schema"]
    if schema is None:
        yield Problem(
            "search-path",
            f"the search path of {role} ({facts['search_path']}) leads to no schema that is there"
            " and may be used",
            f"CREATE SCHEMA letta AUTHORIZATION {role};"
            f" ALTER ROLE {role} IN DATABASE {name} SET search_path = letta, public",
        )
    elif not facts["may_make_tables"]:
        yield Problem(
            "database-privileges",
            f"{role} may not make tables in the schema {schema}, which its search path leads to",
            f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}, or give it one of its own:"
            f" CREATE SCHEMA letta AUTHORIZATION {role};"
            f" ALTER ROLE {role} IN DATABASE {name} SET search_path = letta, public",
        )
    if not facts["may_make_schemas"] and not facts["may_claim"]:
        yield Problem(
            "database-privileges",
            f"{role} may not make the schema letta_ops, where a deployment notes whose database"
            f" {name} is",
            f"GRANT CREATE ON DATABASE {name} TO {role}, or as its administrator:"
            f" CREATE SCHEMA letta_ops AUTHORIZATION {role}",
        )


def _extension(facts: Facts) -> Iterator[Problem]:
    vector, trial = facts["vector"], facts["trial"]
    if vector["version"] is None and vector["available"] is None:
        yield Problem(
            "pgvector-missing",
            "the server doesn't have the extension pgvector",
            "install it there (Debian: postgresql-NN-pgvector), or choose a service that offers it",
        )
    elif vector["version"] is None and trial["extension"] is not None:
        yield Problem(
            "pgvector-missing",
            f"pgvector is not installed in {facts['name']}, and {facts['role']} may not do it:"
            f" {trial['extension']['message']}",
            f"as an administrator, in {facts['name']}: CREATE EXTENSION vector",
        )
    elif _parts(vector["version"] or vector["available"]) < OLDEST_VECTOR:
        yield Problem(
            "pgvector-old",
            f"pgvector {vector['version'] or vector['available']} is too old: Letta's vectors have"
            " 4096 dimensions, which it takes from 0.4.0 on",
            "update it on the server, then ALTER EXTENSION vector UPDATE",
        )
    elif vector["version"] is not None and not vector["visible"]:
        yield Problem(
            "search-path",
            f"pgvector is installed in the schema {vector['schema']}, which the search path of"
            f" {facts['role']} ({facts['search_path']}) doesn't lead to, or which it may not use",
            f"GRANT USAGE ON SCHEMA {vector['schema']} TO {facts['role']}; ALTER ROLE"
            f" {facts['role']} IN DATABASE {facts['name']} SET search_path ="
            f" {facts['schema'] or 'letta'}, {vector['schema']}",
        )
    elif trial["table"] is not None and facts["may_make_tables"]:
        yield Problem(
            "database-privileges",
            f"a table with a vector can't be made in {facts['schema']}: {trial['table']['message']}",
            f"let {facts['role']} use the extension and make tables; {DOCUMENT} has the statements",
        )


def _contents(facts: Facts, wanted: Wanted) -> Iterator[Problem]:
    tables = dict(facts["tables"])
    elsewhere = [schema for schema in facts["schemas"] if schema != facts["schema"]]
    letta = "alembic_version" in tables and "agents" in tables
    if facts["claim_hidden"]:
        yield Problem(
            "foreign-database",
            f"the database {facts['name']} belongs to another deployment ({facts['role']} may not"
            " see which)",
            "name this deployment's own database",
        )
    elif facts["claimed_by"] not in (None, wanted.deployment):
        error = foreign(facts["claimed_by"], wanted.deployment)
        yield Problem(error.code, error.message, error.hint)
    if not letta and elsewhere:
        yield Problem(
            "search-path",
            f"Letta's tables are in the schema {elsewhere[0]}, but the search path of"
            f" {facts['role']} leads to {facts['schema']}: a second, empty set would be made",
            f"ALTER ROLE {facts['role']} IN DATABASE {facts['name']} SET search_path ="
            f" {elsewhere[0]}, public",
        )
    elif tables and not letta and set(tables) != {"alembic_version"}:
        yield Problem(
            "database-not-lettas",
            f"the schema {facts['schema']} of {facts['name']} holds tables that are not Letta's:"
            f" {_some(list(tables))}",
            f"use another database, or a schema of its own: CREATE SCHEMA letta AUTHORIZATION"
            f" {facts['role']}; ALTER ROLE {facts['role']} IN DATABASE {facts['name']} SET"
            " search_path = letta, public",
        )
    elif facts["revision_known"] is False:
        yield Problem(
            "newer-schema",
            f"the database is at revision {facts['revision']}, which Letta {wanted.release} doesn't"
            " know",
            "use the release that wrote this database, or another database",
        )
    if wanted.claimed and (facts["claimed_by"] is None or not letta):
        yield Problem(
            "data-missing",
            f"the profile says that this deployment's data is in the database {facts['name']}, and"
            " there is none of it: nothing was made, because an empty database would look like"
            " total loss",
            "let the URL lead to the right database, or restore it; to begin anew in it, remove the"
            " line `claimed` from the profile",
        )
    if facts["encrypted"] and not wanted.has_key:
        yield Problem(
            "encryption-key-missing",
            f"the database holds secrets that are encrypted ({_some(facts['encrypted'])}), and the"
            " profile has no key: a new one could not read them",
            "write the LETTA_ENCRYPTION_KEY of the server that wrote them into the profile, as"
            f" server.encryption_key ({DOCUMENT})",
        )
    others = [table for table, owned in tables.items() if not owned]
    if letta and others:
        yield Problem(
            "database-privileges",
            f"{len(others)} of Letta's tables belong to another role than {facts['role']}"
            f" ({_some(others)}): it can't migrate them",
            f"as their owner: ALTER TABLE ... OWNER TO {facts['role']}, for each of them and for"
            " the sequences",
        )


def _connections(facts: Facts, wanted: Wanted) -> Iterator[Problem]:
    """What is free now, and what is ours already: that is given back when servers are replaced."""
    ours = facts["used_by_both"] if facts["claimed_by"] == wanted.deployment else 0
    limits = {
        "max_connections": facts["most"] - facts["reserved"] - facts["used"],
        "the role's CONNECTION LIMIT": _left(facts["role_limit"], facts["used_by_role"]),
        "the database's CONNECTION LIMIT": _left(facts["database_limit"], facts["used_here"]),
    }
    name, free = min(
        ((name, left) for name, left in limits.items() if left is not None),
        key=lambda each: each[1],
    )
    each = wanted.pool_size + OVERFLOW
    needed = wanted.replicas * each + OWN_CONNECTIONS
    if free + ours < needed:
        yield Problem(
            "database-connections",
            f"{max(0, free + ours)} connections are free ({name}), and {needed} are needed:"
            f" {wanted.replicas} servers of {wanted.pool_size} + {OVERFLOW}, and {OWN_CONNECTIONS}"
            " of letta-ops",
            "raise that limit, end other connections, or lower database.pool_size: `letta-ops up"
            " --config database.pool_size=NUMBER`",
        )


def _left(limit: int, used: int) -> int | None:
    return None if limit < 0 else limit - used


def _some(names: list[str]) -> str:
    more = len(names) - MANY
    return ", ".join(names[:MANY]) + (f" and {more} more" if more > 0 else "")


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
