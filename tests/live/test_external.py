"""Stacks on somebody else's Postgres: restricted roles, another schema, TLS, a transaction pooler."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backups.verdicts import PASSED, overall
from backups.verify import verify
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.database_url import as_document, secrets_of
from infra.stack.releases import RELEASES
from infra.targets.docker.engine.client import engine, own_containers
from infra.targets.docker.images.recipes import BuildSettings, build
from infra.targets.docker.names import Names
from infra.targets.docker.providers.database_preflight import look
from infra.targets.external_database.rules import Wanted, problems
from tests.live.docker_stack import BASE_VARIABLE, DockerStack, everything_of
from tests.live.external_postgres import PASSWORD, External, external
from tests.live.kept import kept, make_agent
from tests.live.machine import Machine

RELEASE = RELEASES["0.16.8"]
BASE = os.environ.get(BASE_VARIABLE) or "letta-ops-base:trixie"
QUOTED = "p%40ss%25word"
VECTOR = "CREATE EXTENSION vector;"
NAMES = ("direct", "pooled", "plain", "refused")


@pytest.fixture(scope="module")
def image() -> str:
    try:
        return build("letta", RELEASE, BuildSettings(base=BASE), print)
    except LettaOpsError as error:
        if error.code not in ("no-engine", "engine-permission", "image-missing"):
            raise
        pytest.skip(f"{error.message} ({BASE_VARIABLE} names a base image)")


@pytest.fixture(scope="module")
def postgres(image: str) -> Iterator[External]:
    own = build("postgres", RELEASE, BuildSettings(base=BASE), print)
    with external(own, BASE, NAMES) as found:
        for name in ("direct", "pooled", "plain"):
            found.make(name, VECTOR)
        found.make("refused")
        yield found


@pytest.fixture(scope="module")
def docker_machine(
    postgres: External, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """One that makes stacks of the target docker; they are gone before their database is."""
    made = Machine(tmp_path_factory.mktemp("external"), target="docker")
    yield made
    made.clean()


def stack_on(machine: Machine, name: str, **urls: str) -> DockerStack:
    """A stack whose URLs come by reference, from the environment of the machine's commands."""
    made = machine.stack(name)
    assert isinstance(made, DockerStack)
    for key, url in urls.items():
        machine.extra[variable(name, key)] = url
    return made


def variable(name: str, key: str) -> str:
    return f"EXTERNAL_{name}_{key}".upper()


def settings(stack: DockerStack, postgres: External, *keys: str) -> list[str]:
    chosen = {
        **stack.configuration,
        "image.base": BASE,
        "database.mode": "external",
        "database.network": postgres.network,
        "database.pool_size": "5",
        **{f"database.{key}": f"env:{variable(stack.name, key)}" for key in keys},
    }
    return [word for key, value in chosen.items() for word in ("--config", f"{key}={value}")]


def made_of(stack: DockerStack) -> list[str]:
    with engine() as client:
        return [str(each.name) for each in everything_of(stack, client)]


