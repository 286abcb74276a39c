"""The Letta releases that we know: version -> hash of its source distribution, alembic head, tables."""

from __future__ import annotations

import datetime
from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """One pinned server version. The sdist's hash pins its `uv.lock`, and so every requirement."""

    version: str
    sdist_sha256: str
    alembic_head: str
    tables: frozenset[str]  # with its sequences: what its migrations make, but for the types
    types: frozenset[str]
    end_of_life: datetime.date | None = None  # since when upstream gives no more fixes


RELEASES = {
    "0.16.8": Release(
        version="0.16.8",
        sdist_sha256="363e26989e552c859ce2e7961d484acee6fccfc1e7b16e8f644b1ae1ccd754a3",
        alembic_head="1c28e167b74f",
        tables=frozenset(
            """
            agent_environment_variables agents agents_tags alembic_version archival_passages archives
            archives_agents block block_history blocks_agents blocks_conversations blocks_tags
            conversation_messages conversations file_contents files files_agents groups groups_agents
            groups_blocks identities identities_agents identities_blocks jobs llm_batch_items
            llm_batch_job mcp_oauth mcp_server mcp_tools message_seq_id messages organizations
            passage_tags prompts provider_models provider_trace_metadata provider_traces providers
            run_metrics runs sandbox_configs sandbox_environment_variables source_passages sources
            sources_agents step_metrics steps tools tools_agents users
            """.split()  # noqa: SIM905
        ),
        types=frozenset({"sandboxtype", "stepstatus", "stopreasontype", "vectordbprovider"}),
        end_of_life=datetime.date(2026, 8, 15),
    ),
}


def release_at(revision: str | None) -> Release | None:
    """The release whose schema this is; None for one that we don't know."""
    return next((each for each in RELEASES.values() if each.alembic_head == revision), None)
