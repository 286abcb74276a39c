"""The data is gone, the machine is not: an empty stack comes back, and a backup into it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from infra.api import api
from infra.stack.profile import remembered
from tests.live.kept import kept, make_agent, write_memory
from tests.live.machine import Stack


@pytest.mark.long
def test_an_empty_stack_comes_back_for_a_backup_and_no_key_is_ever_deleted(
    own_stack: Stack, tmp_path: Path
) -> None:
    here = kept(own_stack, tmp_path)
    make_agent(here.deployment, "precious")
    write_memory(here.deployment, tmp_path / "memory", 2)
    backup = here.create()
    keys = {name: remembered(own_stack.folder.profile, name) for name in KEYS}
    assert here.refused("up", "--data-lost") == "data-there"

    plan = here.json("destroy", "--dry-run")["data"]
    assert plan["deleted"] is False
    assert here.json("destroy", "--yes")["data"] == plan
    own_stack.lose_data()
    if own_stack.machine.target == "docker":  # on `local`, one that is stopped begins anew
        assert [place.split()[0] for place in plan["also"]] == ["volume", "volume"]
        error = here.json("up", "--no-smoke", code=1)["error"]
        assert error["code"] == "data-missing"
        assert "up --data-lost" in error["hint"]
    here.json("up", "--data-lost", "--no-smoke")
    assert {name: remembered(own_stack.folder.profile, name) for name in KEYS} == keys
    done = here.json("backup", "restore", backup.id, "--yes", "--stop-first")
    assert (done["signed"], done["of_other_deployment"], done["secrets_lost"]) == (
        True,
        False,
        False,
    )
    with api(here.deployment) as client:
        assert [agent.name for agent in client.agents.list()] == ["precious"]

    gone = here.json("destroy", "--delete-data", "--yes")
    profile = Path(gone["profile"])
    assert stat.S_IMODE(profile.stat().st_mode) == 0o600
    assert {name: remembered(profile, name) for name in KEYS} == keys
    assert not own_stack.folder.root.exists()
    profile.unlink()


KEYS = ("server.encryption_key", "signing.key", "id")
