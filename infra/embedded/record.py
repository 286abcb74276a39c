"""The state of stacks from before the docker target names `ProfileRecord` here."""

from infra.providers.record import ProfileRecord

__all__ = ["ProfileRecord"]
