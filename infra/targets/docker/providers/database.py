"""The database in a stack's container, its roles and its extension."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from infra.stack.deployment import Role
from infra.stack.locations import StackFolder
from infra.targets.docker.postgres import administrator, logged_in
from infra.targets.providers.database import DatabaseProvider
from infra.targets.providers.provider import Properties

if TYPE_CHECKING:
    import psycopg


class LettaDatabase(DatabaseProvider):
    """Further input: `container`."""

    compared: ClassVar[tuple[str, ...]] = ("container", *DatabaseProvider.compared)

    def administrator(
        self, folder: StackFolder, inputs: Properties, name: str
    ) -> AbstractContextManager[psycopg.Connection[Any]]:
        return administrator(inputs, name)

    def logged_in(
        self, inputs: Properties, role: Role
    ) -> AbstractContextManager[psycopg.Connection[Any]]:
        return logged_in(inputs["container"], role)
