"""Agents in and out, against what a user would otherwise run: loops over the API, a whole restore."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.backup_scene import SCALE, Scene, scene
from benchmarks.backups import MEGABYTE, restored
from benchmarks.stage import Figure
from infra.api import authorized_http
from tests.live.machine import ROOT, Machine, Stack

CLIENTS = 8
FILES = 100
HANDLES = {"model": "openai-proxy/fake", "embedding": "openai/text-embedding-3-small"}


def measure(machine: Machine) -> Iterator[Figure]:
    with scene(machine, "agents", SCALE) as here:
        agents = here.stack.json("agent", "list")
        yield from _archive(here, agents)
        yield from _exit(here, agents)
        yield from _out_of_a_backup(here, str(agents[-1]["id"]))
        yield from _import(here.stack)


def _archive(here: Scene, agents: list[dict[str, str]]) -> Iterator[Figure]:
    folder = here.stack.machine.root / "exported"
    folder.mkdir()
    every = here.ours("agent", "archive", "--all", "-o", str(folder / "all.agents"))
    size = (folder / "all.agents").stat().st_size / MEGABYTE
    tenth = [agent["id"] for agent in agents[: max(1, len(agents) // 10)]]
    some = here.ours("agent", "archive", *tenth, "-o", str(folder / "some.agents"))
    loop = _export_loop(here.stack, [agent["id"] for agent in agents], folder)
    yield Figure(
        f"agent archive --all ({len(agents)} agents) against a loop over the API's export,"
        f" {CLIENTS} clients",
        every.seconds / loop,
        "x",
        0.05,
        f"ours {every} for {size:.0f} MB; theirs {loop:.1f} s",
    )
    for count, cost in ((len(tenth), some), (len(agents), every)):
        yield Figure(
            f"agent archive, memory of our process, {count} agents", cost.peak / MEGABYTE, "MB", 200
        )


def _export_loop(stack: Stack, agents: list[str], folder: Path) -> float:
    started = time.perf_counter()
    with authorized_http(stack.deployment, 600) as client, ThreadPoolExecutor(CLIENTS) as pool:

        def export(agent: str) -> None:
            answer = client.get(f"/v1/agents/{agent}/export")
            assert answer.status_code == 200, answer.text
            (folder / f"{agent}.af").write_bytes(answer.content)

        list(pool.map(export, agents))
    return time.perf_counter() - started


def _exit(here: Scene, agents: list[dict[str, str]]) -> Iterator[Figure]:
    """Into the successor's store, against an archive of the same agents: nobody else has a way there."""
    folder = here.stack.machine.root / "left"
    folder.mkdir()
    archived = here.ours("agent", "archive", "--all", "-o", str(folder / "all.agents"))
    every = here.ours("exit", "export", "--all", "--to", str(folder / "every"))
    verified = here.ours("exit", "verify", str(folder / "every"))
    tenth = [agent["id"] for agent in agents[: max(1, len(agents) // 10)]]
    chosen = [word for agent in tenth for word in ("--agent", agent)]
    some = here.ours("exit", "export", *chosen, "--to", str(folder / "some"))
    yield Figure(
        f"exit export --all ({len(agents)} agents) against agent archive --all",
        every.seconds / archived.seconds,
        "x",
        2,
        f"ours {every}, a file system full of files; an archive, one file: {archived}",
    )
    yield Figure(
        "exit verify against the export", verified.seconds / every.seconds, "x", 1, f"{verified}"
    )
    for count, cost in ((len(tenth), some), (len(agents), every)):
        yield Figure(
            f"exit export, memory of our process, {count} agents", cost.peak / MEGABYTE, "MB", 200
        )


def _out_of_a_backup(here: Scene, agent: str) -> Iterator[Figure]:
    here.ours("backup", "create")
    parts: list[tuple[str, float]] = []
    started = time.perf_counter()

    def on_line(line: str) -> None:
        parts.append((line.partition("] ")[2].strip()[:40], time.perf_counter() - started))

    words = ("agent", "restore", "--backup", "latest", "--agent", agent, "--new-ids")
    one = here.ours(*words, on_line=on_line)
    whole = restored(here)
    yield Figure(
        "one agent out of a backup in S3 against restoring the whole backup until it switches",
        one.seconds / whole.until_switched,
        "x",
        0.25,
        f"ours {one}; theirs {whole.until_switched:.1f} s; "
        + ", ".join(f"{at:.1f} s {what}" for what, at in parts),
    )
    yield Figure("one agent out of a backup, memory of our process", one.peak / MEGABYTE, "MB", 200)


def _import(stack: Stack) -> Iterator[Figure]:
    folder = stack.machine.root / "imported"
    folder.mkdir()
    document = json.loads((ROOT / "docs" / "example.af").read_text())
    for number in range(FILES):
        document["agents"][0]["name"] = f"imported-{number}"
        (folder / f"{number:03}.af").write_text(json.dumps(document))
    started = time.perf_counter()
    words = [word for name, value in HANDLES.items() for word in (f"--{name}", value)]
    stack.json("agent", "import", str(folder), *words)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    with authorized_http(stack.deployment, 600) as client:
        for path in sorted(folder.iterdir()):
            client.post(
                "/v1/agents/import",
                files={"file": (path.name, path.read_bytes(), "application/json")},
                data={**HANDLES, "append_copy_suffix": "true"},
            ).raise_for_status()
    loop = time.perf_counter() - started
    yield Figure(
        f"agent import of {FILES} files against a plain loop over the API",
        ours / loop,
        "x",
        1.1,
        f"ours {ours:.1f} s, judged and removed when they fail; theirs {loop:.1f} s",
    )
