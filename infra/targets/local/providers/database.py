"""The database of a local stack, its roles and its extension."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from infra.stack.deployment import Role
from infra.stack.locations import StackFolder
from infra.targets.local.postgres import administrator, logged_in
from infra.targets.providers.database import DatabaseProvider
from infra.targets.providers.provider import Properties

if TYPE_CHECKING:
    import psycopg


class LocalDatabase(DatabaseProvider):
    """Further inputs: `port`, and `cluster` (whatever differs for another cluster, whose roles may have
    other passwords)."""

    compared: ClassVar[tuple[str, ...]] = ("port", "cluster", *DatabaseProvider.compared)

    def administrator(
        self, folder: StackFolder, inputs: Properties, name: str
    ) -> AbstractContextManager[psycopg.Connection[Any]]:
        return administrator(folder, int(inputs["port"]), name)

    def logged_in(
        self, inputs: Properties, role: Role
    ) -> AbstractContextManager[psycopg.Connection[Any]]:
        return logged_in(int(inputs["port"]), role)
