"""A stack whose backups lie outside of its machine, and what tests ask of both."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backups.catalog import Backup, deployment_id, read_catalog
from backups.contents import read_tables
from backups.crypto import new_identity
from backups.manifest import Table
from backups.opening import Key
from backups.signing import key_to_sign, signer_of
from backups.sources.memory_files import MemoryPlace, read_memory
from backups.sources.memory_tar import TarWriter
from backups.stores.folder import FolderStore
from infra.api import api
from infra.database.administration import DatabaseAccess
from infra.stack.deployment import Deployment
from infra.stack.profile import load
from infra.targets import host
from tests.live.machine import Answer, Stack

# A mark for tests of what is stored, which is the same on every target: one run of them is enough.
OF_THE_STORE = pytest.mark.target("local", reason="what is stored knows no target")
REPOSITORY = "repository/org-1/agent-1/repo.git"
# Our records, and what restores make and set aside.
ASIDE = ("letta_ops.", "letta_restoring", "letta_previous", "letta_older", "letta_undone")
# What a server that starts, and a smoke test, write into a database that was just restored.
OF_A_START = ("providers", "tools", "provider_traces")
# And what `up` writes into a database of another deployment: where models and sandboxes are here.
OF_A_MOVE = (*OF_A_START, "agents", "archives", "archival_passages", "sandbox_configs")


@dataclass(frozen=True)
class Kept:
    """A stack, a folder of backups, and the environment that an operator of both has."""

    stack: Stack
    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> FolderStore:
        return FolderStore(self.root)

    @property
    def deployment(self) -> Deployment:
        return load(self.stack.folder, environment=self.environment)

    @property
    def key(self) -> Key:
        return Key.of(self.deployment.backups)

    def at(self, root: Path) -> Kept:
        """The same, with another folder of backups."""
        return replace(
            self, root=root, environment={**self.environment, "LETTA_OPS_STORE_URL": root.as_uri()}
        )

    def run(self, *words: str, environment: dict[str, str] | None = None, **more: Any) -> Answer:
        known = {**self.environment, **(environment or {})}
        return self.stack.run(*words, environment=known, **more)

    def json(self, *words: str, code: int = 0, environment: dict[str, str] | None = None) -> Any:
        answer = self.run("--json", *words, environment=environment)
        assert answer.code == code, f"{words}: exit {answer.code}\n{answer.out}\n{answer.err}"
        return answer.json

    def refused(self, *words: str, environment: dict[str, str] | None = None) -> str:
        """Run what must fail with exit code 1; return the error's code."""
        return str(self.json(*words, code=1, environment=environment)["error"]["code"])

    def create(self, *words: str) -> Backup:
        return self.find(self.json("backup", "create", *words)["id"])

    def find(self, word: str = "latest") -> Backup:
        return read_catalog(self.store, deployment_id(self.deployment)).find(word)

    def folder(self, backup: Backup) -> Path:
        return self.root / backup.manifest.deployment / backup.id

    @contextmanager
    def access(self) -> Iterator[DatabaseAccess]:
        with host(self.deployment).administrator() as access:
            yield access

    def sql(self, query: str, *values: Any, name: str = "letta") -> list[tuple[Any, ...]]:
        """Run a query as the administrator."""
        with self.access() as access, access.connect(name) as link:
            found = link.execute(query, values or None)
            return found.fetchall() if found.description else []

    def tables(self, name: str = "letta") -> dict[str, Table]:
        """The content of every table but our own records, and what restores have set aside."""
        with self.access() as access, access.connect(name) as link:
            found = read_tables(link)
        return {key: table for key, table in found.items() if not key.startswith(ASIDE)}

    def schemas(self) -> set[str]:
        """Those that are ours, or that restores have made."""
        found = self.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'letta\\_%'")
        return {name for (name,) in found} - {"letta_ops", "letta_ops_reader"}

    def databases(self) -> set[str]:
        found = self.sql("SELECT datname FROM pg_database WHERE NOT datistemplate", name="postgres")
        return {name for (name,) in found} - {"postgres"}


