"""Opening the registry of a deployment: in its own database, or where its profile says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backups.catalog import deployment_id
from infra.api import authorized_http
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.targets import host

if TYPE_CHECKING:
    from letta_ops.registry.registry import Registry
    from letta_ops.registry.store import Store


@contextmanager
def opened(deployment: Deployment, seconds: float | None = None) -> Iterator[Registry]:
    """Yield the registry of a deployment; its tables are made where there are none. `seconds` is how
    long the server may take to answer.

    Raises LettaOpsError (`no-registry`), and as `letta_ops.registry` does.
    """
    from letta_ops.registry.registry import Registry
    from letta_ops.registry.server import REQUEST_SECONDS, LettaServer

    server = LettaServer(authorized_http(deployment, seconds or REQUEST_SECONDS))
    with (
        _store(deployment) as store,
        Registry(store, server, server_name=deployment_id(deployment)) as registry,
    ):
        yield registry


@contextmanager
def _store(deployment: Deployment) -> Iterator[Store]:
    from letta_ops.registry.postgres import PostgresStore
    from letta_ops.registry.registry import open_store

    if deployment.registry is not None:
        folder = deployment.profile.absolute().parent if deployment.profile else None
        yield open_store(deployment.registry.reveal(), connections=1, base=folder)
        return
    database = deployment.database
    if database is None:
        raise LettaOpsError(
            "no-registry",
            f"the profile of {deployment.called} names no database, and no other place for a"
            " registry",
            'add [registry] with url = "sqlite:///PATH" or a Postgres\' URL to the profile'
            " (docs/profile.md)",
        )
    with host(deployment).owner() as owner:
        settings = {**owner.settings, "dbname": database.name}
        store = PostgresStore(
            settings, owner.place, connections=1, prepare=lambda: _prepare(deployment)
        )
        identifier = deployment_id(deployment)
        if store.server() != identifier:  # applications only know its URL
            store.name_server(identifier)
        yield store


def _prepare(deployment: Deployment) -> None:
    from letta_ops.registry.postgres import prepare

    assert deployment.database is not None  # noqa: S101  # the caller has seen it
    with host(deployment).administrator() as access:
        if access.is_superuser:
            with access.examine(deployment.database.name) as link:
                prepare(link, deployment.database.owner.name)
