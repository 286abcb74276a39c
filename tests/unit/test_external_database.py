"""Somebody else's Postgres: its URL for three drivers, and what speaks against using it."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigurationError
from infra.sensitive import Sensitive, redact
from infra.stack.database_url import (
    as_document,
    asyncpg_uri,
    password_file,
    secrets_of,
    url_problems,
)
from infra.stack.deployment import database_from_url
from infra.stack.locations import StackFolder
from infra.stack.profile import parse as parse_profile
from infra.targets import settings as parse
from infra.targets.docker.settings import docker_settings
from infra.targets.external_database.rules import Wanted, as_error, problems

URL = "postgresql://app:p%40ss%25%3A%5Cx@db.example.com:6543/prod"
PASSWORD = "p@ss%:\\x"


def with_mode(words: str) -> Sensitive:
    return Sensitive(f"{URL}?{words}")


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
def test_the_server_gets_libpqs_mode_under_asyncpgs_name(mode: str) -> None:
    found = asyncpg_uri(with_mode(f"sslmode={mode}")).reveal()
    assert found == f"postgresql://app@db.example.com:6543/prod?ssl={mode}"


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_mode_that_verifies_brings_the_certificates(mode: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\n")
    url = with_mode(f"sslmode={mode}&sslrootcert={file}")
    assert list(url_problems(url)) == []
    assert asyncpg_uri(url).reveal().endswith(f"?ssl={mode}")
    assert as_document(url)["authority"] == file.read_text()
    database = database_from_url(url)
    assert database.connection(database.owner)["sslrootcert"] == str(file)


def test_without_a_mode_libpqs_default_holds() -> None:
    assert asyncpg_uri(Sensitive(URL)).reveal().endswith("?ssl=prefer")
    assert as_document(Sensitive(URL))["tls"] == "prefer"


def test_the_servers_url_has_no_password_and_no_percent_sign() -> None:
    """Letta copies it into a settings file that breaks on `%`."""
    found = asyncpg_uri(Sensitive(URL)).reveal()
    assert "%" not in found
    assert PASSWORD not in found


def test_the_password_file_has_the_password_as_it_stands() -> None:
    file = password_file(Sensitive(URL))
    assert file is not None
    assert file.reveal() == f"*:*:*:*:{PASSWORD}\n"
    assert password_file(Sensitive("postgresql://app@db/prod")) is None


def test_the_password_is_redacted_as_it_is_and_as_it_is_quoted() -> None:
    secrets = secrets_of(Sensitive(URL))
    text = redact(f"a {PASSWORD} b p%40ss%25%3A%5Cx c {URL}", secrets)
    assert text == "a [redacted] b [redacted] c [redacted]"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://app:x@h/prod", "must look like"),
        ("postgresql+asyncpg://app:x@h/prod", "must look like"),
        ("postgresql://h/prod", "must look like"),
        ("postgresql://app:x@h:port/prod", "must look like"),
        ("postgresql://app:x@[::1]:5432/prod", "IPv6"),
        ("postgresql://a%40b:x@h/prod", "can't use the role 'a@b'"),
        ("postgresql://app:x%20@h/prod", "ends with a space"),
        (f"{URL}?sslmode=allow", "sslmode must be one of"),
        (f"{URL}?ssl=require", "write sslmode"),
        (f"{URL}?options=-csearch_path%3Dx", "ALTER ROLE"),
        (f"{URL}?channel_binding=require", "channel_binding: not every driver"),
        (f"{URL}?sslmode=verify-full", "needs sslrootcert"),
        (f"{URL}?sslmode=verify-full&sslrootcert=/nowhere/ca.pem", "can't be read"),
    ],
)
def test_a_url_that_a_driver_would_not_take_is_a_problem(url: str, words: str) -> None:
    found = list(url_problems(Sensitive(url)))
    assert re.search(re.escape(words), "\n".join(found)), found
    assert "p%40ss" not in str(found)
    assert PASSWORD not in str(found)


CONFIGURATION = {"target": "docker", "database.mode": "external", "database.url": "env:DB"}


@pytest.mark.parametrize(
    ("values", "environment", "words"),
    [
        ({**CONFIGURATION}, {}, "database.url: the environment variable DB is not set"),
        ({**CONFIGURATION, "database.url": URL}, {}, "database.url: is in plain text"),
        ({**CONFIGURATION, "database.url": ""}, {}, "database.url: is missing"),
        ({**CONFIGURATION}, {"DB": f"{URL}?ssl=require"}, "database.url: ssl: not every driver"),
        (
            {**CONFIGURATION, "database.direct_url": "env:DIRECT"},
            {"DB": URL, "DIRECT": "nonsense"},
            "database.direct_url: must look like",
        ),
        (
            {"target": "docker", "database.network": "net"},
            {},
            "database.network: is set, but database.mode is not external",
        ),
        (
            {"target": "docker", "database.direct_url": "env:DB"},
            {"DB": URL},
            "database.direct_url: is set, but database.mode is not external",
        ),
        ({"database.mode": "external"}, {}, "database.mode: is for the target docker only"),
    ],
)
def test_settings_that_can_not_work_are_named(
    values: dict[str, str], environment: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse("demo", values, environment=environment)
    assert words in caught.value.message
    assert PASSWORD not in caught.value.message


def test_the_direct_url_is_the_url_where_there_is_no_other() -> None:
    chosen = docker_settings(parse("demo", CONFIGURATION, environment={"DB": URL}))
    assert chosen.external is not None
    assert chosen.external.direct is chosen.external.url
    assert chosen.external.reference == "env:DB"


def test_the_profile_keeps_the_reference_of_the_direct_url() -> None:
    values = {**CONFIGURATION, "database.direct_url": "env:DIRECT", "database.network": "net"}
    environment = {"DB": URL, "DIRECT": URL.replace("6543", "5432")}
    chosen = docker_settings(parse("demo", values, environment=environment))
    assert chosen.external is not None
    assert (chosen.external.reference, chosen.database.network) == ("env:DIRECT", "net")
    assert database_from_url(chosen.external.direct).port == 5432


def test_a_profile_with_a_url_reaches_the_database_directly(tmp_path: Path) -> None:
    folder = StackFolder(tmp_path, "demo")
    values = {"server.url": "http://127.0.0.1:1", "database.url": f"{URL}?sslmode=require"}
    deployment = parse_profile({**values, "database.owner_password": "of-before"}, "test", folder)
    found = deployment.database
    assert found is not None
    assert (found.host, found.port, found.name, found.tls) == (
        "db.example.com", 6543, "prod", "require",
    )  # fmt: skip
    assert "database.container" not in deployment.placement
    assert found.reader == found.owner
    assert Sensitive(PASSWORD) in deployment.secrets


def test_no_postgres_of_ours_stands_beside_an_external_one() -> None:
    from infra.targets.docker import program as docker

    environment = {"DB": URL}
    external = docker_settings(parse("demo", CONFIGURATION, environment=environment))
    own = docker_settings(parse("demo", {"target": "docker"}, environment=environment))
    assert "postgres" not in docker._images(external)
    assert "postgres" in docker._images(own)
    profile = docker._database(external)
    assert profile.pop("database.url") == "env:DB"
    assert set(profile.values()) == {""}  # forgotten, after a database in a container
    assert docker._database(own)["database.url"] == ""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"database.url": "nonsense"}, "database.url: must look like"),
        ({"database.url": URL, "database.host": "h"}, "database.url: is there, and database.host"),
    ],
)
def test_a_profile_with_a_url_that_can_not_be_is_refused(
    tmp_path: Path, more: dict[str, str], words: str
) -> None:
    values = {"server.url": "http://127.0.0.1:1", **more}
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        parse_profile(values, "test", StackFolder(tmp_path, "demo"))


WANTED = Wanted("mine", "0.16.8", 1, 25, own_direct=False, has_key=False)
WAY: dict[str, Any] = {
    "failed": None,
    "tls_offered": True,
    "pooled": False,
    "host": "db.example.com",
    "port": 5432,
    "user": "app",
    "database": "prod",
    "tls": "require",
    "identity": ["app", "prod", "letta", 1, 2],
}
FACTS: dict[str, Any] = {
    "version": 170011,
    "role": "app",
    "name": "prod",
    "schema": "letta",
    "search_path": "letta, public",
    "replica": False,
    "read_only": False,
    "may_make_schemas": True,
    "may_make_tables": True,
    "may_claim": False,
    "claim_there": False,
    "most": 100,
    "reserved": 3,
    "role_limit": -1,
    "database_limit": -1,
    "used": 10,
    "used_here": 0,
    "used_by_role": 0,
    "used_by_both": 0,
    "tables": [],
    "schemas": [],
    "vector": {"version": "0.8.0", "schema": "public", "visible": True, "available": "0.8.0"},
    "trial": {"extension": None, "table": None},
    "revision": None,
    "revision_known": None,
    "claimed_by": None,
    "claim_hidden": False,
    "encrypted": [],
}
LETTA: dict[str, Any] = {
    "tables": [["agents", True], ["alembic_version", True]],
    "schemas": ["letta"],
    "revision": "1c28e167b74f",
    "revision_known": True,
}


def seen(facts: dict[str, Any] | None = None, **access: Any) -> dict[str, Any]:
    servers = copy.deepcopy(WAY) | access
    return {
        "servers": servers,
        "direct": servers,
        "same": True,
        "migrations": {"failed": None},
        "facts": copy.deepcopy(FACTS) | (facts or {}),
    }


def failed(stage: str, words: str = "no", state: str | None = None) -> dict[str, Any]:
    return {"failed": {"stage": stage, "message": words, "sqlstate": state}}


def codes(document: dict[str, Any], wanted: Wanted = WANTED) -> list[str]:
    return [each.code for each in problems(document, wanted)]


@pytest.mark.parametrize(
    "facts",
    [
        {},
        LETTA,
        {**LETTA, "claimed_by": "mine", "used": 95, "used_by_both": 40},
        {"may_make_schemas": False, "may_claim": True},
        {"tables": [["alembic_version", True]]},
        {"vector": {"version": None, "schema": None, "visible": False, "available": "0.8.0"}},
    ],
)
def test_a_database_that_is_empty_or_lettas_is_taken(facts: dict[str, Any]) -> None:
    assert codes(seen(facts)) == []


@pytest.mark.parametrize(
    ("access", "code"),
    [
        (failed("dns"), "database-dns"),
        (failed("tcp", "Connection refused"), "database-unreachable"),
        (failed("tls", "self-signed certificate"), "database-tls"),
        ({**failed("driver"), "tls_offered": False}, "database-tls"),
        (failed("driver"), "database-driver"),
        (failed("protocol"), "database-driver"),
        (failed("authentication", state="28P01"), "database-authentication"),
        (failed("authentication", state="28000"), "database-authentication"),
        (failed("authentication", state="3D000"), "database-missing"),
        (failed("authentication", state="42501"), "database-privileges"),
        (failed("authentication", state="53300"), "database-connections"),
        (failed("authentication", state="57P03"), "database-unreachable"),
        ({"tls": "prefer", "tls_offered": False}, "database-tls"),
        ({"pooled": True}, "database-pooler"),
    ],
)
def test_each_way_not_to_get_there_has_its_own_code(access: dict[str, Any], code: str) -> None:
    document = seen(**access)
    if document["servers"]["failed"]:
        document["facts"] = None
    assert codes(document) == [code]


def test_plain_text_that_was_asked_for_is_no_problem() -> None:
    assert codes(seen(tls="disable", tls_offered=False)) == []


@pytest.mark.parametrize(
    ("facts", "code", "words"),
    [
        ({"version": 120009}, "database-version", "PostgreSQL 12 is too old"),
        ({"replica": True}, "database-read-only", "read-only replica"),
        ({"read_only": True}, "database-read-only", "takes no writes"),
        ({"schema": None, "may_make_tables": False}, "search-path", "CREATE SCHEMA letta"),
        ({"may_make_tables": False}, "database-privileges", "CREATE ON SCHEMA letta TO app"),
        ({"may_make_schemas": False}, "database-privileges", "CREATE ON DATABASE prod TO app"),
        (
            {"vector": {"version": None, "schema": None, "visible": False, "available": None}},
            "pgvector-missing",
            "doesn't have the extension",
        ),
        (
            {
                "vector": {"version": None, "schema": None, "visible": False, "available": "0.8"},
                "trial": {"extension": {"message": "denied", "sqlstate": "42501"}, "table": None},
            },
            "pgvector-missing",
            "CREATE EXTENSION vector",
        ),
        (
            {"vector": {"version": "0.3.2", "schema": "p", "visible": True, "available": "0.3.2"}},
            "pgvector-old",
            "ALTER EXTENSION vector UPDATE",
        ),
        (
            {"vector": {"version": "0.8.0", "schema": "ext", "visible": False, "available": "1"}},
            "search-path",
            "SET search_path = letta, ext",
        ),
        (
            {"trial": {"extension": None, "table": {"message": "no", "sqlstate": "42501"}}},
            "database-privileges",
            "a table with a vector",
        ),
        ({"tables": [["orders", True]]}, "database-not-lettas", "orders"),
        ({"schemas": ["prod"]}, "search-path", "SET search_path = prod"),
        (
            {**LETTA, "revision": "ffff", "revision_known": False},
            "newer-schema",
            "revision ffff",
        ),
        (
            {**LETTA, "tables": [["agents", False], ["alembic_version", True]]},
            "database-privileges",
            "ALTER TABLE ... OWNER TO app",
        ),
        ({"claimed_by": "theirs", **LETTA}, "foreign-database", "deployment theirs"),
        ({"claim_hidden": True}, "foreign-database", "another deployment"),
        (
            {**LETTA, "encrypted": ["providers.api_key_enc"]},
            "encryption-key-missing",
            "server.encryption_key",
        ),
        ({"most": 40}, "database-connections", "27 connections are free (max_connections)"),
        ({"role_limit": 20}, "database-connections", "the role's CONNECTION LIMIT"),
        ({"database_limit": 20}, "database-connections", "the database's CONNECTION LIMIT"),
    ],
)
def test_each_reason_against_a_database_has_a_code_and_a_next_step(
    facts: dict[str, Any], code: str, words: str
) -> None:
    found = problems(seen(facts), WANTED)
    assert [each.code for each in found] == [code]
    assert words in f"{found[0].message} {found[0].hint}"


def test_more_servers_need_more_connections() -> None:
    assert codes(seen({"used": 0}), Wanted("mine", "0.16.8", 3, 25, False, False)) == [
        "database-connections"
    ]


def test_a_key_that_is_known_opens_what_is_there() -> None:
    facts = {**LETTA, "encrypted": ["providers.api_key_enc"]}
    assert codes(seen(facts), Wanted("mine", "0.16.8", 1, 25, False, has_key=True)) == []


def two_ways(servers: dict[str, Any], direct: dict[str, Any]) -> dict[str, Any]:
    document = seen(**servers)
    return document | {"direct": copy.deepcopy(WAY) | direct, "same": False}


@pytest.mark.parametrize(
    ("servers", "direct", "expected"),
    [
        ({"pooled": True, "port": 6543}, {}, []),
        ({"pooled": True}, {"pooled": True}, ["database-pooler"]),
        ({"pooled": True}, {"identity": ["app", "other", "letta", 1, 3]}, ["database-urls-differ"]),
        ({}, {"identity": ["admin", "prod", "letta", 1, 2]}, ["database-urls-differ"]),
    ],
)
def test_a_direct_url_goes_past_the_pooler_to_the_same_tables(
    servers: dict[str, Any], direct: dict[str, Any], expected: list[str]
) -> None:
    wanted = Wanted("mine", "0.16.8", 1, 25, own_direct=True, has_key=False)
    assert codes(two_ways(servers, direct), wanted) == expected


def test_behind_a_pooler_the_servers_take_no_connections_of_postgres_themselves() -> None:
    document = two_ways({"pooled": True}, {})
    document["facts"]["most"] = 20
    assert codes(document, Wanted("mine", "0.16.8", 1, 25, True, False)) == []


def test_the_migrations_driver_may_fail_alone() -> None:
    document = seen() | {"migrations": failed("driver", "SCRAM"), "facts": None}
    found = problems(document, WANTED)
    assert [each.code for each in found] == ["database-driver"]
    assert "pg8000" in found[0].message


def test_all_reasons_are_told_at_once() -> None:
    found = problems(seen({"may_make_schemas": False, "version": 120000}, pooled=True), WANTED)
    error = as_error(found)
    assert error.code == "database-unfit"
    for each in found:
        assert f"{each.message} [{each.code}]\n    {each.hint}" in error.message


def test_one_reason_keeps_its_code() -> None:
    error = as_error(problems(seen({"replica": True}), WANTED))
    assert (error.code, error.hint) == ("database-read-only", "name the primary")
