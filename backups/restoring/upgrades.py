"""The last migrations of a stack, to another release and to another Postgres: what each has replaced."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.files import write_private
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder
from infra.stack.releases import RELEASES


@dataclass(frozen=True)
class Upgrade:
    """`previous_oid` is the number of the database that it replaced, and that was left untouched."""

    before: str  # releases
    after: str
    previous_oid: int
    at: str
    backup: str


@dataclass(frozen=True)
class PostgresUpgrade:
    """The last one to another major version of Postgres; `release` is Letta's, which served meanwhile,
    and `key` the fingerprint of its encryption key; `database` is the number of the live database, which
    the copy has taken over."""

    before: str  # major versions
    after: str
    release: str
    key: str | None
    database: int
    at: str
    backup: str


def keep_postgres_upgrade(deployment: Deployment, upgrade: PostgresUpgrade) -> None:
    write_private(_postgres_file(deployment), json.dumps(asdict(upgrade)) + "\n")


def last_postgres_upgrade(deployment: Deployment) -> PostgresUpgrade | None:
    """None where there was none, or where it was written by another version of letta-ops."""
    try:
        return PostgresUpgrade(**json.loads(_postgres_file(deployment).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def forget_postgres_upgrade(deployment: Deployment) -> None:
    """It was undone."""
    _postgres_file(deployment).unlink(missing_ok=True)


def keep_upgrade(deployment: Deployment, upgrade: Upgrade) -> None:
    write_private(_file(deployment), json.dumps(asdict(upgrade)) + "\n")


def last_upgrade(deployment: Deployment) -> Upgrade | None:
    """None where there was none, or where it was written by another version of letta-ops."""
    try:
        return Upgrade(**json.loads(_file(deployment).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def upgrade_of(deployment: Deployment, oid: int, revision: str | None) -> Upgrade | None:
    """The last migration, if it has replaced the database with this number, which is as it was left then;
    None for any other."""
    upgrade = last_upgrade(deployment)
    if upgrade is None or not oid or upgrade.previous_oid != oid:
        return None
    release = RELEASES.get(upgrade.before)
    return upgrade if release is not None and release.alembic_head == revision else None


def forget_upgrade(deployment: Deployment) -> None:
    """It was undone."""
    _file(deployment).unlink(missing_ok=True)


def _postgres_file(deployment: Deployment) -> Path:
    return stack_folder(deployment.stack).root / "postgres-upgrade.json"


def _file(deployment: Deployment) -> Path:
    return stack_folder(deployment.stack).root / "upgrade.json"
