"""The Letta releases that we know: hashes, schemas, what changes between them, what is wrong with them.

`tools/release_facts.py VERSION` prints what a further one needs here.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass

from infra.errors import LettaOpsError

OTHER_SCHEMA = "LETTA_OPS_OTHER_SCHEMA"  # tells a run of Pulumi: refuse, migrate, or leave it alone
END_OF_LIFE = datetime.date(2026, 8, 15)  # of the whole V1 server: upstream gives no more fixes


@dataclass(frozen=True)
class Weakness:
    """A published weakness that no release mends, and what stands in its way."""

    id: str
    what: str
    mitigation: str
    setting: str | None = None  # the server's variable that is the mitigation; None: there is none


# https://github.com/letta-ai/letta/pull/2630, and the entry of CVE-2026-4964 in NVD
WEAKNESSES = (
    Weakness(
        "CVE-2025-51482",
        "POST /v1/tools/run executes code for whoever may call it",
        "nobody is let in without the server's password",
        "LETTA_SERVER_SECURE",
    ),
    Weakness(
        "CVE-2026-4964",
        "the URL of an image in a message is fetched by the server, also one of its own network",
        "none in the server: give its password to nobody who may not reach what it reaches",
    ),
)


@dataclass(frozen=True)
class Release:
    """One pinned server version. The sdist's hash pins its `uv.lock`, and so every requirement."""

    version: str
    sdist_sha256: str
    alembic_head: str
    tables: frozenset[str]  # with its sequences: what its migrations make, but for the types
    types: frozenset[str]
    published: datetime.date | None = None
    python: str = ">=3.11,<3.14"
    breaks: tuple[str, ...] = ()  # what whoever comes from the release before has to know
    end_of_life: datetime.date | None = END_OF_LIFE
    weaknesses: tuple[Weakness, ...] = WEAKNESSES

    @property
    def number(self) -> tuple[int, ...]:
        return release_number(self.version)


TYPES = frozenset({"sandboxtype", "stepstatus", "stopreasontype", "vectordbprovider"})
SINCE_0_11 = frozenset(
    """
    agent_environment_variables agents agents_tags alembic_version archival_passages archives
    archives_agents block block_history blocks_agents file_contents files files_agents groups
    groups_agents groups_blocks identities identities_agents identities_blocks jobs llm_batch_items
    llm_batch_job mcp_oauth mcp_server message_seq_id messages organizations passage_tags prompts
    provider_traces providers sandbox_configs sandbox_environment_variables source_passages sources
    sources_agents step_metrics steps tools tools_agents users
    """.split()  # noqa: SIM905
)
SINCE_0_13 = SINCE_0_11 | {"mcp_tools", "run_metrics", "runs"}
SINCE_0_15 = SINCE_0_13 | {"provider_models"}
SINCE_0_16_7 = SINCE_0_15 | {
    "blocks_conversations", "blocks_tags", "conversation_messages", "conversations",
    "provider_trace_metadata",
}  # fmt: skip

# The newest first: of those that share a schema, it is the one that is meant.
RELEASES = {
    each.version: each
    for each in (
        Release(
            version="0.16.8",
            sdist_sha256="363e26989e552c859ce2e7961d484acee6fccfc1e7b16e8f644b1ae1ccd754a3",
            alembic_head="1c28e167b74f",
            tables=SINCE_0_16_7,
            types=TYPES,
            published=datetime.date(2026, 5, 14),
        ),
        Release(
            version="0.16.7",
            sdist_sha256="f7acef8f3e9bbbbf63582208f6ebf0ad9cd11869c79b204adaa20c9c3a0633b8",
            alembic_head="1c28e167b74f",
            tables=SINCE_0_16_7,
            types=TYPES,
            published=datetime.date(2026, 3, 31),
            breaks=(
                "agents have conversations: messages of an agent are those of its default one",
            ),
        ),
        Release(
            version="0.16.0",
            sdist_sha256="e8c0855a6396dd9255fc75ff3088cf10f67c36fc42961e1714c39d99c913de02",
            alembic_head="d0880aae6cee",
            tables=SINCE_0_15,
            types=TYPES,
            published=datetime.date(2025, 12, 15),
        ),
        Release(
            version="0.15.1",
            sdist_sha256="9f890f3a457b5f8947d06aeef102449852084f5db47c9e6898ff8240ebaa46ea",
            alembic_head="b1c2d3e4f5a6",
            tables=SINCE_0_15,
            types=TYPES,
            published=datetime.date(2025, 11, 26),
        ),
        Release(
            version="0.13.0",
            sdist_sha256="95757449422d6cbc2d338dfe9f4f005e5b853cada73ba07429d94bfe5d719d89",
            alembic_head="f6cd5a1e519d",
            tables=SINCE_0_13,
            types=TYPES,
            published=datetime.date(2025, 10, 24),
            breaks=(
                "it starts on Postgres only: 0.11.7 is the last one that runs on SQLite",
                "agent files of format 1 are refused: `letta-ops agent convert` makes format 2 of them",
            ),
        ),
        Release(
            version="0.11.7",
            sdist_sha256="d5123d19fe5ef1389eb9bee580a254cc159459b1da6ae0bd6faab74f2fb2bce7",
            alembic_head="ddb69be34a72",
            tables=SINCE_0_11 | {"job_messages", "job_messages_id_seq"},
            types=TYPES,
            published=datetime.date(2025, 9, 4),
        ),
    )
}
NEWEST = next(iter(RELEASES))


def release_number(version: str) -> tuple[int, ...]:
    """A version, to be compared with others."""
    return tuple(int(word) for word in re.findall(r"\d+", version))


def release_at(revision: str | None) -> Release | None:
    """The newest release whose schema this is; None for one that we don't know."""
    return next((each for each in RELEASES.values() if each.alembic_head == revision), None)


def breaks_between(old: Release | None, new: Release) -> Iterator[str]:
    """What breaks on the way from `old` to `new`, in the order of the releases."""
    after = old.number if old else ()
    for release in reversed(RELEASES.values()):
        if after < release.number <= new.number:
            yield from (f"{release.version}: {each}" for each in release.breaks)


def needs_migration(here: str | None, revision: str, wanted: str) -> LettaOpsError:
    """Nobody's data is migrated because a line of the configuration has changed. `here`: the database's
    release, None for one that isn't known."""
    down = here is not None and release_number(here) > release_number(wanted)
    if down:
        way = "there is no way down but `letta-ops migrate rollback`, or a backup of that time"
    else:
        way = (
            f"rehearse and apply it, with a way back: `letta-ops migrate rehearse --to {wanted}`,"
            f" `letta-ops migrate apply --to {wanted}`; or without: `letta-ops up --migrate`"
        )
        if here is not None:
            way = f"leave the configuration at release={here}, and {way}"
    name = f"Letta {here}" if here else "another release"
    return LettaOpsError(
        "migration-needed",
        f"the database is of {name} (revision {revision}), and Letta {wanted} has another schema;"
        " nothing was changed",
        way,
    )
