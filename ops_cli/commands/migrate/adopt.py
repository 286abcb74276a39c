"""`letta-ops migrate adopt`: an installation of somebody's own making becomes a stack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.commands.migrate.coming_in import Replace, agree, render_restored, restored
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, Identity, NoSmoke, Yes, by_reference
from ops_cli.output import Part, facts, note_parts, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from backups.catalog import Backup
    from infra.process import Report
    from infra.sensitive import Sensitive
    from infra.stack.deployment import Database, Deployment
    from infra.targets.target import Installation
    from ops_cli.migrations.adopting import Found

# Settings that need no hand: database and key come in, a stack has a password of its own.
BROUGHT_ALONG = (
    "LETTA_PG_",
    "POSTGRES_",
    "LETTA_ENCRYPTION_KEY",
    "LETTA_SERVER_",
    "SECURE",
    "LETTA_DIR",
)


def adopt_installation(
    context: typer.Context,
    *,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="REFERENCE",
            help="The URL of its Postgres: env:VARIABLE, file:PATH or cmd:COMMAND.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Instead: the data folder of its Postgres, which is shut down. A copy is started here.",
        ),
    ] = None,
    container: Annotated[
        str | None,
        typer.Option(
            "--container",
            metavar="NAME",
            help="Instead: the container of its server. Its environment says where the database is, and"
            " has the encryption key.",
        ),
    ] = None,
    encryption_key: Annotated[
        str | None,
        typer.Option(
            "--encryption-key",
            metavar="REFERENCE",
            help="Its LETTA_ENCRYPTION_KEY, where it has one: the stack takes it over.",
        ),
    ] = None,
    in_use: Annotated[
        bool,
        typer.Option(
            "--in-use",
            help="Go on though somebody is connected to it, or its folder was not shut down.",
        ),
    ] = False,
    accept_lost_secrets: Annotated[
        bool, typer.Option("--accept-lost-secrets", help="Go on though no key opens some secrets.")
    ] = False,
    replace: Replace = False,
    identity: Identity = None,
    no_smoke: NoSmoke = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Bring the database of another Letta server into the stack, at the stack's release, with all its
    ids. The database is only read."""
    from ops_cli.migrations.adopting import written_since

    invocation = current(context)
    if [database, data, container].count(None) != 2:  # of the three, all but one
        raise typer.BadParameter(
            "name one of --database, --data and --container", param_hint="--database"
        )
    url = by_reference("--database", database, "the URL of the database") if database else None
    key = (
        by_reference("--encryption-key", encryption_key, "the encryption key")
        if encryption_key
        else None
    )
    server = None
    if container is not None:
        server, named = _named_by(container, in_use=in_use or dry_run)
        url, data = (None, named) if isinstance(named, Path) else (named, None)
        key = key or server.environment.get("LETTA_ENCRYPTION_KEY")
    with _source(invocation, url, data, crashed=in_use) as (source, place):
        with progress(invocation) as report:
            found = _looked_at(
                invocation, source, key, report,
                in_use=in_use or dry_run or data is not None, replace=replace or dry_run,
                accept_lost_secrets=accept_lost_secrets,
            )  # fmt: skip
        if dry_run:
            answer = {"dry_run": True, "source": place, **_told(server), **found.as_json()}
            present(invocation, answer, lambda _: _render_found(found))
            return
        note_parts(_render_found(found))
        agree(invocation, yes=yes, asks=replace or bool(found.others or found.memories))
        backup = _backed_up(invocation, source, found)
    done = restored(
        invocation, backup, identity, ("migrate adopt", place), found.key,
        replace=replace, with_models=not no_smoke, accept_lost_secrets=accept_lost_secrets,
    )  # fmt: skip
    since = written_since(source, found) if data is None else {}
    told = {**_told(server), **found.as_json(), **done.as_json()}
    answer = {"source": place, **told, "written_since": since}
    present(invocation, answer, lambda shown: _render(invocation, shown))


def _named_by(container: str, *, in_use: bool) -> tuple[Installation, Sensitive | Path]:
    """How its server was started, and where its database is."""
    from infra.targets import installation
    from ops_cli.migrations.adopting import database_named_by, ensure_ended

    server = installation(container)
    if not in_use:
        ensure_ended(server)
    return server, database_named_by(server)


def _told(server: Installation | None) -> dict[str, Any]:
    """What a person has to bring along by hand: names of settings, without their values."""
    if server is None:
        return {}
    others = [name for name in server.chosen if not name.startswith(BROUGHT_ALONG)]
    return {"container": server.name, "settings": others, "turn_off": server.stop}


