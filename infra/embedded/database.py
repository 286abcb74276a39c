"""The state of stacks from before the docker target names `LettaDatabase` here."""

from infra.providers.database import LettaDatabase

__all__ = ["LettaDatabase"]
