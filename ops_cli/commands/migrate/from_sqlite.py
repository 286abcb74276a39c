"""`letta-ops migrate from-sqlite`: what a server of Letta 0.11 keeps in a file becomes a stack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.commands.migrate.coming_in import Replace, agree, render_restored, restored
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, Identity, NoSmoke, Yes
from ops_cli.output import Part, Table, note_parts, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from infra.stack.deployment import Deployment
    from ops_cli.migrations.sqlite.loading import Loaded, Problem

SHOWN = 20


def bring_from_sqlite(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file: ~/.letta/sqlite.db, usually.")
    ],
    *,
    mend: Annotated[
        bool,
        typer.Option(
            "--mend",
            help="Replace what Postgres refuses, leave out what can't be, and write down what it was.",
        ),
    ] = False,
    replace: Replace = False,
    identity: Identity = None,
    no_smoke: NoSmoke = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Bring what a server of Letta 0.11 keeps in SQLite into the stack, compared row by row. The file is
    not written to."""
    invocation = current(context)
    answer = _brought(
        invocation, file.expanduser(), identity, mend=mend, replace=replace,
        with_models=not no_smoke, dry_run=dry_run, yes=yes,
    )  # fmt: skip
    present(invocation, answer, lambda shown: _render(invocation, shown))


def _brought(
    invocation: Invocation,
    file: Path,
    identity: str | None,
    *,
    mend: bool,
    replace: bool,
    with_models: bool,
    dry_run: bool,
    yes: bool,
) -> dict[str, Any]:
    from backups.manifest import LETTA
    from ops_cli.commands.backup.store import changing, opened
    from ops_cli.migrations.coming_in import as_deployment, back_up, ensure_room_for
    from ops_cli.migrations.from_sqlite import LAST_ON_SQLITE, in_postgres

    deployment, store = opened(invocation)
    ensure_room_for(deployment, replaces=replace or dry_run)
    with progress(invocation) as report, in_postgres(deployment, file, report, mend=mend) as found:
        database, loaded = found
        answer = {"file": str(file), **_as_json(loaded)}
        _ensure(loaded, file, mend=mend)
        if dry_run:
            return {"dry_run": True, **answer}
        note_parts(_render_found(loaded.rows, loaded.problems))
        agree(invocation, yes=yes, asks=replace or bool(loaded.problems))
        answer["left_out"] = _written_down(deployment, loaded)
        release = LAST_ON_SQLITE.version
        source = as_deployment(deployment, "sqlite", database, LETTA, release, None)
        with changing(deployment, store, "migrate from-sqlite", report):
            backup = back_up(source, store, report)
    done = restored(
        invocation, backup, identity, ("migrate from-sqlite", str(file)), None,
        replace=replace, with_models=with_models,
    )  # fmt: skip
    return {**answer, **done.as_json()}


def _ensure(loaded: Loaded, file: Path, *, mend: bool) -> None:
    """Raise LettaOpsError (`rows-refused`) where something of the file has no place in Postgres."""
    from ops_cli.output import UnsuccessfulError

    bad = loaded.refused if mend else loaded.problems
    if not bad:
        return
    lines = [f"  - {each}" for each in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"  and {len(bad) - SHOWN} more: --dry-run --json has all")
    hint = (
        "mend these in a copy of the file, then give that one"
        if mend
        else "--mend replaces what it can, leaves out the rest, and says of each what it was; --dry-run"
        " --mend shows it"
    )
    raise UnsuccessfulError(
        "rows-refused",
        "\n".join(
            [f"{len(bad)} things of {file} can't come as they are; nothing was changed:", *lines]
        ),
        hint,
        _as_json(loaded),
    )


def _written_down(deployment: Deployment, loaded: Loaded) -> str | None:
    """Keep what is left out, a row a line, and return the file."""
    import datetime as dt
    import json

    from infra.files import write_private
    from infra.stack.locations import stack_folder

    lines = [*loaded.left_out, *loaded.replaced]
    if not lines:
        return None
    name = f"left-out-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.jsonl"
    path = stack_folder(deployment.stack).root / name
    write_private(path, "".join(f"{json.dumps(each)}\n" for each in lines))
    return str(path)


def _as_json(loaded: Loaded) -> dict[str, Any]:
    return {
        "rows": loaded.rows,
        "problems": [each.as_json() for each in loaded.problems],
        "rows_left_out": len(loaded.left_out),
    }


def _render_found(rows: dict[str, int], problems: Sequence[Problem]) -> Iterator[Part]:
    from ops_cli.migrations.contents import counts_of

    counts = ", ".join(f"{number} {words}" for words, number in counts_of(rows).items())
    yield f"the file holds {counts}; {sum(rows.values())} rows of {len(rows)} tables come along"
    if not problems:
        return
    kinds = Counter((each.table, each.column or "", _kind(each)) for each in problems)
    yield Table(
        ("table", "column", "what", "times"),
        [(table, column, what, str(times)) for (table, column, what), times in kinds.items()][
            :SHOWN
        ],
    )
    for each in problems[:SHOWN]:
        yield f"  {each}"


def _kind(problem: Problem) -> str:
    return problem.mend or "refused"


def _render(invocation: Invocation, answer: dict[str, Any]) -> Iterator[Part]:
    from ops_cli.migrations.sqlite.loading import Problem

    yield from _render_found(answer["rows"], [Problem(**each) for each in answer["problems"]])
    if answer.get("dry_run"):
        yield "nothing was changed"
        return
    yield f"the stack holds it, after {answer['seconds']:.1f} s; every row was compared"
    if answer["left_out"]:
        yield f"  what was left out or replaced is written down: {answer['left_out']}"
    yield from render_restored(invocation, answer)
    yield "  stop the server that used the file: what it writes from now on does not come along"
