"""The port behind which every target stands: what one must be able to do.

A target is where stacks run. To add one: a folder beside this file, and a line in `infra.targets`
(or an entry point of the group `letta_ops.targets`, in another package). Nothing outside of
`infra.targets` knows which there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from infra.errors import LettaOpsError
from infra.log_lines import LogLine, Wanted
from infra.process import Finished, Report
from infra.sensitive import Sensitive
from infra.stack.deployment import Deployment, Role
from infra.stack.locations import StackFolder
from infra.stack.releases import Release
from infra.stack.settings import Settings

if TYPE_CHECKING:
    import psycopg

    from infra.database.administration import DatabaseAccess
    from infra.targets.facts import Containers, DiskSpace, Fact, Listeners, Running, Services


ROOM_TO_START = 100 * 1024**2  # bytes, of a disk that a stack shares: with less, none is started


@dataclass(frozen=True)
class Requirement:
    """One thing that a stack needs of a machine: is it there, what was seen, what to do."""

    name: str
    passed: bool
    detail: str
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Installation:
    """A Letta server of somebody else's making, as it was started.

    `chosen` are the names in its `environment` that its image didn't bring. `addresses`: where the hosts
    that the environment may name answer from here; `localhost` among them while it runs. `data`: where
    this machine keeps the data folder of a Postgres inside it. `stop` is the command that ends it.
    """

    name: str
    runs: bool
    environment: Mapping[str, Sensitive]
    chosen: Sequence[str]
    addresses: Mapping[str, str]
    data: Path | None
    stop: str


class Target(Protocol):
    """Where stacks run: how one is made there, and how it is found again.

    `configuration` are the stack's settings in flat keys as they are written, however wrong.
    """

    @property
    def settings(self) -> type[Settings]:
        """What can be configured of its stacks."""

    @property
    def refreshes(self) -> bool:
        """Whether Pulumi must look at what is really there before every run."""

    def environment(self) -> Mapping[str, str]:
        """The variables that Pulumi needs beside its own, to do its work where we do ours."""

    def declare(self, folder: StackFolder, settings: Settings) -> None:
        """Declare the stack's resources to Pulumi, as its program.

        Raises LettaOpsError before the first one, when the stack can't be made here.
        """

    def remove_unfinished(
        self,
        folder: StackFolder,
        configuration: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> Sequence[str]:
        """Remove what a run that was killed has made and Pulumi's exported `state` doesn't know.

        Returns what it was, in words. Asked only where it `refreshes`.
        """

    def explain(
        self, folder: StackFolder, configuration: Mapping[str, Any], message: str
    ) -> LettaOpsError | None:
        """What the target knows of Pulumi's `message` about a failed run; None for nothing."""

    def remove(
        self, folder: StackFolder, configuration: Mapping[str, Any], *, delete_data: bool
    ) -> None:
        """End what `destroy` may have left of the stack; with `delete_data` also what it keeps.

        The stack's folder, and the accounts of its services, are seen to by the caller.
        """

    def data(self, folder: StackFolder, configuration: Mapping[str, Any]) -> Sequence[str]:
        """Where the stack's data is, besides its folder, as an operator would look for it."""

    def forget_lost_data(self, folder: StackFolder, configuration: Mapping[str, Any]) -> None:
        """Let the next run begin with an empty database, since the data is gone.

        Raises LettaOpsError (`data-there`) when it isn't, or isn't ours.
        """

    def requirements(
        self, folder: StackFolder, configuration: Mapping[str, Any], *, chosen: bool
    ) -> Iterable[Requirement]:
        """What a stack needs of this machine, looked at. `chosen`: the stack is of this target.

        Changes nothing; raises nothing.
        """

    def client_requirements(self) -> Iterable[Requirement]:
        """What operating a stack needs of a machine that did not provision it."""

    def installation(self, name: str) -> Installation | None:
        """The server of this name here that no stack made, only looked at; None where there's none.

        Raises LettaOpsError: `source-is-stack`, and what the place itself raises.
        """

    def host(self, deployment: Deployment) -> Host | None:
        """The deployment where it runs; None when that is not within reach of this machine."""


