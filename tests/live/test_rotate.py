"""New passwords, and a new encryption key: also when it is killed, and when it goes wrong."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from backups.rekey import opens, unopened, values_in
from infra.stack.profile import NEXT_KEY, RETIRED_KEYS, remember, remembered
from tests.live.kept import kept
from tests.live.machine import LETTA_OPS, Stack, kill_tree, wait_until
from tests.live.seeding import seed

KILLED = 8
REFUSES = """
CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$;
CREATE TRIGGER keeps BEFORE UPDATE ON agent_environment_variables
FOR EACH ROW EXECUTE FUNCTION keeps();
"""


@pytest.fixture(scope="module")
def stack(own_stack: Stack) -> Stack:
    seed(own_stack.deployment, messages=1, passages=1)
    return own_stack


def rotate(stack: Stack, name: str, code: int = 0) -> dict[str, object]:
    answer = stack.json("secret", "rotate", name, "--yes", "--no-smoke", code=code)
    assert isinstance(answer, dict)
    return answer


def ensure_opened(stack: Stack) -> None:
    """The profile's key, and no other that it has, opens every value."""
    server = stack.deployment.server
    assert server.encryption_key is not None
    with stack.administrator() as link:
        values = values_in(link, "public")
    assert sum(map(len, values.values())) >= 3
    assert list(unopened(values, server.encryption_key)) == []
    assert not any(
        opens(values, each) for each in server.other_keys if each != server.encryption_key
    )


@pytest.mark.parametrize(
    "name", ["server-password", pytest.param("database-password", marks=pytest.mark.long)]
)
def test_a_password_is_another_one_and_the_old_one_is_refused(stack: Stack, name: str) -> None:
    before = stack.deployment
    rotate(stack, name)
    now = stack.deployment
    assert stack.run("smoke").code == 0
    if name == "server-password":
        assert before.server.password is not None
        header = {"Authorization": f"Bearer {before.server.password.reveal()}"}
        answer = httpx.get(f"{now.server.url}/v1/agents/count", headers=header)
        assert answer.status_code == 401
    else:
        assert before.database is not None
        assert now.database is not None
        assert before.database.owner.password != now.database.owner.password
        assert before.database.reader.password != now.database.reader.password
        assert stack.json("status")["database"]["revision"]


@pytest.mark.long
def test_a_new_key_opens_everything_and_backups_of_before_come_back(stack: Stack) -> None:
    old = stack.deployment.server.encryption_key
    done = rotate(stack, "encryption-key")
    assert done["unopened"] == []
    assert stack.deployment.server.encryption_key != old
    assert old in stack.deployment.server.other_keys
    ensure_opened(stack)
    stack.json("backup", "restore", str(done["backup"]), "--yes", "--no-smoke")
    assert stack.deployment.server.encryption_key == old
    ensure_opened(stack)
    refused = rotate(stack, "encryption-key", code=1)
    assert "letta_previous" in str(refused["error"])
    stack.json("backup", "restore", "--undo", "--yes", "--no-smoke")
    assert stack.deployment.server.encryption_key != old
    ensure_opened(stack)
    stack.json("backup", "restore", "--drop-previous", "--yes")


@pytest.mark.long
def test_a_key_that_can_not_be_brought_in_leaves_the_old_one(stack: Stack) -> None:
    """Somebody's trigger undoes every change."""
    old = stack.deployment.server.encryption_key
    with stack.administrator() as link:
        link.execute(REFUSES)
    try:
        answer = rotate(stack, "encryption-key", code=1)
    finally:
        with stack.administrator() as link:
            link.execute("DROP FUNCTION keeps CASCADE")
    assert "rekey-failed" in str(answer)
    assert stack.deployment.server.encryption_key == old
    assert remembered(stack.folder.profile, NEXT_KEY) is None
    ensure_opened(stack)
    assert stack.run("smoke").code == 0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_whoever_is_killed_leaves_one_key_that_opens_everything(
    stack: Stack, tmp_path: Path
) -> None:
    for number in range(KILLED):
        log = tmp_path / f"{number}.log"
        child = stack.machine.start(
            LETTA_OPS, "--stack", stack.name, "secret", "rotate", "encryption-key", "--yes",
            "--no-smoke", log=log,
        )  # fmt: skip
        wait_until("the server is stopped", partial(_stopped, log), 120)
        time.sleep(random.uniform(0, 4))  # noqa: S311  # the moment is what is tried
        kill_tree(child)
        stack.up()
        assert remembered(stack.folder.profile, NEXT_KEY) is None
        ensure_opened(stack)


def test_what_is_kept_elsewhere_is_rotated_there(stack: Stack) -> None:
    profile = stack.folder.profile
    text = profile.read_text()
    password = stack.deployment.server.password
    assert password is not None
    vault = stack.machine.root / "password"
    vault.write_text(password.reveal())
    vault.chmod(0o600)
    profile.write_text(text.replace(f'"{password.reveal()}"', f'"file:{vault}"'))
    try:
        answer = rotate(stack, "server-password", code=1)
    finally:
        profile.write_text(text)
    assert "secret-elsewhere" in str(answer)


@pytest.mark.long
def test_secrets_that_no_key_opens_are_left_out_when_that_was_said(
    stack: Stack, tmp_path: Path
) -> None:
    """A server that found one would refuse every message of its agent."""
    profile = stack.folder.profile
    place = kept(stack, tmp_path)
    place.json("backup", "create", environment={"LETTA_OPS_BACKUP_ESCROW": "false"})
    rotate(stack, "encryption-key")
    with stack.administrator() as link:
        before = {place[1:]: len(each) for place, each in values_in(link, "public").items() if each}
    retired = remembered(profile, RETIRED_KEYS)
    remember(profile, {RETIRED_KEYS: None})
    restore = ("backup", "restore", "latest", "--yes")
    try:
        assert place.refused(*restore) == "wrong-encryption-key"
        answer = place.run(*restore, "--accept-lost-secrets")
        assert answer.code == 0, answer.err
        with stack.administrator() as link:
            assert not any(values_in(link, "public").values())
        for (table, column), count in before.items():
            assert f"{table}.{column} ({count})" in answer.err
        assert stack.run("smoke").code == 0
        stack.json("backup", "restore", "--undo", "--yes", "--no-smoke")
    finally:
        remember(profile, {RETIRED_KEYS: retired})
    ensure_opened(stack)
    stack.json("backup", "restore", "--drop-previous", "--yes")


def _stopped(log: Path) -> bool:
    return b"the server is stopped" in log.read_bytes()
