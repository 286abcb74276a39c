"""A backup and an archive that a letta-ops of November 2026 has written come into a stack of today."""

from __future__ import annotations

import shutil
import tarfile
import tomllib
from pathlib import Path

import pytest

from infra.stack.profile import RETIRED_KEYS, remember
from tests.live.machine import Stack
from tests.unit.test_kept_format import BACKUP, FILES

pytestmark = [
    pytest.mark.target("local", reason="a restore is the same on every target"),
    pytest.mark.long,
]


def test_what_was_written_then_is_restored_now(own_stack: Stack, tmp_path: Path) -> None:
    with tarfile.open(FILES) as archive:
        archive.extractall(tmp_path, filter="data")
    store = own_stack.machine.state / "backups"
    shutil.copytree(tmp_path / "backups", store, dirs_exist_ok=True)
    then = tomllib.loads((tmp_path / "profile.toml").read_text())["server"]["encryption_key"]
    remember(own_stack.folder.profile, {RETIRED_KEYS: then})
    words = ("--into-other", "--accept-unsigned", "--yes")
    done = own_stack.json("backup", "restore", BACKUP, *words)
    assert done["proven"]
    assert len(own_stack.json("agent", "list")) == 3
    archived = (str(tmp_path / "all.agents"), "--on-conflict", "replace", "--yes")
    assert len(own_stack.json("agent", "restore", *archived)["agents"]) == 3
    shutil.rmtree(store / "8e6e472d-9320-444f-8dae-823f2b2f467c")
