"""What can be configured of a Postgres that is there already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ValidationInfo, model_validator

from infra.sensitive import Sensitive
from infra.stack.database_url import url_problems
from infra.stack.keys import OneOf, Reading, Secret, Section, setting


@dataclass(frozen=True)
class ExternalDatabase:
    """A Postgres that is there already. `direct` goes past a transaction pooler (for migrations)."""

    url: Sensitive
    direct: Sensitive
    reference: str | None = None  # of `direct`, as it was configured: what the profile keeps


class ExternalDatabaseSection(Section):
    """The keys of a target whose stacks may have their own Postgres, or one that is there already."""

    table: ClassVar[str] = "database."
    of_external: ClassVar[tuple[str, ...]] = ("url", "direct_url")  # only for one that is there

    mode: Annotated[Literal["container", "external"], OneOf()] = setting(
        "container", "a Postgres of the stack's own, or one that is there already"
    )
    url: Annotated[Sensitive | None, Secret()] = setting(None, "of the external database")
    direct_url: Annotated[Sensitive | None, Secret()] = setting(
        None, "the same, past a transaction pooler: for migrations and backups"
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, values: Any, info: ValidationInfo) -> Any:
        """What is for an external database is not even read without one: it may run a command."""
        mode = str(values.get("mode") or "container").lower()
        if not isinstance(info.context, Reading) or mode != "container":
            return values
        unused = [name for name in cls.of_external if name in values]
        info.context.problems.extend(
            f"database.{name}: is set, but database.mode is not external" for name in unused
        )
        return {name: value for name, value in values.items() if name not in unused}

    def contradictions(self) -> Iterator[str]:
        if self.mode != "external":
            return
        if self.url is None:
            yield "database.url: is missing; database.mode is external"
        for name, url in (("url", self.url), ("direct_url", self.direct_url)):
            if url is not None:
                yield from (f"database.{name}: {problem}" for problem in url_problems(url))

    def external(self, references: Mapping[str, str]) -> ExternalDatabase | None:
        """The database, where it is not the stack's own; `references` are the stack's, by key."""
        if self.mode != "external" or self.url is None:
            return None
        named = "database.direct_url" if self.direct_url else "database.url"
        return ExternalDatabase(self.url, self.direct_url or self.url, references.get(named))
