"""Can the server reach its models? Asked from where it runs, one step after the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from healthchecks.facts import reading
from infra.database.facts import database_facts
from infra.embedded import reach
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.targets import host
from infra.targets.facts import Measurement

SECONDS = 18.0  # the script gives up after 12


@dataclass(frozen=True)
class Answer:
    """One provider. `failed` is the step that failed (dns, tcp, tls, http, authentication, models);
    `models` is how many it lists, None where it wants a key that only the server knows.
    """

    name: str
    url: str
    failed: str | None
    detail: str
    models: int | None


@dataclass(frozen=True)
class Providers(Measurement):
    """`unlisted` says why the providers that users added couldn't be listed, if so."""

    answers: tuple[Answer, ...]
    unlisted: str = ""


def ask_providers(deployment: Deployment) -> Providers:
    """Run the script beside the server, over every provider of its environment and its database.

    Raises LettaOpsError: `server-not-running`, `model-probe-failed`, and those of the engine.
    """
    others, unlisted = _added(deployment)
    script = Path(reach.__file__).read_text(encoding="utf-8")
    done = host(deployment).ask_server(script, json.dumps(others), SECONDS)
    text = done.stdout
    if done.returncode != 0:
        raise _failed(done.stderr or text)
    try:
        rows = json.loads(text.strip().splitlines()[-1])
        answers = tuple(
            Answer(row["name"], row["url"], row["failed"], row["detail"], row["models"])
            for row in rows
        )
    except (ValueError, LookupError, TypeError):
        raise _failed(text) from None
    return Providers(answers, unlisted)


def _added(deployment: Deployment) -> tuple[list[dict[str, str]], str]:
    """The providers that users have added; those of the environment are known to the script."""
    from psycopg import sql

    if deployment.database is None:
        return [], ""
    try:
        with reading(deployment) as link:
            schema = database_facts(link).schema
            if schema is None:
                return [], "the database holds no Letta tables"
            # Through JSON, since not every release has every column.
            query = sql.SQL(
                "SELECT found ->> 'name', found ->> 'base_url' FROM ("
                "  SELECT to_jsonb(p) AS found FROM {} AS p) AS rows"
                " WHERE coalesce(found ->> 'base_url', '') <> ''"
                " AND found ->> 'organization_id' IS NOT NULL"
                " AND coalesce(found ->> 'is_deleted', 'false') <> 'true'"
            ).format(sql.Identifier(schema, "providers"))
            rows = link.execute(query).fetchall()
    except LettaOpsError as error:
        return [], error.message
    return [{"name": name, "kind": "added", "url": url} for name, url in rows], ""


def _failed(text: str) -> LettaOpsError:
    last = (text.strip().splitlines() or ["it said nothing"])[-1]
    return LettaOpsError(
        "model-probe-failed",
        f"asking the model providers from where the server runs failed: {last[:300]}",
        "look at the server's log: `letta-ops logs letta`",
    )
