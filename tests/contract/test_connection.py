"""One connection, whatever the database is like."""

from __future__ import annotations

from infra.database.administration import DatabaseAccess
from infra.database.facts import database_facts


def test_a_database_without_an_encoding_answers_in_text(postgres: DatabaseAccess) -> None:
    """As `initdb` makes them in the locale C: unless told otherwise, text comes as bytes."""
    with postgres.connect("postgres") as link:
        link.execute("DROP DATABASE IF EXISTS plain")
        link.execute(
            "CREATE DATABASE plain TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'"
            " LOCALE_PROVIDER libc"
        )
    with postgres.connect("plain") as link:
        link.execute("CREATE TABLE alembic_version (version_num text)")
        link.execute("INSERT INTO alembic_version VALUES ('東京')")
        assert link.execute("SELECT version_num FROM alembic_version").fetchone() == ("東京",)
        facts = database_facts(link)
    assert isinstance(facts.revision, str)
    assert facts.schema == "public"
