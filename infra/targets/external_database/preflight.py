"""Before anything is made on a Postgres that is there already: can it be used, from here and there?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.database.claim import claimed_by
from infra.database.connection import connection
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.database_url import as_document, secrets_of
from infra.stack.deployment import database_from_url
from infra.targets.external_database import migrate, probe
from infra.targets.external_database.rules import Problem, Wanted, as_error, problems

if TYPE_CHECKING:
    import psycopg

# For Letta's interpreter, where its servers run.
PROBE = Path(probe.__file__)
MIGRATE = Path(migrate.__file__)
# Hands `PROBE` what it is asked (and where the release's migrations are), and returns its document; the
# second are the secrets in it.
Look = Callable[[Mapping[str, Any], tuple[Sensitive, ...]], Mapping[str, Any]]


def ensure_fit(
    url: Sensitive,
    direct: Sensitive,
    wanted: Wanted,
    look: Look,
) -> None:
    """Raise LettaOpsError with everything that speaks against the database."""
    asked = {"servers": as_document(url), "direct": as_document(direct)}
    found = problems(look(asked, secrets_of(url, direct)), wanted)
    # What the servers don't reach either has been told already, and so has whose it is.
    if not found and (here := from_here(direct)):
        found.append(here)
    if found:
        raise as_error(found)


def from_here(direct: Sensitive) -> Problem | None:
    """The migrations' lock, claims and checks go from this machine, not from the servers'."""
    import psycopg

    try:
        with owner_session(direct) as link:
            claimed_by(link)
    except psycopg.errors.InsufficientPrivilege as error:
        return Problem(
            "foreign-database",
            f"the database belongs to another deployment: {error.diag.message_primary}",
            "name this deployment's own database",
        )
    except LettaOpsError as error:
        return Problem(
            "database-unreachable",
            f"from this machine: {error.message}",
            "letta-ops itself speaks to the database too: correct the URL, or let this machine in"
            " (firewall, security group); database.direct_url must work here and in a container",
        )
    return None


@contextmanager
def owner_session(url: Sensitive) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection of the database's one role, which may change all of Letta's in it."""
    database = database_from_url(url)
    with connection(database.connection(database.owner)) as link:
        yield link
