"""The Postgres cluster: binaries in the cache, a data folder of our own, its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from infra.accounts import service_account
from infra.embedded.binaries import FOLDERS, MAJOR, install_binaries
from infra.embedded.cluster import configure, initialise, major_of
from infra.embedded.cluster_upgrade import KEPT
from infra.embedded.folders import prepare_folders
from infra.errors import LettaOpsError
from infra.stack.locations import StackFolder, cache_folder, ensure_writable
from infra.targets.providers.provider import Properties, Provider


class PostgresCluster(Provider):
    """Inputs: `port`, `postgres` (the major version of a new cluster; "": the newest). Outputs:
    `configuration` (file), `binaries` (folder), `digest` (of the configuration).

    `make` adopts a data folder that is there; it never makes one over another.
    """

    outputs: ClassVar[tuple[str, ...]] = (
        "configuration",
        "binaries",
        "digest",
    )

    compared: ClassVar[tuple[str, ...]] = ("port",)

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        ensure_writable(folder.root)
        prepare_folders(folder)
        account = service_account(folder, "postgres")
        major = major_of(folder.postgres_data) or inputs.get("postgres") or MAJOR
        binaries = install_binaries(cache_folder(), major)
        if not folder.has_data:
            ensure_none_kept(folder)
            initialise(account, folder, major)
        digest = configure(account, folder, int(inputs["port"]))
        return folder.stack, {
            "configuration": str(folder.postgres_settings("postgresql.conf")),
            "binaries": str(binaries),
            "digest": digest,
        }

    def change(self, folder: StackFolder, old: Properties, new: Properties) -> Properties:
        """Refuse to begin anew where there was data: a lost disk must not look like a fresh stack."""
        if not folder.has_data:
            raise LettaOpsError(
                "data-missing",
                f"stack '{folder.stack}' had its data in {folder.postgres_data}, and it is gone",
                "mount the disk; or begin with an empty database and restore a backup:"
                f" `letta-ops --stack {folder.stack} up --data-lost`, then"
                f" `letta-ops --stack {folder.stack} backup restore latest`",
            )
        return self.make(folder, new)[1]

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        if not folder.has_data:
            return f"{folder.postgres_data} is gone"
        if not (Path(outputs["binaries"]) / "bin" / "postgres").exists():
            return f"{outputs['binaries']} is gone"
        major = major_of(folder.postgres_data) or MAJOR
        if Path(outputs["binaries"]).name != FOLDERS.get(major):
            return f"{folder.postgres_data} is of PostgreSQL {major}"
        return None


def ensure_none_kept(folder: StackFolder) -> None:
    """Raise LettaOpsError (`data-missing`) where a change of version was killed in the midst of it: what
    lies beside is the data."""
    kept = [name for name in KEPT if (folder.data / name).exists()]
    if kept:
        raise LettaOpsError(
            "data-missing",
            f"{folder.postgres_data} is gone, and {', '.join(kept)} beside it is there: nothing was made,"
            " because a new database would look like total loss",
            f"run `letta-ops --stack {folder.stack} up` again, which puts an interrupted migration right;"
            f" to begin anew, move them away from {folder.data}",
        )
