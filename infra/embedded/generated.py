"""The state of stacks from before the docker target names `GeneratedValue` here."""

from infra.providers.generated import GeneratedValue

__all__ = ["GeneratedValue"]
