"""The migrations of a release, run in a container of its image beside the stack's Postgres."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra.errors import LettaOpsError
from infra.process import TAIL_LINES, Report
from infra.pulumi_cli.project import configured
from infra.sensitive import Sensitive
from infra.stack.deployment import POSTGRES_PORT, Deployment, postgres_uri
from infra.stack.locations import StackFolder
from infra.stack.releases import Release
from infra.stack.server_environment import launch_document, secret_values
from infra.targets.docker.engine.oneshot import Job, run_once
from infra.targets.docker.images.recipes import BuildSettings, build
from infra.targets.docker.names import LAUNCH, PYTHON, SOURCE, Names
from infra.targets.docker.settings import build_settings

SECRET = ("LETTA_PG_URI", "LETTA_ENCRYPTION_KEY")
MODELS = "letta.orm"  # most of alembic's start is to import them


@dataclass(frozen=True)
class ContainerMigrations:
    """See `infra.targets.target.Migrations`. `postgres` is the container of the stack's own."""

    deployment: Deployment
    names: Names
    postgres: str
    image: str

    def run(self, database: str, keep: Callable[[str], None], hint: str) -> None:
        assert self.deployment.database is not None  # noqa: S101  # it is in `postgres`
        there = replace(
            self.deployment.database, name=database, host=self.postgres, port=POSTGRES_PORT
        )
        key = self.deployment.server.encryption_key
        settings = environment(postgres_uri(there, there.owner).reveal(), key)
        place = {
            "prefix": self.names.prefix,
            "image": self.image,
            "networks": [self.names.inner_network],
        }
        run_alembic(place, settings, keep, hint)


def image_of(folder: StackFolder, release: Release, report: Report) -> str:
    """Build the image of `release` as the stack's configuration says, unless it is there."""
    settings: BuildSettings = build_settings(configured(folder))
    return build("letta", release, settings, report)


def run_alembic(
    place: Mapping[str, Any], settings: dict[str, str], keep: Callable[[str], None], hint: str
) -> None:
    """Bring the database of `settings` to the head of the release of the image. `place` has `prefix`,
    `image`, `networks`. Raises LettaOpsError (`migration-failed`)."""
    # The URI comes by stdin; it is not in `docker inspect`, and `launch.py` redacts it.
    arguments = [PYTHON, LAUNCH, "/dev/stdin", "alembic.config:main", "upgrade", "head"]
    hidden = [name for name in SECRET if name in settings]
    document = launch_document(settings, (), MODELS)
    run(job(place, arguments, document, secret_values(settings, hidden)), keep, hint)


def run(job: Job, keep: Callable[[str], None], hint: str) -> None:
    """Run a job that migrates, telling `keep` every line. Raises LettaOpsError (`migration-failed`)."""
    done = run_once(job, keep)
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


def job(
    place: Mapping[str, Any],
    arguments: Sequence[str],
    document: str | None = None,
    secrets: Sequence[Sensitive] = (),
) -> Job:
    """A container of the release's image in the networks of `place`; the `document` is its stdin."""
    names = Names(place["prefix"])
    return Job(
        names.container("migration"),
        place["image"],
        list(arguments),
        names.labels("migration"),
        networks=place["networks"],
        stdin=document,
        directory=SOURCE,
        timeout=3600.0,
        secrets=tuple(secrets),
    )
