"""Where the environment of somebody's server says that its database is."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.targets.target import Installation
from ops_cli.migrations.adopting import database_at, database_named_by

OFFICIAL = {"POSTGRES_USER": "letta", "POSTGRES_PASSWORD": "a/b", "POSTGRES_DB": "letta"}


def named(
    environment: dict[str, str],
    addresses: dict[str, str] | None = None,
    data: Path | None = None,
) -> str | Path:
    settings = {name: Sensitive(value) for name, value in environment.items()}
    found = Installation("theirs", False, settings, (), addresses or {}, data, "docker stop theirs")
    where = database_named_by(found)
    return where if isinstance(where, Path) else where.reveal()


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"LETTA_PG_URI": "postgresql://a:b@db:5433/c"}, "postgresql://a:b@10.0.0.2:5433/c"),
        ({"LETTA_PG_URI": "postgresql://a:b@db/c", **OFFICIAL}, "postgresql://a:b@10.0.0.2/c"),
        ({"LETTA_PG_URI": "postgresql://a@cloud/c"}, "postgresql://a@cloud/c"),
        ({"LETTA_PG_URI": "postgresql://a:b@localhost/c"}, "postgresql://a:b@10.0.0.1/c"),
        (OFFICIAL, "postgresql://letta:a%2Fb@10.0.0.1:5432/letta"),
        (
            {"LETTA_PG_USER": "u", "LETTA_PG_PASSWORD": "p", "LETTA_PG_DB": "d",
             "LETTA_PG_HOST": "db", "LETTA_PG_PORT": "1234", **OFFICIAL},
            "postgresql://u:p@10.0.0.2:1234/d",
        ),
    ],
)  # fmt: skip
def test_hosts_are_where_they_answer_from_here(environment: dict[str, str], url: str) -> None:
    assert named(environment, {"db": "10.0.0.2", "localhost": "10.0.0.1"}) == url


def test_of_one_that_does_not_run_it_is_the_folder() -> None:
    assert named(OFFICIAL, {"db": "10.0.0.2"}, Path("/volumes/data")) == Path("/volumes/data")
    assert named({"LETTA_PG_URI": "postgresql://a:b@db/c"}, {"db": "10.0.0.2"}, Path("/x")) == (
        "postgresql://a:b@10.0.0.2/c"
    )


@pytest.mark.parametrize("environment", [{}, {"LETTA_PG_URI": ""}, OFFICIAL])
def test_what_leads_nowhere_is_told(environment: dict[str, str]) -> None:
    with pytest.raises(LettaOpsError) as caught:
        named(environment)
    assert caught.value.code == "no-database-named"
    assert "a/b" not in str(caught.value)


def test_a_driver_in_the_url_is_left_out() -> None:
    assert database_at(Sensitive("postgresql+pg8000://a:b@db:5432/c")).name == "c"


def test_what_is_no_url_is_told_without_it() -> None:
    with pytest.raises(LettaOpsError) as caught:
        database_at(Sensitive(str(named({"LETTA_PG_URI": "postgresql://a:pw@db:x/c"}))))
    assert caught.value.code == "database-url"
    assert "pw" not in str(caught.value)
