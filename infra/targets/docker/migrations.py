"""The migrations of another release, run in a container of its image beside the stack's Postgres."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from infra.process import Report
from infra.pulumi_cli.project import configured
from infra.stack.deployment import POSTGRES_PORT, Deployment, postgres_uri
from infra.stack.locations import StackFolder
from infra.stack.releases import Release
from infra.targets.docker.images.recipes import BuildSettings, build
from infra.targets.docker.names import Names
from infra.targets.docker.providers.migration import environment, run_alembic
from infra.targets.docker.settings import build_settings


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