class Host(Protocol):
    """A deployment where it runs: what can be done to it there, and what it can be asked."""

    @property
    def is_ours(self) -> bool:
        """Whether we stop and start its services; else that is for whoever made it."""

    @property
    def provides_database(self) -> bool:
        """Whether its Postgres was made together with the server: nothing stands between them."""

    @property
    def can_back_up(self) -> bool: ...

    @property
    def shares_disk(self) -> bool:
        """Whether its Postgres serves on the disk of the stack's folder here."""

    @property
    def facts(self) -> Collection[Fact]:
        """What of the methods below has an answer here."""

    def stop(self, service: str) -> None:
        """Stop every instance of the service; one that is stopped stays so."""

    def start(self, service: str) -> None:
        """Start every instance of the service; one that runs goes on. Nobody waits for its health."""

    def standby(self) -> Standby | None:
        """A further server beside those that run; None where clients could not be sent to it."""

    def administrator(self) -> AbstractContextManager[DatabaseAccess]:
        """The administrator's way to Postgres, for as long as the block; else that of its owner.

        Raises LettaOpsError (`no-database`); nothing is connected yet.
        """

    def owner(self) -> AbstractContextManager[DatabaseAccess]:
        """The way of the database's owner to Postgres, for as long as the block: what a backup holds
        is loaded by him, and runs with no more rights. Raises like `administrator`."""

    def session(self, role: Role | None = None) -> AbstractContextManager[psycopg.Connection[Any]]:
        """A connection to the deployment's database, as its reader unless told otherwise.

        Raises LettaOpsError: `no-database`, `database-unreachable`.
        """

    def server_programs(self) -> Programs | None:
        """PostgreSQL's own programs, where the server is; None where they can't be run there."""

    def migrations(self, release: Release, report: Report) -> Migrations | None:
        """Bring the programs of `release` to where they reach the deployment's Postgres; None where that
        can't be done from here. Raises what an installation raises."""

    def cluster(self) -> Cluster | None:
        """Its Postgres as a whole; None where no other major version of it can be had."""

    def home(self, name: str, program: str, code: str) -> Home | None:
        """Where the server's home is. `program` is a script of the standard library, `name` is what it
        is called there, `code` that of its errors. None where we can't look into it."""

    def ask_server(self, script: str, question: str, seconds: float) -> Finished:
        """Run `script` (standard library only) as the server runs: its interpreter, its account, its
        network, its environment file in LETTA_OPS_ENVIRONMENT_FILE; `question` is on stdin.

        Raises LettaOpsError (`server-not-running`, `timeout`).
        """

    def logs(self, wanted: Wanted) -> Iterator[LogLine]:
        """The lines by time; with `follow`, then on as they come, without an end.

        Raises LettaOpsError: `no-logs`, or `unknown-service` with the names that there are.
        """

    def packages(self) -> Mapping[str, str]:
        """The system packages that it runs on, as `name=version ...`, by image; {} where unknown."""

    def running(self) -> Running:
        """Its services, for `status`. Raises LettaOpsError where they can't be asked for."""

    def services(self) -> Services: ...

    def listeners(self) -> Listeners: ...

    def containers(self, *, memory: bool) -> Containers:
        """With `memory`, that of each is measured: that costs a command in every one."""

    def disk(self) -> DiskSpace:
        """The room left where the data is."""


class Standby(Protocol):
    """A server that takes over while those of the stack are stopped and started, and only then.

    What a killed command left of it is found by every other: `remove` is safe at any time.
    """

    def start(self, sessions: Mapping[str, str]) -> None:
        """Start it and see that it does its work. No client is sent to it yet. Its sessions with the
        database are those of the stack's servers but for `sessions` (see `infra.embedded.launch`).

        Raises LettaOpsError: `standby-not-started` where there is none now, `server-not-proven` for one
        that runs and doesn't do its work.
        """

    def serve(self) -> None:
        """Send all new requests to it; those at hand are answered by whoever has them."""

    def hold(self) -> None:
        """Let it do nothing; requests wait until `go_on`."""

    def go_on(self) -> None: ...

    def hand_back(self) -> None:
        """Wait until the stack's servers, which were started, do their work; send requests to them.

        Raises LettaOpsError like `start`.
        """

    def remove(self, patience: int) -> None:
        """End it, after as many seconds if it must answer so long; clients are sent to the stack's
        servers. Nothing happens where there is none."""


