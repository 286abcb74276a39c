"""The registry: an application asks for *its* agent, and gets the right one or a clear error.

    with Registry.open("postgresql://...", server="http://...", password="...", app="shop") as registry:
        agent = registry.ensure("customer-7").letta_agent_id

See `letta_ops.registry.registry.Registry`, and docs/registry.md.
"""

from __future__ import annotations

from letta_ops.registry.errors import (
    AgentClaimed,
    AgentGone,
    AgentsDuplicated,
    AlreadyLinked,
    KeyRefused,
    NoLink,
    RegistryError,
    RegistryUnavailable,
    ServerRefused,
    ServerUnavailable,
    StillMaking,
    TemplateWrong,
)
from letta_ops.registry.links import Link
from letta_ops.registry.registry import Ensured, Registry
from letta_ops.registry.registry_async import AsyncRegistry
from letta_ops.registry.template import Template

__all__ = [
    "AgentClaimed",
    "AgentGone",
    "AgentsDuplicated",
    "AlreadyLinked",
    "AsyncRegistry",
    "Ensured",
    "KeyRefused",
    "Link",
    "NoLink",
    "Registry",
    "RegistryError",
    "RegistryUnavailable",
    "ServerRefused",
    "ServerUnavailable",
    "StillMaking",
    "Template",
    "TemplateWrong",
]