def ensure_no_secret_is_seen(stack: DockerStack, *texts: str) -> None:
    """Neither what the engine tells of the containers, nor the process list, state, logs and output."""
    with engine() as client:
        containers = own_containers(client, stack.names.prefix)
        seen = [str(each.attrs) for each in containers]
        seen += [each.logs().decode(errors="replace") for each in containers]
    seen += [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    files = [each for each in stack.machine.root.rglob("*") if each.is_file()]
    seen += [each.read_text(errors="replace") for each in files]
    for text in (*seen, *texts):
        assert PASSWORD not in text
        assert QUOTED not in text


@pytest.fixture(scope="module")
def direct(docker_machine: Machine, postgres: External, tmp_path_factory: Any) -> DockerStack:
    authority: Path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.write_text(postgres.authority)
    url = postgres.url("direct", f"sslmode=verify-ca&sslrootcert={authority}")
    made = stack_on(docker_machine, "direct", url=url)
    outcome = made.json("up", *settings(made, postgres, "url"))
    assert outcome["smoke"]["passed"] is True
    return made


def test_a_stack_works_with_a_restricted_role_in_another_schema_over_verified_tls(
    direct: DockerStack, postgres: External
) -> None:
    listing = postgres.sql(
        "direct", "SELECT DISTINCT schemaname FROM pg_tables WHERE tableowner = 'direct' ORDER BY 1"
    )
    assert listing.split() == ["letta_ops", "letta_tables"]
    clear = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE NOT ssl"
    assert postgres.sql("direct", f"{clear} AND usename = 'direct'") == "0"
    assert not [each for each in made_of(direct) if "postgres" in each or "database" in each]


def test_status_and_check_ask_the_external_database(direct: DockerStack) -> None:
    status = direct.json("status")
    assert status["database"]["name"] == "direct"
    assert status["database"]["revision"] == status["database"]["head"] == RELEASE.alembic_head
    findings = direct.run("--json", "check").json["findings"]
    found = {each["name"]: each["state"] for each in findings}
    for name in ("containers", "database", "identity", "extension", "revision", "encryption"):
        assert found[name] == "OK", name


def test_no_secret_of_the_url_is_seen_anywhere(direct: DockerStack) -> None:
    again = direct.run("up", "--no-smoke")
    assert "nothing to change" in again.out + again.err
    ensure_no_secret_is_seen(direct, again.out, again.err)
    assert 'url = "env:EXTERNAL_DIRECT_URL"' in direct.folder.profile.read_text()


@pytest.mark.long
def test_whole_databases_restore_with_what_the_documents_say_that_the_role_needs(
    direct: DockerStack, postgres: External, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, url in direct.machine.extra.items():
        monkeypatch.setenv(name, url)
    place = kept(direct, tmp_path)
    place.environment["LETTA_OPS_BACKUP_SCOPE"] = "database"
    made = place.create()
    assert made.manifest.database.scope == "database"
    assert (
        overall([check.verdict for check in verify(place.store, made, place.key, print)]) == PASSED
    )
    make_agent(direct.deployment, "newer")
    words = ("backup", "restore", made.id, "--yes", "--stop-first")
    assert place.refused(*words) == "database-privileges"
    assert len(direct.json("agent", "list")) == 1
    postgres.sql("direct", "ALTER ROLE direct CREATEDB; ALTER DATABASE direct OWNER TO direct")
    assert place.refused(*words) == "database-privileges"
    postgres.sql("template1", VECTOR)
    for _ in range(2):  # the second one replaces what the first one kept
        answer = place.json(*words)
        assert answer["previous"] == "direct_previous"
        assert direct.json("agent", "list") == []
    findings = {
        each["name"]: each["state"] for each in direct.run("--json", "check").json["findings"]
    }
    for name in ("database", "identity", "extension", "revision", "encryption"):
        assert findings[name] == "OK", name
    place.json("backup", "restore", "--drop-previous", "--yes")
    assert (
        postgres.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname ~ 'direct'") == "1"
    )


def test_another_deployment_does_not_get_the_database(
    direct: DockerStack, docker_machine: Machine, postgres: External
) -> None:
    made = stack_on(docker_machine, "second", url=postgres.url("direct"))
    answer = made.json("up", *settings(made, postgres, "url"), code=1)
    assert "foreign-database" in str(answer["error"])
    assert made_of(made) == []


@pytest.mark.long
def test_a_stack_works_behind_a_transaction_pooler(
    docker_machine: Machine, postgres: External
) -> None:
    urls = {"url": postgres.pooled("pooled"), "direct_url": postgres.url("pooled")}
    made = stack_on(docker_machine, "pooled", **urls)
    outcome = made.json("up", *settings(made, postgres, "url", "direct_url"))
    assert outcome["smoke"]["passed"] is True
    assert 'url = "env:EXTERNAL_POOLED_DIRECT_URL"' in made.folder.profile.read_text()
    assert made.json("status")["database"]["revision"] == RELEASE.alembic_head
    servers = postgres.sql(
        "postgres",
        "SELECT DISTINCT client_addr FROM pg_stat_activity WHERE datname = 'pooled'"
        " AND application_name NOT IN ('letta-ops')",
    )
    assert servers == postgres.pooler
    made.run("destroy", "--yes")


@pytest.mark.parametrize(
    ("database", "access", "query", "code"),
    [
        pytest.param(
            "refused", "url", "sslmode=require", "pgvector-missing", marks=pytest.mark.long
        ),
        ("plain", "pooled", "sslmode=disable", "database-pooler"),
        pytest.param("plain", "pooled", "sslmode=require", "database-tls", marks=pytest.mark.long),
    ],
)
def test_a_refusal_comes_before_anything_is_made(
    docker_machine: Machine, postgres: External, database: str, access: str, query: str, code: str
) -> None:
    url = getattr(postgres, access)(database, query)
    made = stack_on(docker_machine, "refused", url=url)
    for verb in ("preview", "up"):
        error = made.json(verb, *settings(made, postgres, "url"), code=1)["error"]
        assert error["code"] == code, error
        assert error["hint"]
        assert PASSWORD not in str(error)
        assert QUOTED not in str(error)
    assert made_of(made) == []
    assert not made.folder.profile.exists()


def test_a_database_that_only_containers_reach_is_refused(
    docker_machine: Machine, postgres: External
) -> None:
    url = postgres.url("plain").replace(postgres.address, postgres.container)
    made = stack_on(docker_machine, "unreached", url=url)
    error = made.json("preview", *settings(made, postgres, "url"), code=1)["error"]
    assert error["code"] == "database-unreachable"
    assert "from this machine" in error["message"]


WANTED = Wanted("mine", RELEASE.version, 1, 5, own_direct=False, has_key=False)


def codes(image: str, postgres: External, url: str, direct: str | None = None) -> list[str]:
    urls = Sensitive(url), Sensitive(direct or url)
    asked = {"servers": as_document(urls[0]), "direct": as_document(urls[1])}
    seen = look(Names("external-probe"), image, postgres.network, asked, secrets_of(*urls))
    wanted = WANTED if direct is None else Wanted("mine", RELEASE.version, 1, 5, True, False)
    return [each.code for each in problems(seen, wanted)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"password": "wrong"}, ["database-authentication"]),
        ({"query": "sslmode=verify-full&sslrootcert=system"}, ["database-tls"]),
    ],
)
def test_each_way_in_is_tried_as_the_server_would(
    image: str, postgres: External, change: dict[str, str], expected: list[str]
) -> None:
    assert codes(image, postgres, postgres.url("plain", **change)) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("/plain?", "/nowhere?", ["database-missing"]),
        (":5432/", ":5433/", ["database-unreachable"]),
        ("@", "@no-such-name", ["database-dns"]),
    ],
)
def test_unreachable_missing_and_unknown_are_told_apart(
    image: str, postgres: External, old: str, new: str, expected: list[str]
) -> None:
    url = postgres.url("plain")
    assert codes(image, postgres, url.replace(old, new)) == expected


