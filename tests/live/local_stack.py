"""A stack of the target local: processes of this machine under supervisord."""

from __future__ import annotations

import json
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, get_args

import psutil

from infra.accounts import Role, account_name, remove_accounts
from tests.live.stack import Stack, end_processes


@dataclass(frozen=True)
class LocalStack(Stack):
    target: ClassVar[str] = "local"
    services: ClassVar[tuple[str, ...]] = ("letta", "postgres", "model")
    front: ClassVar[str] = "letta"

    @property
    def configuration(self) -> dict[str, str]:
        return {"target": "local", **{key: str(port) for key, port in self.ports.items()}}

    @property
    def this_machine(self) -> str:
        return "127.0.0.1"

    @property
    def has_data(self) -> bool:
        return (self.folder.postgres_data / "PG_VERSION").exists()

    def pid(self, service: str) -> int:
        from infra.embedded import supervisor

        return supervisor.states(self.folder)[service].pid

    def kill(self, service: str) -> None:
        psutil.Process(self.pid(service)).kill()

    def stop(self, service: str) -> None:
        from infra.embedded import supervisor

        with supervisor.rpc(self.folder) as keeper:
            keeper.stopProcess(service)

    def processes(self) -> list[psutil.Process]:
        """Every process that carries this stack's mark in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("LETTA_OPS_STACK_FOLDER") == str(self.folder.root):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def discard(self) -> None:
        end_processes(self.folder)
        remove_accounts(self.folder)
        shutil.rmtree(self.folder.root)

    def server_settings(self) -> dict[str, str]:
        return dict(json.loads(self.folder.server_environment.read_text())["environment"])

    @contextmanager
    def data_elsewhere(self) -> Iterator[None]:
        from infra.embedded import supervisor

        data = self.folder.postgres_data
        aside = data.with_name("elsewhere")
        supervisor.stop(self.folder)
        data.rename(aside)
        try:
            yield
        finally:
            shutil.rmtree(data, ignore_errors=True)
            aside.rename(data)

    def lose_data(self) -> None:
        shutil.rmtree(self.folder.postgres_data)
        shutil.rmtree(self.folder.home)

    def remains(self) -> list[str]:
        found = [f"process {each.pid}" for each in self.processes()]
        accounts = {entry.pw_name for entry in pwd.getpwall()}
        ours = {account_name(self.folder, role) for role in get_args(Role)}
        return [*found, *(f"account {name}" for name in ours & accounts)]
