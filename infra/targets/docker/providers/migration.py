"""Running a release's migrations in a container of its own image, once, before any server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.stack.locations import StackFolder
from infra.targets.docker.engine.oneshot import run_once
from infra.targets.docker.migrations import environment, job, run_alembic
from infra.targets.docker.names import SOURCE
from infra.targets.docker.postgres import administrator
from infra.targets.providers.migration import Migration, failed_hint, stack_key
from infra.targets.providers.provider import Properties

if TYPE_CHECKING:
    import psycopg


class ContainerMigration(Migration):
    """Further inputs: `prefix`, `image`, `networks`, `server_uri` (as seen from the container)."""

    compared: ClassVar[tuple[str, ...]] = ("release", "container", "uri")

    def administrator(
        self, folder: StackFolder, inputs: Properties
    ) -> AbstractContextManager[psycopg.Connection[Any]]:
        return administrator(inputs)

    def knows(self, folder: StackFolder, inputs: Properties, revision: str) -> bool:
        arguments = ["grep", "-rqF", f'"{revision}"', f"{SOURCE}/alembic/versions"]
        return run_once(job(inputs, arguments)).code == 0

    def alembic(
        self, folder: StackFolder, inputs: Properties, keep: Callable[[str], None], log: Path
    ) -> None:
        settings = environment(inputs["server_uri"], stack_key(folder))
        run_alembic(inputs, settings, keep, failed_hint(log))
