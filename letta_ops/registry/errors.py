"""What can go wrong with a registry, each kind a type: an application knows which it can stand."""

from __future__ import annotations

from typing import ClassVar

from infra.errors import LettaOpsError


class RegistryError(LettaOpsError):
    """Any failure of the registry; nothing was made and nothing changed, unless a type says otherwise.

    `CODE` is its `code`.
    """

    CODE: ClassVar[str] = "registry"

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(self.CODE, message, hint)

    def __reduce__(self) -> tuple[type[RegistryError], tuple[str, str]]:  # type: ignore[override]
        return type(self), (self.message, self.hint)


class KeyRefused(RegistryError):
    """The application's name or id can't be kept exactly as given."""

    CODE = "id-refused"


class NoLink(RegistryError):
    """There is no link for this id."""

    CODE = "no-link"


class AgentGone(RegistryError):
    """There is a link, and the server itself says that its agent is not there."""

    CODE = "agent-gone"


class AlreadyLinked(RegistryError):
    """The id has another agent."""

    CODE = "already-linked"


class AgentClaimed(RegistryError):
    """The agent belongs to another id, or application."""

    CODE = "agent-claimed"


class AgentsDuplicated(RegistryError):
    """The server has several agents that were made for one id: somebody has to choose."""

    CODE = "agents-duplicated"


class StillMaking(RegistryError):
    """Somebody else is making the agent, and has not come to an end: ask again."""

    CODE = "still-making"


class ServerUnavailable(RegistryError):
    """The server gave no answer, or none that tells what is so: nobody knows whether an agent is there.

    `under_way`: what was asked may still come to an end there.
    """

    CODE = "server-unavailable"

    def __init__(self, message: str, hint: str, *, under_way: bool = True) -> None:
        super().__init__(message, hint)
        self.under_way = under_way


class ServerRefused(RegistryError):
    """The server answered that it won't: wrong password, unknown model."""

    CODE = "server-refused"


class TemplateWrong(RegistryError):
    """The file with which an agent is to be made says something that none can be made of."""

    CODE = "template"


class RegistryUnavailable(RegistryError):
    """The registry itself can't be read or written: its database doesn't answer, or doesn't let us."""

    CODE = "registry-unavailable"
