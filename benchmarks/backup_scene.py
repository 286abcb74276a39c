"""What the benchmarks of backups run on: a filled stack, a store in S3, and the programs of others."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backups.crypto import new_identity
from backups.manifest import WHOLE
from backups.programs import Version, find_dump, find_restore
from benchmarks.cost import Argv, Cost, OnLine, pipe
from benchmarks.seed import seed
from infra.database.administration import DatabaseAccess
from infra.targets import host
from tests.contract.s3_server import S3Server, running_s3_server
from tests.live.machine import LETTA_OPS, Machine, Stack

SCALE = float(os.environ.get("LETTA_OPS_BENCH_SCALE", "1"))  # 1: more than 1 GB
BUCKET = "bench"
COMPRESS = ("zstd", "-1", "-T2", "-q", "-c")  # the level and the threads that ours has
PUT = Path(__file__).with_name("put_object.py")


@dataclass(frozen=True)
class Scene:
    """A stack with a filled database, its backups in S3, and the ways to both."""

    stack: Stack
    store: S3Server
    access: DatabaseAccess
    name: str  # of the database
    dump: Path
    restore: Path
    postgres: int  # its pid
    scope: str = WHOLE

    @property
    def plain_dump(self) -> list[str | Path]:
        return [self.dump, "--format=custom", "--compress=0", "--no-password"]

    @property
    def environment(self) -> Mapping[str, str]:
        region = {"AWS_DEFAULT_REGION": "us-east-1"}
        return {**self.access.environment(self.name), **self.store.environment(), **region}

    def ours(self, *words: str, on_line: OnLine = lambda _: None) -> Cost:
        """Run `letta-ops WORDS...`."""
        environment = {
            **self.stack.machine.environment,
            **self.store.environment(),
            "LETTA_OPS_BACKUP_SCOPE": self.scope,
        }
        argv: Argv = [LETTA_OPS, "--stack", self.stack.name, *words]
        return pipe(argv, server=self.postgres, environment=environment, on_line=on_line)

    def theirs(self, *programs: Argv, **more: str) -> Cost:
        """Run programs of others, as a pipe."""
        return pipe(*programs, server=self.postgres, environment={**self.environment, **more})

    def upload(self, key: str) -> Cost:
        """What `backup create` does with the database, by plain programs, and not encrypted."""
        put: list[str | Path] = [sys.executable, PUT, self.store.url, BUCKET, key]
        return self.theirs(self.plain_dump, COMPRESS, put)

    def stored(self, below: str) -> int:
        """Bytes in the store whose names begin with `below`."""
        pages = self.store.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=below)
        return sum(item["Size"] for page in found for item in page.get("Contents", ()))


@contextmanager
def scene(machine: Machine, name: str, scale: float) -> Iterator[Scene]:
    """A new stack, filled at `scale`; removed in the end, with its store."""
    folder = machine.root / f"{name}-store"
    stack = machine.stack(name)
    with running_s3_server(folder, versioning=False) as store:
        store.make_bucket(BUCKET)
        identity, recipient = new_identity()
        kept = machine.root / f"{name}-identity"
        kept.touch(0o600)
        kept.write_text(identity.reveal())
        settings = {
            "store.url": f"s3://{BUCKET}/ours",
            "store.endpoint": store.url,
            "backup.recipients": recipient,
            "backup.identity": f"file:{kept}",
        }
        words = [word for each in settings.items() for word in ("--config", "=".join(each))]
        stack.up("--no-smoke", *words)
        took = seed(stack.deployment, scale)
        print(f"{name}: filled at scale {scale:g} in {took:.0f} s", flush=True)
        deployment = stack.deployment
        assert deployment.database is not None
        with host(deployment).administrator() as access:
            with access.connect(deployment.database.name) as link:
                server = Version.of(link)
            dump = find_dump(server)
            yield Scene(
                stack,
                store,
                access,
                deployment.database.name,
                dump.path,
                find_restore(server.major, dump.major).path,
                stack.pid("postgres"),
            )
    stack.destroy("--delete-data")
