"""The registry for applications on asyncio: the same, in threads."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from letta_ops.registry.links import Link
from letta_ops.registry.registry import Ensured, Registry


class AsyncRegistry:
    """See `Registry`, whose methods these are; waiting keeps nobody else waiting."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    @classmethod
    def open(cls, database: str, **settings: Any) -> AsyncRegistry:
        """See `Registry.open`."""
        return cls(Registry.open(database, **settings))

    async def get(self, app_agent_id: str, **choices: Any) -> Link:
        return await asyncio.to_thread(self.registry.get, app_agent_id, **choices)

    async def ensure(self, app_agent_id: str, **choices: Any) -> Ensured:
        return await asyncio.to_thread(self.registry.ensure, app_agent_id, **choices)

    async def link(self, app_agent_id: str, letta_agent_id: str, **choices: Any) -> Ensured:
        return await asyncio.to_thread(self.registry.link, app_agent_id, letta_agent_id, **choices)

    async def unlink(self, app_agent_id: str, **choices: Any) -> Link:
        return await asyncio.to_thread(self.registry.unlink, app_agent_id, **choices)

    async def close(self) -> None:
        await asyncio.to_thread(self.registry.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()