def test_a_pooler_as_the_direct_url_is_refused_too(image: str, postgres: External) -> None:
    pooled = postgres.pooled("plain")
    assert codes(image, postgres, pooled, pooled) == ["database-pooler"]
    assert codes(image, postgres, pooled, postgres.url("plain")) == []


@pytest.mark.parametrize(
    ("statements", "undo", "expected"),
    [
        (
            "ALTER ROLE {0} IN DATABASE {0} SET search_path = nowhere",
            "ALTER ROLE {0} IN DATABASE {0} SET search_path = letta_tables, public",
            ["search-path", "search-path"],
        ),
        (
            "REVOKE CREATE ON DATABASE {0} FROM {0}",
            "GRANT CREATE ON DATABASE {0} TO {0}",
            ["database-privileges"],
        ),
        (
            "ALTER ROLE {0} CONNECTION LIMIT 10",
            "ALTER ROLE {0} CONNECTION LIMIT -1",
            ["database-connections"],
        ),
        (
            "CREATE TABLE letta_tables.orders (id int)",
            "DROP TABLE letta_tables.orders",
            ["database-not-lettas"],
        ),
        (
            "ALTER EXTENSION vector SET SCHEMA letta_tables; ALTER EXTENSION vector SET SCHEMA public",
            "SELECT 1",
            [],
        ),
    ],
)
def test_what_the_role_lacks_is_named(
    image: str, postgres: External, statements: str, undo: str, expected: list[str]
) -> None:
    postgres.sql("plain", statements.format("plain"))
    try:
        assert codes(image, postgres, postgres.url("plain")) == expected
    finally:
        postgres.sql("plain", undo.format("plain"))


def test_a_role_that_may_install_pgvector_needs_nobody_else(image: str, postgres: External) -> None:
    postgres.sql("refused", "ALTER ROLE refused SUPERUSER")
    try:
        assert codes(image, postgres, postgres.url("refused")) == []
        assert (
            postgres.sql("refused", "SELECT count(*) FROM pg_extension WHERE extname = 'vector'")
            == "0"
        )
    finally:
        postgres.sql("refused", "ALTER ROLE refused NOSUPERUSER")
