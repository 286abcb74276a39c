"""A drill proves a backup, or says why not, and nobody else notices that it was made."""

from __future__ import annotations

import datetime as dt
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from backups.catalog import Backup, deployment_id, read_catalog
from backups.contents import read_tables
from backups.crypto import new_identity
from backups.opening import Key
from backups.stores.folder import FolderStore
from healthchecks.drill.verdict import CHECKS
from infra.accounts import account_name
from infra.api import api, authorized_http
from infra.embedded.throwaway import GUARD, throwaway_folder
from infra.stack.locations import StackFolder
from infra.stack.profile import load
from tests.live.machine import LETTA_OPS, Answer, Stack, wait_until


class Decoy:
    """Something that listens where a server could be led to, and counts who comes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.visits = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()

    def close(self) -> None:
        self._listener.close()


@dataclass(frozen=True)
class Proven:
    """A stack with an agent, its backup in a store of its own, and what opens it."""

    stack: Stack
    store: Path
    environment: Mapping[str, str]
    agent: str
    decoy: Decoy

    def drill(self, **settings: Any) -> Answer:
        known = {**self.environment, **settings.pop("environment", {})}
        return self.stack.run("--json", "backup", "drill", environment=known, **settings)

    def backup(self) -> Backup:
        deployment = load(self.stack.folder, environment=self.environment)
        return read_catalog(FolderStore(self.store), deployment_id(deployment)).find("latest")

    def drills(self) -> list[Path]:
        return sorted(self.stack.folder.root.glob("drill-*"))


@pytest.fixture(scope="module")
def proven(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proven]:
    """An agent that has talked, remembers, has a secret, and leads to a decoy; backed up."""
    folder = tmp_path_factory.mktemp("drill")
    identity, recipient = new_identity()
    (folder / "identity").write_text(identity.reveal())
    environment = {
        "LETTA_OPS_STORE_URL": (folder / "store").as_uri(),
        "LETTA_OPS_BACKUP_RECIPIENTS": recipient,
        "LETTA_OPS_BACKUP_IDENTITY": f"file:{folder / 'identity'}",
    }
    decoy, agent = Decoy(), _agent(stack)
    with stack.administrator() as link:
        link.execute(ENDPOINT, [decoy.url, agent])
    answer = stack.run("--json", "backup", "create", environment=environment)
    assert answer.code == 0, answer.out + answer.err
    yield Proven(stack, folder / "store", environment, agent, decoy)
    decoy.close()
    with api(stack.deployment) as client:
        client.agents.delete(agent)


ENDPOINT = (
    "UPDATE agents SET llm_config = jsonb_set(llm_config::jsonb, '{model_endpoint}',"
    " to_jsonb(%s::text))::json WHERE id = %s"
)


def _agent(stack: Stack) -> str:
    model = stack.deployment.model
    with api(stack.deployment) as client:
        agent = client.agents.create(
            name="drilled",
            model=model.handle,
            embedding=model.embedding,
            secrets={"TOKEN": "a-secret-of-a-tool"},
        ).id
        client.agents.messages.create(
            agent, messages=[{"role": "user", "content": 'Say "hello",\nünïcode'}]
        )
        client.agents.passages.create(agent, text="Of 100 % of_all \\ backups, this one restores")
    return agent


def _content(stack: Stack) -> dict[str, Any]:
    """Everything in the live database but our own records."""
    with stack.administrator() as link:
        found = read_tables(link)
    return {name: table for name, table in found.items() if not name.startswith("letta_ops.")}


def test_a_drill_passes_is_kept_beside_the_backup_and_touches_nothing_alive(proven: Proven) -> None:
    before, pids = _content(proven.stack), proven.stack.pids()
    answer = proven.drill()
    assert answer.code == 0, answer.out + answer.err
    verdicts = {check["name"]: check["verdict"] for check in answer.json["checks"]}
    assert verdicts == dict.fromkeys(CHECKS, "passed"), answer.out
    kept = proven.backup().last_drill
    assert kept is not None
    assert (kept.verdict, kept.document) == ("passed", answer.json)
    assert kept.seconds == answer.json["seconds"] > 0
    assert proven.drills() == []
    assert proven.stack.pids() == pids
    assert _content(proven.stack) == before
    assert proven.decoy.visits == 0


def test_a_server_of_a_drill_reaches_its_own_database_and_nothing_else(
    proven: Proven, tmp_path: Path
) -> None:
    """Also when an address is in its way: it is led to the decoy again, and asked for an answer."""
    with _served(proven) as copy:
        assert not copy.rows(
            "SELECT id FROM {agents} WHERE llm_config::text LIKE %s", f"%{proven.decoy.url}%"
        )
        copy.link.execute(ENDPOINT, [proven.decoy.url, proven.agent])
        with authorized_http(copy.server) as client:
            message = {"messages": [{"role": "user", "content": "Are you alone?"}]}
            answer = client.post(f"/v1/agents/{proven.agent}/messages", json=message)
        assert answer.status_code >= 400
        assert proven.decoy.visits == 0
    assert proven.drills() == []


@contextmanager
def _served(proven: Proven) -> Iterator[Any]:
    from healthchecks.drill.drill_run import DrillRun, restore, served
    from healthchecks.drill.verdict import Judge
    from infra.embedded.throwaway_postgres import start_postgres
    from infra.embedded.throwaway_server import install_release
    from infra.stack.releases import RELEASES

    deployment = load(proven.stack.folder, environment=proven.environment)
    key, store = Key.of(deployment.backups), FolderStore(proven.store)
    with throwaway_folder(proven.stack.folder.root, print) as folder:
        drill = DrillRun(
            deployment,
            store,
            proven.backup(),
            key,
            folder,
            Judge(print),
            print,
            dt.datetime.now(dt.UTC),
            signed=True,
        )
        postgres = start_postgres(folder)
        restore(drill, postgres)
        release = install_release(folder, RELEASES[str(deployment.release)], print)
        with served(drill, postgres, release, deployment.server.encryption_key) as copy:
            yield copy


def test_without_the_identity_a_backup_is_unverified(proven: Proven) -> None:
    answer = proven.drill(environment={"LETTA_OPS_BACKUP_IDENTITY": ""})
    assert answer.code == 3, answer.out + answer.err
    assert answer.json["verdict"] == "unverified"
    assert "--identity" in answer.json["error"]["hint"]
    unknown = proven.stack.run(
        "--json", "backup", "drill", "NO-SUCH", environment=proven.environment
    )
    assert (unknown.code, unknown.json["error"]["code"]) == (1, "no-backup")


def test_a_damaged_backup_fails_and_what_a_killed_drill_left_is_gone_then(
    proven: Proven, tmp_path: Path
) -> None:
    (left,) = _killed(proven, tmp_path)
    copy = tmp_path / "store"
    shutil.copytree(proven.store, copy)
    (part,) = copy.glob("*/*/database*")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    answer = proven.drill(environment={"LETTA_OPS_STORE_URL": copy.as_uri()})
    assert answer.code == 1, answer.out + answer.err
    assert answer.json["verdict"] == "failed"
    assert [check["name"] for check in answer.json["checks"][:2]] == ["signature", "database"]
    assert answer.json["checks"][1]["verdict"] == "failed"
    assert not left.exists()
    assert proven.drills() == []
    assert not _marked(left)
    _assert_no_account(left)


def _killed(proven: Proven, tmp_path: Path) -> list[Path]:
    """`kill -9` a drill whose Postgres and server run, and its guard; return the folders it leaves."""
    machine = replace(proven.stack.machine, extra=dict(proven.environment))
    log = tmp_path / "killed.log"
    drill = machine.start(LETTA_OPS, "--stack", proven.stack.name, "backup", "drill", log=log)
    wait_until("the drill starts its server", lambda: "starting Letta" in log.read_text(), 120)
    wait_until("it runs", lambda: len(_names(proven)) > 1)
    for guard in _guards(proven):
        guard.kill()
    drill.kill()
    drill.wait()
    assert len(_names(proven)) > 1  # nobody has told them
    return proven.drills()


def _names(proven: Proven) -> set[str]:
    return {process.name() for folder in proven.drills() for process in _marked(folder)}


def _guards(proven: Proven) -> list[psutil.Process]:
    (folder,) = map(str, proven.drills())
    known = psutil.process_iter(["cmdline"])
    found = [each for each in known if {GUARD, folder} <= set(each.info["cmdline"] or [])]
    assert found
    return found


def _marked(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LETTA_OPS_STACK_FOLDER") == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _assert_no_account(folder: Path) -> None:
    import pwd

    gone = StackFolder(folder.parent, folder.name)
    for role in ("server", "postgres"):
        with pytest.raises(KeyError):
            pwd.getpwnam(account_name(gone, role))
