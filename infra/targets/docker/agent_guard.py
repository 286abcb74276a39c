"""Agents must not vanish with an update: counted before it begins, and by every new server."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

from infra.database.claim import claimed_by, foreign
from infra.errors import LettaOpsError
from infra.files import write_file
from infra.stack.locations import StackFolder
from infra.targets.docker.postgres import administrator


def count_before(folder: StackFolder, place: Mapping[str, Any], deployment: str) -> None:
    """Keep how many agents there are now; an unreachable database leaves what was kept before.

    Raises LettaOpsError (`foreign-database`) when the database belongs to another deployment.
    """
    _forget_live(folder)
    try:
        with administrator(place) as link:
            found = claimed_by(link)
            if found is not None and found != deployment:
                raise foreign(found, deployment)
            there = link.execute("SELECT to_regclass('agents')::text").fetchone()
            if there is None or there[0] is None:
                return
            row = link.execute("SELECT count(*) FROM agents WHERE NOT is_deleted").fetchone()
    except LettaOpsError as error:
        if error.code == "foreign-database":
            raise
        return
    _keep(folder, 0 if row is None else int(row[0]))


def _keep(folder: StackFolder, agents: int) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = json.dumps({"agents": agents, "counted_at": now, "live": True})
    write_file(folder.agent_count, text + "\n", 0o600)


def _forget_live(folder: StackFolder) -> None:
    """Note that the count is from an earlier run: until then agents may have been deleted."""
    known = _kept(folder)
    if known is not None:
        write_file(folder.agent_count, json.dumps({**known, "live": False}) + "\n", 0o600)


def ensure_not_fewer(folder: StackFolder, agents: int) -> None:
    """Raise LettaOpsError (`agents-missing`) when `agents` are fewer than were counted before.

    A count of an earlier run is only held against a database that is empty now.
    """
    known = _kept(folder)
    if known is None:
        return
    before = int(known["agents"])
    fell = agents < before if known.get("live") else agents == 0 < before
    if fell:
        raise missing(folder, agents, before, f"at {known['counted_at']}")


def missing(folder: StackFolder, agents: int, before: int, where: str) -> LettaOpsError:
    return LettaOpsError(
        "agents-missing",
        f"the new server sees {agents} agents, and there were {before} {where}: it was not"
        " switched to",
        "find out which database it uses (`letta-ops check`); if the agents were deleted on"
        f" purpose, remove {folder.agent_count} and run the same command again",
    )


def _kept(folder: StackFolder) -> dict[str, Any] | None:
    try:
        return dict(json.loads(folder.agent_count.read_text()))
    except (OSError, ValueError):
        return None
