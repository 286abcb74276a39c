"""Where things live on this machine: the state folder, the cache folder, and a stack's own folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.errors import LettaOpsError
from infra.files import make_folder


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of all stacks: what must be kept. `LETTA_OPS_STATE` names another.

    Root's services run as an unprivileged user, who can't look into root's home: so the default for
    root is the place that the Filesystem Hierarchy Standard gives to a system's state.
    """
    return _folder(environment, "LETTA_OPS_STATE", "XDG_STATE_HOME", "~/.local/state", "/var/lib")


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of what can be made again: releases, the Pulumi CLI. `LETTA_OPS_CACHE` names another."""
    return _folder(environment, "LETTA_OPS_CACHE", "XDG_CACHE_HOME", "~/.cache", "/var/cache")


def _folder(environment: Mapping[str, str], own: str, xdg: str, home: str, system: str) -> Path:
    if chosen := environment.get(own):
        return Path(chosen).expanduser().absolute()
    if os.geteuid() == 0:
        return Path(system) / "letta-ops"
    if not environment.get(xdg) and not environment.get("HOME"):
        raise LettaOpsError(
            "no-home",
            f"neither HOME nor {xdg} is set",
            f"set one of them, or name a folder with {own}",
        )
    return Path(environment.get(xdg) or Path(home).expanduser()).absolute() / "letta-ops"


def backups_folder(state: Path) -> Path:
    return state / "backups"


NOT_A_STACK = ("passphrase", "stacks", "backups")


def stack_folder(stack: str, state: Path | None = None) -> StackFolder:
    """Return the folder of `stack`; raises LettaOpsError (`stack-name`) for what can't be a name."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", stack) or stack in NOT_A_STACK:
        raise LettaOpsError(
            "stack-name",
            f"{stack!r} cannot be the name of a stack",
            "use up to 40 lower-case letters, digits and dashes, beginning with a letter, and none"
            f" of: {', '.join(NOT_A_STACK)}",
        )
    return StackFolder(state or state_folder(), stack)


@dataclass(frozen=True)
class StackFolder:
    """Every path of one stack. Data and secrets live below `root` and nowhere else."""

    state: Path
    stack: str

    @property
    def root(self) -> Path:
        return self.state / self.stack

    @property
    def profile(self) -> Path:
        return self.root / "profile.toml"

    @property
    def project(self) -> Path:
        """The Pulumi project that `letta-ops` runs for this stack."""
        return self.root / "project"

    @property
    def lock(self) -> Path:
        return self.root / "change.lock"

    @property
    def last_error(self) -> Path:
        return self.root / "last-error.json"

    @property
    def schedule(self) -> Path:
        """When scheduled work ran last, and what came of it."""
        return self.root / "schedule.json"

    @property
    def schedule_lock(self) -> Path:
        """Held by the one that runs scheduled work, as long as it is there."""
        return self.root / "schedule.lock"

    @property
    def authority(self) -> Path:
        """The certificate of the proxy's own authority, which clients must trust."""
        return self.root / "authority.pem"

    @property
    def authority_key(self) -> Path:
        return self.root / "authority-key.pem"

    @property
    def agent_archives(self) -> Path:
        """Where agents are archived before they are deleted or replaced."""
        return self.root / "archives"

    @property
    def agent_count(self) -> Path:
        """How many agents there were before the last update (see `infra.targets.docker.agent_guard`)."""
        return self.root / "agent-count.json"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def postgres_data(self) -> Path:
        return self.data / "postgres"

    @property
    def home(self) -> Path:
        """HOME of the server: Letta keeps git-backed memory and logs below it."""
        return self.data / "home"

    @property
    def sandbox(self) -> Path:
        return self.data / "sandbox"

    @property
    def sockets(self) -> Path:
        """Where Postgres puts its socket: as administrator, only who runs the stack gets in."""
        return self.root / "run"

    @property
    def redis_socket(self) -> Path:
        """In a folder of the server's account, the only one that may speak to its Redis."""
        return self.data / "redis" / "redis.sock"

    @property
    def redis_settings(self) -> Path:
        return self.services / "redis.conf"

    @property
    def backups(self) -> Path:
        """Where backups are kept by default, of all stacks: it outlives `destroy --delete-data`."""
        return backups_folder(self.state)

    @property
    def backend(self) -> Path:
        """Pulumi's file backend, of all stacks."""
        return self.state / ".pulumi"

    @property
    def provider_lock(self) -> Path:
        return self.root / "provider.lock"

    @property
    def has_data(self) -> bool:
        return (self.postgres_data / "PG_VERSION").exists()

    @property
    def services(self) -> Path:
        return self.root / "services"

    @property
    def server_environment(self) -> Path:
        """The one file from which the server's process gets its secrets."""
        return self.services / "server-environment.json"

    @property
    def supervisor_settings(self) -> Path:
        return self.services / "supervisord.conf"

    @property
    def supervisor_socket(self) -> Path:
        return self.services / "supervisor.sock"

    @property
    def supervisor_pid(self) -> Path:
        return self.services / "supervisord.pid"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def programs(self) -> Path:
        """The files from which supervisord knows the services."""
        return self.services / "programs"

    def program(self, service: str) -> Path:
        return self.programs / f"{service}.conf"

    def postgres_settings(self, name: str) -> Path:
        return self.services / name

    def script(self, name: str) -> Path:
        """A script of ours, copied for an interpreter of its own."""
        return self.services / Path(name).name

    def log(self, service: str) -> Path:
        return self.logs / f"{service}.log"


def default_store_url(folder: StackFolder | None) -> str:
    """The URL of the store of whoever configured none; `folder` is the stack's, where it has one."""
    return (folder.backups if folder else backups_folder(state_folder())).as_uri()


def ensure_writable(folder: Path) -> None:
    """Make `folder`; raise LettaOpsError (`folder-not-writable`) when we can't write there."""
    try:
        make_folder(folder)
        probe = folder / f".writable-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise LettaOpsError(
            "folder-not-writable",
            f"cannot write to {folder}: {error.strerror}",
            "make the folder writable for this user, free some disk space, or name another one"
            " with LETTA_OPS_STATE (or LETTA_OPS_CACHE)",
        ) from None