@contextmanager
def _source(
    invocation: Invocation, database: Sensitive | None, data: Path | None, *, crashed: bool
) -> Iterator[tuple[Database, str]]:
    """Yield the database that comes in, and what to call it."""
    from infra.embedded.foreign_cluster import find_cluster, start_copy
    from infra.embedded.throwaway import throwaway_folder, throwaway_parent
    from ops_cli.migrations.adopting import database_at

    if database is not None:
        found = database_at(database)
        yield found, f"{found.host}:{found.port}/{found.name}"
        return
    assert data is not None  # noqa: S101  # one of them is given
    cluster = find_cluster(data.expanduser())
    with ExitStack() as stack:
        with progress(invocation) as report:
            parent = throwaway_parent(invocation.deployment().folder)
            folder = stack.enter_context(throwaway_folder(parent, report))
            report(f"copying {cluster}, and starting the copy")
            found = start_copy(folder, cluster, crashed=crashed)
        yield found, str(cluster)


def _looked_at(
    invocation: Invocation,
    source: Database,
    key: Sensitive | None,
    report: Report,
    *,
    in_use: bool,
    replace: bool,
    accept_lost_secrets: bool,
) -> Found:
    """What the source holds, and that it can come in."""
    from ops_cli.migrations.adopting import look_at
    from ops_cli.migrations.coming_in import ensure_room_for
    from ops_cli.migrations.plan import release_named
    from ops_cli.migrations.status import revisions_of

    deployment = invocation.deployment()
    ensure_room_for(deployment, replaces=replace)
    _ensure_other(deployment, source)
    own = deployment.server.encryption_key
    keys = [each for each in (key, own, *deployment.server.other_keys) if each is not None]
    found = look_at(source, keys, in_use=in_use, accept_lost_secrets=accept_lost_secrets)
    if deployment.release is not None:  # else `ensure_room_for` has refused it
        revisions_of(release_named(deployment.release), report).pending(found.revision)
    return found


def _ensure_other(deployment: Deployment, source: Database) -> None:
    from infra.errors import LettaOpsError

    own = deployment.database
    if own is not None and (own.host, own.port, own.name) == (
        source.host,
        source.port,
        source.name,
    ):
        raise LettaOpsError(
            "source-is-stack",
            f"that is the database of {deployment.called} itself; nothing was changed",
            "name the database of the server that is to come in",
        )


def _backed_up(invocation: Invocation, source: Database, found: Found) -> Backup:
    from ops_cli.commands.backup.store import changing, opened
    from ops_cli.migrations.coming_in import as_deployment, back_up

    deployment, store = opened(invocation)
    other = as_deployment(deployment, source.name, source, found.scope, found.release, found.key)
    with progress(invocation) as report, changing(deployment, store, "migrate adopt", report):
        return back_up(other, store, report)


def _render_found(found: Found) -> Iterator[Part]:
    yield from facts(
        [
            ("holds", ", ".join(f"{number} {words}" for words, number in found.counts.items())),
            ("release", found.release or "one that letta-ops has no name for"),
            ("revision", found.revision),
            ("postgres", f"{found.version}, schema {found.schema}"),
            ("secrets", f"{found.sealed} are encrypted" if found.sealed else None),
            ("connected", f"{found.others} others" if found.others else None),
            ("stays there", f"git memory of {found.memories} agents" if found.memories else None),
        ]
    )


def _render(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    counts = ", ".join(f"{number} {words}" for words, number in answer["counts"].items())
    yield f"the stack holds it, after {answer['seconds']:.1f} s: {counts}"
    if answer["compared_rows"] is not None:
        yield f"  {answer['compared_rows']} rows were compared before and after the migration"
    yield from render_restored(invocation, answer)
    if answer["written_since"]:
        more = ", ".join(f"{number:+} {words}" for words, number in answer["written_since"].items())
        yield f"  WARNING: somebody goes on writing there ({more}), which is not here: stop its server,"
        yield "  and run this again with --replace"
    if answer.get("settings"):
        yield f"  its server was started with {', '.join(answer['settings'])}: set here what you need"
    how = f" (`{answer['turn_off']}`)" if "turn_off" in answer else ""
    yield f"  now turn off the server that uses {answer['source']}{how}, and point its clients here:"
    yield f"  `{invocation.command('profile show')}` has URL and password; agents keep their ids"