class Programs(Protocol):
    """PostgreSQL's programs where the server is."""

    def run(self, program: str, *arguments: str) -> Finished:
        """Run one to its end, whatever its exit code."""

    def stream(self, program: str, *arguments: str) -> Iterator[bytes]:
        """Run one as the administrator and yield its stdout.

        It ends when nobody reads on. Raises LettaOpsError (`dump-failed`) with its last words.
        """


class Migrations(Protocol):
    """A release's own migrations, ready to be run."""

    def run(self, database: str, keep: Callable[[str], None], hint: str) -> None:
        """Bring this database of the deployment's Postgres to the release's head, as its owner; `keep` is
        told every line. Raises LettaOpsError (`migration-failed`, with `hint`)."""


class Cluster(Protocol):
    """The Postgres of a deployment as a whole, and another major version of it. What is there is never
    changed: a copy of the other version takes its place, and it is kept as `previous`.

    `majors`: the versions that can be had here, the oldest first. `setting`: the key of the stack's
    configuration that names one. `undone`: what a copy is called that gave way again.
    """

    majors: Sequence[str]
    setting: str
    previous: str
    undone: str

    @property
    def major(self) -> str:
        """The version of what serves."""

    @property
    def replaced(self) -> str | None:
        """The version of what is kept as `previous`; None where there is nothing."""

    @property
    def size(self) -> int:
        """In bytes, of what serves."""

    def offered(self, major: str) -> Mapping[str, str]:
        """The extensions that this version can make here, each with its version."""

    def configuration_problem(self, major: str) -> str | None:
        """What this version has against the settings that the cluster runs with; None for nothing."""

    def prepare(self, major: str) -> None:
        """Do what `upgrade` needs and nobody has to be stopped for."""

    def upgrade(self, major: str) -> None:
        """Stop the server and Postgres, and make the copy, which was prepared. Raises LettaOpsError
        (`postgres-upgrade-failed`)."""

    def both(self) -> AbstractContextManager[tuple[DatabaseAccess, DatabaseAccess]]:
        """The owner's ways to the cluster and to its copy, each served to nobody else for the block."""

    def exchange(self) -> None:
        """Let the copy take the cluster's place. Both are stopped."""

    def go_back(self, major: str) -> bool:
        """Let the cluster of this version be the one in the place, whatever was done since it was; all
        are stopped then. Whether another one was there. Safe to run again. Raises LettaOpsError
        (`data-missing`, `database-in-use`)."""

    def start(self) -> bool:
        """Start Postgres as it was before `go_back`; False where that can't be done without `up`."""

    def aside(
        self, name: str
    ) -> AbstractContextManager[tuple[DatabaseAccess, DatabaseAccess] | None]:
        """The administrator's and the owner's ways to what is kept as `name`, which is served to nobody
        else for the block; None where there is nothing."""

    def kept(self) -> Mapping[str, int]:
        """What was replaced or has given way, and its bytes."""

    def drop(self, *names: str) -> None:
        """Remove these of what is kept."""


class Home(Protocol):
    """Where the server's home is, and a way to run a script there."""

    @property
    def place(self) -> str: ...

    def output(self, *arguments: str) -> AbstractContextManager[BinaryIO]:
        """Run it with a word, the home's path, and more words; yield its stdout, to be read to its
        end. Raises LettaOpsError when the block ends and the script had failed."""

    def run(self, *arguments: str, chunks: Iterable[bytes] = ()) -> str:
        """Run it, hand it `chunks` by stdin, and return its stdout. Raises LettaOpsError."""


def not_running() -> LettaOpsError:
    return LettaOpsError(
        "server-not-running",
        "no server runs from which its models could be reached",
        "start it with `letta-ops up`",
    )


def data_is_there(where: str, away: str) -> LettaOpsError:
    return LettaOpsError(
        "data-there",
        f"the data is not lost: there is {where}. Nothing was changed",
        f"bring the stack back with `letta-ops up`; to begin anew beside it, move it away (`{away} ...`)",
    )
