"""Files that a letta-ops of November 2026 has written: every later version has to read them.

A small stack's profile, configuration, backup with its drill, agent archive and rehearsal. They stay as
they are; a new format gets another file beside this one.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

from backups.archives.file import open_archive
from backups.archives.place import InFile
from backups.catalog import deployment_id, read_catalog
from backups.opening import Key, opened_part
from backups.signing import Signers
from backups.stores.store import open_store
from backups.streams import chunks_of
from infra.pulumi_cli.project import configured
from infra.stack.deployment import Deployment, store_settings
from infra.stack.locations import stack_folder
from infra.stack.profile import load
from ops_cli.migrations.records import last_rehearsal

FILES = Path(__file__).parents[1] / "format-2026-11.tar.xz"
BACKUP = "20261129T182404Z-df80"
HEAD = "1c28e167b74f"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files, where a stack `local` has them."""
    monkeypatch.setenv("LETTA_OPS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("LETTA_OPS_STACKS", str(tmp_path / "stacks"))
    with tarfile.open(FILES) as archive:
        archive.extractall(tmp_path / "state" / "local", filter="data")
    here = tmp_path / "state" / "local"
    (tmp_path / "stacks").mkdir()
    shutil.move(here / "Pulumi.local.yaml", tmp_path / "stacks")
    shutil.move(here / "backups", tmp_path / "state" / "backups")
    (here / "profile.toml").chmod(0o600)
    return here


@pytest.fixture
def deployment(kept: Path) -> Deployment:
    return load(stack_folder("local"))


def test_profile_and_configuration_are_read(deployment: Deployment) -> None:
    assert deployment.id == "8e6e472d-9320-444f-8dae-823f2b2f467c"
    assert (deployment.target, deployment.release) == ("local", "0.16.8")
    assert deployment.database is not None
    assert (deployment.database.port, deployment.database.name) == (15439, "letta")
    assert all(deployment.named_secrets.values())
    assert deployment.signing_key is not None
    read = configured(stack_folder("local"))
    assert {key: int(value) for key, value in read.items()} == {
        "server.port": 18283, "database.port": 15439,
    }  # fmt: skip


def test_a_backup_is_listed_trusted_and_read(deployment: Deployment) -> None:
    store = open_store(store_settings(deployment))
    (backup,) = read_catalog(store, deployment_id(deployment)).backups
    manifest = backup.manifest
    assert (backup.id, manifest.database.revision) == (BACKUP, HEAD)
    assert manifest.database.rows("agents") == 3
    assert manifest.database.rows("messages") == 66
    assert backup.last_judged is not None
    assert backup.last_judged.verdict == "passed"
    assert Signers.of(deployment, ()).know(manifest)
    key = Key.of(deployment.backups, None)
    for part in manifest.parts:
        with opened_part(store, backup, part.name, key) as source:
            for _ in chunks_of(source):
                pass  # compared with the manifest at the end


def test_an_agent_archive_is_read(kept: Path) -> None:
    with open_archive(InFile(kept / "all.agents"), Key()) as archive:
        assert archive.header.revision == HEAD
        assert {each["name"] for each in archive.header.agents} == {
            "seeded-0", "seeded-1", "seeded-2",
        }  # fmt: skip
        rows = {table: sum(map(len, pieces)) for table, pieces in archive.tables()}
    assert rows["messages"] > 10_000  # bytes
    assert archive.counted["messages"].rows == 66


def test_a_rehearsal_is_read(deployment: Deployment) -> None:
    other = f"{deployment_id(deployment)}.letta"
    found = last_rehearsal(deployment, other, "f6cd5a1e519d", "0.16.8") or last_rehearsal(
        deployment, deployment_id(deployment), "f6cd5a1e519d", "0.16.8"
    )
    assert found is not None
    assert (found.passed, found.rows) == (True, 249)
