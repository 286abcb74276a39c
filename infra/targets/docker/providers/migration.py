"""Running a release's migrations in a container of its own image, once, before any server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import LettaOpsError
from infra.process import TAIL_LINES
from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.stack.server_environment import launch_document, secret_values
from infra.targets.docker.engine.oneshot import Job, run_once
from infra.targets.docker.names import LAUNCH, PYTHON, SOURCE, Names
from infra.targets.docker.postgres import administrator
from infra.targets.providers.migration import Migration, failed_hint, stack_key
from infra.targets.providers.provider import Properties

if TYPE_CHECKING:
    import psycopg

SECRET = ("LETTA_PG_URI", "LETTA_ENCRYPTION_KEY")


class ContainerMigration(Migration):
    """Further inputs: `prefix`, `image`, `networks`, `server_uri` (as seen from the container)."""

    compared: ClassVar[tuple[str, ...]] = ("release", "container", "uri")

    def administrator(
        self, folder: StackFolder, inputs: Properties
    ) -> AbstractContextManager[psycopg.Connection[Any]]:
        return administrator(inputs)

    def knows(self, folder: StackFolder, inputs: Properties, revision: str) -> bool:
        arguments = ["grep", "-rqF", f'"{revision}"', f"{SOURCE}/alembic/versions"]
        return run_once(_job(inputs, arguments, None)).code == 0

    def alembic(
        self, folder: StackFolder, inputs: Properties, keep: Callable[[str], None], log: Path
    ) -> None:
        settings = environment(inputs["server_uri"], stack_key(folder))
        run_alembic(inputs, settings, keep, failed_hint(log))


def run_alembic(
    place: Properties, settings: dict[str, str], keep: Callable[[str], None], hint: str
) -> None:
    """Bring the database of `settings` to the head of the release of the image. `place` has `prefix`,
    `image`, `networks`. Raises LettaOpsError (`migration-failed`)."""
    # The URI comes by stdin; it is not in `docker inspect`, and `launch.py` redacts it.
    arguments = [PYTHON, LAUNCH, "/dev/stdin", "alembic.config:main", "upgrade", "head"]
    done = run_once(_job(place, arguments, settings), keep)
    if done.code != 0:
        tail = "\n".join(f"    {line}" for line in done.lines[-TAIL_LINES:])
        raise LettaOpsError(
            "migration-failed",
            f"migrating the database failed with exit code {done.code}:\n{tail}",
            hint,
        )


def environment(uri: str, key: Sensitive | None) -> dict[str, str]:
    secret = {} if key is None else {"LETTA_ENCRYPTION_KEY": key.reveal()}
    return {
        **secret,
        "LETTA_PG_URI": uri,
        "OTEL_SDK_DISABLED": "true",
        "MEMGPT_CONFIG_PATH": "/dev/null",
        "HOME": "/tmp",  # noqa: S108  # inside the container
        "LETTA_DIR": "/tmp/.letta",  # noqa: S108
    }


def _job(inputs: Properties, arguments: list[str], settings: dict[str, str] | None) -> Job:
    names = Names(inputs["prefix"])
    document = None if settings is None else launch_document(settings, (), None)
    hidden = [name for name in SECRET if name in (settings or {})]
    secret = [] if settings is None else [*secret_values(settings, hidden)]
    return Job(
        names.container("migration"),
        inputs["image"],
        arguments,
        names.labels("migration"),
        networks=inputs["networks"],
        stdin=document,
        directory=SOURCE,
        timeout=3600.0,
        secrets=tuple(secret),
    )
