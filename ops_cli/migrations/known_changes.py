"""What a migration is known to change in what was there: read in its script, and seen.

Whoever adds a release reads its migrations that drop, rewrite or write (`letta-ops migrate plan` marks
them), and says here what becomes of the data. What stands here is told and is no failure: so it is only
what loses nothing, or what nobody misses.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownChange:
    """`column` None: the table as a whole, when it goes or loses rows."""

    revision: str
    table: str
    column: str | None
    why: str

    def explains(self, table: str, column: str | None) -> bool:
        return (table, column) == (self.table, self.column)


JOBS = "runs take the place of jobs; what a job was is still in `jobs`, what it said in `messages`"

KNOWN_CHANGES = (
    KnownChange("567e9fe06270", "job_messages", None, JOBS),
    KnownChange("567e9fe06270", "agents_runs", None, JOBS),
    KnownChange("567e9fe06270", "steps", "job_id", JOBS),
    KnownChange("567e9fe06270", "step_metrics", "job_id", JOBS),
    KnownChange(
        "9fa274fb0b83",
        "agents",
        "hidden",
        "agents with the tag role:subagent are hidden from lists from now on",
    ),
)


def known_changes(revisions: Collection[str]) -> list[KnownChange]:
    """What these revisions are known to change."""
    return [each for each in KNOWN_CHANGES if each.revision in revisions]
