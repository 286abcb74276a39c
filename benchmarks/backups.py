"""`backup create` and `backup restore` against PostgreSQL's own programs, side by side.

LETTA_OPS_BENCH_SCALE says how large the database is: 1 is more than 1 GB.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from backups.manifest import LETTA, WHOLE
from benchmarks.backup_rivals import restic
from benchmarks.backup_scene import SCALE, Scene, scene
from benchmarks.cost import Cost, in_words, middle
from benchmarks.stage import Figure
from infra.database.administration import DatabaseAccess
from tests.live.machine import Machine

LARGER = 4
RUNS = 3
FRESH = "bench_fresh"
MEGABYTE = 1000**2
SWITCHED = "switching: the server is stopped"
BEGINNINGS = {  # of what a restore reports, and the part of the work that begins then
    "database: fetching": "fetched, decrypted and laid down",
    "database: restoring": "pg_restore",
    "database: comparing": "compared",
    "memory:": "memory",
    SWITCHED: "switched, started, proven",
}


def measure(machine: Machine) -> Iterator[Figure]:
    with scene(machine, "filled", SCALE) as here:
        yield Figure("database", _size(here) / MEGABYTE, "MB", None, f"scale {SCALE:g}")
        for scope in (WHOLE, LETTA):
            yield from _create(replace(here, scope=scope))
            yield from _restore(replace(here, scope=scope))
        yield from restic(here)


def measure_memory(machine: Machine) -> Iterator[Figure]:
    """Of our own process, at one size and at a larger one."""
    for scale in (SCALE, SCALE * LARGER):
        with scene(machine, f"memory-{scale:g}".replace(".", "-"), scale) as here:
            made = here.ours("backup", "create")
            put_back = restored(here).cost
            for what, cost in (("create", made), ("restore", put_back)):
                yield Figure(
                    f"backup {what}, memory of our process, database of"
                    f" {_size(here) / MEGABYTE:.0f} MB",
                    cost.peak / MEGABYTE,
                    "MB",
                    200,
                    f"{cost.seconds:.0f} s",
                )


def _create(here: Scene) -> Iterator[Figure]:
    ours, theirs = [], []
    for number in range(RUNS):
        ours.append(here.ours("backup", "create"))
        theirs.append(here.upload(f"plain/{here.scope}-{number}"))
    yield Figure(
        f"backup create, scope {here.scope}, encrypted, to S3, against pg_dump | zstd | a plain client",
        middle(ours).seconds / middle(theirs).seconds,
        "x",
        1.15,
        f"ours {in_words(ours)}; theirs {in_words(theirs)}",
    )
    yield _peak("create", ours)


@dataclass
class Restored:
    """One restore: its cost, when it began to switch, and how long each part of it took."""

    cost: Cost
    until_switched: float
    parts: dict[str, float] = field(default_factory=dict)


def _restore(here: Scene) -> Iterator[Figure]:
    dump = here.stack.machine.root / "plain.dump"
    here.theirs([here.dump, "--format=custom", "--no-password", f"--file={dump}"])
    ours, theirs = [], []
    for _ in range(RUNS):
        ours.append(restored(here))
        theirs.append(_plain_restore(here, dump))
    dump.unlink()
    until = [each.until_switched for each in ours]
    parts = ", ".join(
        f"{name} {median(each.parts[name] for each in ours):.1f} s" for name in ours[0].parts
    )
    yield Figure(
        f"backup restore, scope {here.scope}, from S3 until it switches, against pg_restore -j2 of"
        " a local file",
        median(until) / middle(theirs).seconds,
        "x",
        1.2,
        f"ours {median(until):.1f} s, {min(until):.1f} to {max(until):.1f}; theirs"
        f" {in_words(theirs)}",
    )
    whole = [each.cost for each in ours]
    yield Figure(
        f"backup restore, scope {here.scope}, all of it", middle(whole).seconds, "s", None, parts
    )
    yield _peak("restore", whole)


def restored(here: Scene) -> Restored:
    started = time.perf_counter()
    at = [("planned", 0.0)]

    def on_line(line: str) -> None:
        for beginning, part in BEGINNINGS.items():
            if beginning in line and all(part != known for known, _ in at):
                at.append((part, time.perf_counter() - started))

    cost = here.ours("backup", "restore", "latest", "--yes", on_line=on_line)
    here.ours("backup", "restore", "--drop-previous", "--yes")
    ends = [*(when for _, when in at[1:]), cost.seconds]
    parts = {part: end - when for (part, when), end in zip(at, ends, strict=True)}
    return Restored(cost, dict(at)[BEGINNINGS[SWITCHED]], parts)


def _plain_restore(here: Scene, dump: Path) -> Cost:
    _make(here.access, FRESH)
    settings = ["--jobs=2", "--exit-on-error", "--no-password", f"--dbname={FRESH}"]
    cost = here.theirs([here.restore, *settings, dump])
    _make(here.access, None)
    return cost


def _make(access: DatabaseAccess, name: str | None) -> None:
    with access.connect(access.maintenance) as link:
        link.execute(f"DROP DATABASE IF EXISTS {FRESH}")
        if name:
            link.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        link.execute("CHECKPOINT")


def _peak(what: str, costs: list[Cost]) -> Figure:
    peak = max(cost.peak for cost in costs) / MEGABYTE
    return Figure(f"backup {what}, memory of our process at most", peak, "MB", 200)


def _size(here: Scene) -> int:
    with here.access.connect(here.name) as link:
        row = link.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(row[0])
