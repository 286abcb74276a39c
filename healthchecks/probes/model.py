"""Can the server reach its models? Asked from where it runs, one step after the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from healthchecks.facts import reading
from healthchecks.model import Measurement
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_SERVER, Deployment

if TYPE_CHECKING:
    from docker.models.containers import Container

SECONDS = 18.0  # the script gives up after 12
# Reads as much of stdin as the script is long, so that what the script reads comes behind it.
LOADER = (
    "import sys; source = sys.stdin.buffer;"
    " exec(compile(source.read(int(source.readline())), 'reach.py', 'exec'))"
)


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
    text = _inside(deployment, others) if deployment.containers else _here(deployment, others)
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


def _inside(deployment: Deployment, others: list[dict[str, str]]) -> str:
    from infra.targets.docker.engine.client import engine
    from infra.targets.docker.engine.execution import execute
    from infra.targets.docker.names import PYTHON

    with engine() as client:
        server = running_server(client, deployment)
        done = execute(
            client,
            str(server.id),
            [PYTHON, "-I", "-c", LOADER],
            _input(others),
            SECONDS,
        )
    if done.code != 0:
        raise _failed(done.stderr or done.stdout)
    return done.stdout


def running_server(client: Any, deployment: Deployment) -> Container:
    """A server's container that runs; the newest. Raises LettaOpsError (`server-not-running`)."""
    from infra.targets.docker.engine.client import own_containers

    prefix = deployment.containers.prefix if deployment.containers else ""
    running = [
        each for each in own_containers(client, prefix, SERVICE_SERVER) if each.status == "running"
    ]
    if not running:
        raise _not_running()
    return running[-1]


def _here(deployment: Deployment, others: list[dict[str, str]]) -> str:
    """As the server's own account, with its interpreter."""
    from infra.accounts import as_account, service_account
    from infra.embedded import supervisor
    from infra.process import command, run

    folder = deployment.folder
    if folder is None:
        raise _not_running()
    state = supervisor.states(folder).get(SERVICE_SERVER)
    if state is None or not state.running:
        raise _not_running()
    job = command(
        _interpreter(state.pid), "-I", "-c", LOADER,
        environment={"LETTA_OPS_ENVIRONMENT_FILE": str(folder.server_environment)},
        directory=Path("/"), stdin=_input(others), timeout=SECONDS, secrets=deployment.secrets,
    )  # fmt: skip
    return run(
        as_account(service_account(folder, "server"), job),
        code="model-probe-failed",
        hint="look at the server's log: `letta-ops logs letta`",
        what="asking the model providers",
    ).stdout


def _interpreter(pid: int) -> str:
    """The interpreter of the server's release, as its process was started."""
    import psutil

    try:
        return psutil.Process(pid).cmdline()[0]
    except (psutil.Error, IndexError):
        raise _not_running() from None


def _input(others: list[dict[str, str]]) -> str:
    from infra.embedded import reach

    script = Path(reach.__file__).read_text(encoding="utf-8")
    return f"{len(script.encode())}\n{script}{json.dumps(others)}\n"


def _not_running() -> LettaOpsError:
    return LettaOpsError(
        "server-not-running",
        "no server runs from which its models could be reached",
        "start it with `letta-ops up`",
    )


def _failed(text: str) -> LettaOpsError:
    last = (text.strip().splitlines() or ["it said nothing"])[-1]
    return LettaOpsError(
        "model-probe-failed",
        f"asking the model providers from where the server runs failed: {last[:300]}",
        "look at the server's log: `letta-ops logs letta`",
    )
