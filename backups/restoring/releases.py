"""Does the deployment's release know the schema of a backup? An older server can't run a newer one."""

from __future__ import annotations

from pathlib import Path

from backups.catalog import Backup
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.stack.locations import cache_folder
from infra.stack.releases import RELEASES, release_number


def ensure_known(deployment: Deployment, backup: Backup) -> None:
    """Raise LettaOpsError (`backup-newer-schema`, `release-unknown`) unless the release here knows the
    schema of the backup."""
    revision = backup.manifest.database.revision
    release = RELEASES.get(deployment.release or "")
    if revision is None or (release is not None and revision == release.alembic_head):
        return
    if deployment.release is None:
        raise LettaOpsError(
            "release-unknown",
            f"the profile doesn't say which release the server is: backup {backup.id} may be too new"
            f" for it (Letta {backup.manifest.release or 'unknown'}, schema {revision})",
            f'add it to the profile: release = "{backup.manifest.release or "X.Y.Z"}"',
        )
    if _known(deployment.release, revision, backup):
        return
    raise LettaOpsError(
        "backup-newer-schema",
        f"backup {backup.id} was made with Letta {backup.manifest.release or 'of an unknown release'}"
        f" (schema {revision}), which Letta {deployment.release} here does not know",
        f"bring the stack to that release first: `letta-ops --stack {deployment.stack} migrate apply"
        f" --to {backup.manifest.release or 'X.Y.Z'}`",
    )


def _known(release: str, revision: str, backup: Backup) -> bool:
    """By the release's own migrations where they are at hand, else by the numbers of the releases."""
    if migrations := _migrations(release):
        return any(f'"{revision}"' in path.read_text() for path in migrations)
    made_with = backup.manifest.release
    return made_with is not None and release_number(made_with) <= release_number(release)


def _migrations(release: str) -> list[Path]:
    folder = cache_folder() / "releases"
    return list(folder.glob(f"letta-{release}-*/source/alembic/versions/*.py"))
