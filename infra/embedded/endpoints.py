"""The state of stacks from before the docker target names `ModelEndpoints` here."""

from infra.providers.endpoints import ModelEndpoints

__all__ = ["ModelEndpoints"]
