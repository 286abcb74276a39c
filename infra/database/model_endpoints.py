"""Where the configured providers are, brought to the database, which keeps what it saw first.

Letta writes a provider's URL into its database when it starts with it for the first time, copies it
into every agent that uses it, and never updates either (`sync_base_providers` in its
provider_manager: "no updates to avoid conflicts"). A changed URL or port would reach neither old
agents nor new ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import sql

# The column's name, and the key inside its JSON that holds the provider's URL.
CONFIGURATIONS = {"llm_config": "model_endpoint", "embedding_config": "embedding_endpoint"}
# Which provider an agent means, and where it asks it.
NAMED = """
SELECT DISTINCT llm_config ->> 'model_endpoint',
  coalesce(llm_config ->> 'provider_name', split_part(llm_config ->> 'handle', '/', 1))
FROM {} WHERE llm_config ->> 'model_endpoint' IS NOT NULL
"""
# What was asked of a model in the past stays as it was.
HISTORY = ("provider_traces", "llm_batch_items")


def move(link: Any, urls: Mapping[str, str]) -> dict[str, str]:
    """Bring `urls` (provider's name -> URL) to the database of the administrator's `link`, in one
    transaction; return those that were there before.

    Only base providers (those of the configuration) are put right, and only configurations that
    hold the old URL of one: what a person pointed elsewhere stays.
    """
    before = {}
    with link.transaction():
        for name, url in urls.items():
            old = _url(link, name)
            if old is not None:
                before[name] = old
            _move(link, name, url)
    return before


def follow(link: Any, schema: str) -> dict[str, str]:
    """Where agents that came from elsewhere name a provider that is configured here, they ask it where it
    is here; return the URLs that were changed, and what to. The transaction is the caller's."""
    from psycopg import sql

    here = of_configuration(link, schema)
    agents = sql.Identifier(schema, "agents")
    rows = link.execute(sql.SQL(NAMED).format(agents)).fetchall()
    meant: dict[str, set[str]] = {}
    for old, name in rows:
        meant.setdefault(old, set()).add(here.get(name, old))
    moved = {old: new for old, (new, *more) in meant.items() if not more and new != old}
    link.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(schema)))
    for table, column in _configurations(link) if moved else ():
        link.execute(
            changing(sql.Identifier(schema, table), column),
            {"key": CONFIGURATIONS[column], "moved": json.dumps(moved)},
        )
    return moved


def changing(table: sql.Composable, column: str) -> sql.Composed:
    """An UPDATE of the configurations in `column`; it takes `key`, that of the URL in them, and `moved`,
    JSON: which URL becomes which."""
    from psycopg import sql

    return sql.SQL(
        "UPDATE {table} SET {column} = jsonb_set({column}::jsonb, ARRAY[%(key)s]::text[],"
        " %(moved)s::jsonb -> ({column} ->> %(key)s))::json"
        " WHERE %(moved)s::jsonb ? ({column} ->> %(key)s)"
    ).format(table=table, column=sql.Identifier(column))


def elsewhere(link: Any, urls: Mapping[str, str]) -> str | None:
    """Say which provider the database has at another URL."""
    for name, url in urls.items():
        if _url(link, name) not in (None, url):
            return f"the database has another URL for {name}"
    return None


def of_configuration(link: Any, schema: str) -> dict[str, str]:
    """Where the providers of the configuration are, by their names, as the database of `link` says."""
    from psycopg import sql

    needed = ("base_url", "name", "organization_id")
    columns = link.execute(
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = %s"
        " AND table_name = 'providers' AND column_name = ANY(%s)",
        [schema, list(needed)],
    ).fetchone()
    if columns != (len(needed),):  # an older release's
        return {}
    query = sql.SQL(
        "SELECT name, base_url FROM {} WHERE organization_id IS NULL AND base_url IS NOT NULL"
    ).format(sql.Identifier(schema, "providers"))
    return dict(link.execute(query).fetchall())


def _move(link: Any, name: str, url: str) -> None:
    from psycopg import sql

    old = _url(link, name)
    if old is None or old == url:
        return
    link.execute(
        "UPDATE providers SET base_url = %s WHERE name = %s AND organization_id IS NULL",
        [url, name],
    )
    for table, column in _configurations(link):
        link.execute(
            changing(sql.Identifier(table), column),
            {"key": CONFIGURATIONS[column], "moved": json.dumps({old: url})},
        )


def _url(link: Any, name: str) -> str | None:
    row = link.execute(
        "SELECT base_url FROM providers WHERE name = %s AND organization_id IS NULL", [name]
    ).fetchone()
    return None if row is None else row[0]


def _configurations(link: Any) -> Iterator[tuple[str, str]]:
    rows = link.execute(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND column_name = ANY(%s)",
        [list(CONFIGURATIONS)],
    ).fetchall()
    return ((table, column) for table, column in rows if table not in HISTORY)