def assert_same(
    here: Kept, expected: Mapping[str, Table], but: tuple[str, ...], schema: str = "public"
) -> None:
    """The tables hold what is expected; those in `but` at least as many rows."""
    found = here.tables()
    wanted = {name.replace("public.", f"{schema}.", 1): each for name, each in expected.items()}
    wanted = {name: each for name, each in wanted.items() if not name.startswith(ASIDE)}
    assert found.keys() == wanted.keys()
    for name, table in wanted.items():
        if name.rpartition(".")[2] in but:
            assert found[name].rows >= table.rows, name
        else:
            assert found[name] == table, name


def kept(stack: Stack, folder: Path) -> Kept:
    """The stack with a store in `folder`, encrypted to an identity beside it, as `keygen` writes one."""
    identity, recipient = new_identity()
    there = stack.folder.profile.is_file()
    signer = f"# signer: {signer_of(key_to_sign(stack.deployment))}\n" if there else ""
    (folder / "identity").write_text(f"{signer}{identity.reveal()}")
    return Kept(
        stack,
        folder / "store",
        {
            "LETTA_OPS_STORE_URL": (folder / "store").as_uri(),
            "LETTA_OPS_BACKUP_RECIPIENTS": recipient,
            "LETTA_OPS_BACKUP_IDENTITY": f"file:{folder / 'identity'}",
        },
    )


def make_agent(deployment: Deployment, name: str) -> str:
    """An agent with a secret, a message and a passage, made through the server."""
    model = deployment.model
    with api(deployment) as client:
        agent = client.agents.create(
            name=name,
            model=model.handle,
            embedding=model.embedding,
            secrets={"TOKEN": f"the-secret-of-{name}"},
        ).id
        client.agents.passages.create(agent, text="Of 100 % of_all \\ backups, this one restores")
    talk(deployment, agent, 'Say "hello",\nünïcode')
    return agent


def talk(deployment: Deployment, agent: str, text: str) -> None:
    with api(deployment) as client:
        client.agents.messages.create(agent, messages=[{"role": "user", "content": text}])


def damaged_copy(original: Kept, backup: Backup, name: str, position: str, folder: Path) -> Kept:
    """A copy of the store in which one byte of one object of `backup` is another one."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original.root, folder)
    copy = original.at(folder)
    path = copy.folder(backup) / name
    content = bytearray(path.read_bytes())
    at = {"header": 0, "middle": len(content) // 2, "tail": len(content) - 1}[position]
    content[at] ^= 1
    path.write_bytes(content)
    return copy


def write_memory(deployment: Deployment, folder: Path, commits: int) -> None:
    """Put a git repository into the server's memory folder, in the place of what is there."""
    work = folder / "work"
    work.mkdir(parents=True)
    git(work, "init", "-q", "-b", "main")
    for number in range(commits):
        (work / f"{number}.md").write_text(f"version {number}\n" * 50)
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", f"commit {number}")
    place = MemoryPlace.of(deployment)
    place.write([_tar(work / ".git")])
    place.swap()
    place.drop_previous()


def git_problems(deployment: Deployment, folder: Path) -> list[str]:
    """Read live memory, and return what `git fsck` says of it and how many commits it has."""
    with read_memory(deployment) as tar:
        data = b"".join(tar)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(folder, filter="data")
    repository = folder / "memfs" / REPOSITORY
    return [
        git(repository, "fsck", "--full", "--strict"),
        git(repository, "rev-list", "--count", "main"),
    ]


def git(folder: Path, *words: str) -> str:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*")
    done = subprocess.run(
        ["git", *settings, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return (done.stdout + done.stderr).strip()


def _tar(repository: Path) -> bytes:
    sink = io.BytesIO()
    writer = TarWriter(sink.write)
    steps = ["memfs", *REPOSITORY.split("/")]
    for count in range(1, len(steps) + 1):
        writer.folder("/".join(steps[:count]).encode())
    for path in sorted(repository.rglob("*"), key=lambda path: path.parts):
        relative = path.relative_to(repository).as_posix()
        if relative.startswith("hooks") or relative == "index":
            continue
        name = f"memfs/{REPOSITORY}/{relative}".encode()
        if path.is_dir():
            writer.folder(name)
        else:
            content = path.read_bytes()
            writer.file(name, len(content), [content] if content else [])
    writer.end()
    return sink.getvalue()
