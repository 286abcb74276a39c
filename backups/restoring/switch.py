"""The switch from the live database and memory to the restored ones, and the way back from anywhere.

Changing places is one transaction. Which of them lives is read from the number of the restored one, so
that going back needs to know nothing but the journal, also after `kill -9` at any line.
"""

from __future__ import annotations

import datetime as dt
import uuid

from backups.restoring.clusters import go_back_to_cluster
from backups.restoring.generations import Generations, Moves, generations_of
from backups.restoring.journal import Journal, journal_file, read_journal
from backups.restoring.scratch import remove_leftovers
from backups.restoring.upgrades import forget_upgrade
from backups.sources.memory_files import MemoryPlace
from infra.audit.log import Event
from infra.audit.trail import append
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.servers import remove_standby, start_server, stop_server
from infra.stack.deployment import Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.stack.locations import stack_folder
from infra.stack.profile import ADOPTED_KEY, ENCRYPTION_KEY, remember
from infra.stack.secrets import kept_value


def moves_of(generations: Generations, journal: Journal) -> Moves:
    """How what was restored takes the place of what is live, which is kept as `previous`.

    What an earlier restore has replaced stays too, as `older`, until this one is proven.
    """
    moves = [(journal.side, journal.name)]
    if journal.had_database:
        moves.insert(0, (journal.name, journal.previous))
    if generations.exists(journal.previous):
        moves.insert(0, (journal.previous, journal.older))
    return moves


def go_back(deployment: Deployment, journal: Journal, report: Report) -> None:
    """Make everything as it was before the restore; safe to run again, and from any point of it.

    What was restored and served for a moment is kept as `undone`: somebody may have written to it.
    Raises LettaOpsError when that is not possible now; the journal stays until it was.
    """
    if journal.cluster is not None:
        go_back_to_cluster(deployment, journal.cluster, report)
        return
    report("going back: the server is stopped, and what was there before takes its place again")
    remove_standby(deployment)
    stop_server(deployment)
    changed: list[str] = []
    with generations_of(deployment, journal.scope, journal.name) as generations:
        switched = _prepared(generations, journal)
        if generations.name_of(journal.side_oid) == journal.side:
            _set_aside(generations, journal)
        if generations.name_of(journal.side_oid) == journal.name:
            generations.drop(journal.side)  # not that one: of an earlier time
            changed = generations.exchange(moves_back(generations, journal))
            changed += carried(generations, journal.undone, journal.name)
        elif journal.undoes and not generations.exists(journal.name):
            changed = generations.exchange([(journal.previous, journal.name)])
        try:
            generations.drop(journal.side)
        except LettaOpsError as error:
            if error.code not in ("database-foreign", "database-in-use"):
                raise
            changed.append(
                f"{journal.side} stays: {error.message}"
            )  # it keeps nobody from going back
    for line in changed:
        report(f"database: {line}")
    if journal.had_memory:
        MemoryPlace.of(deployment).undo()
    _serve_as_before(deployment, journal, report, switched=switched)
    if journal.release is not None:
        forget_upgrade(deployment)
    journal_file(deployment).unlink(missing_ok=True)
    report("going back: done, the server runs with what it had before")


def _prepared(generations: Generations, journal: Journal) -> bool:
    """See to a copy that was killed before it could be marked; return whether the other database has been
    the live one."""
    if journal.release is not None:
        generations.end_copies(journal.side)
        if generations.exists(journal.side):
            generations.adopt(journal.side)
    return generations.name_of(journal.side_oid) in (journal.name, journal.undone)


def _serve_as_before(
    deployment: Deployment, journal: Journal, report: Report, *, switched: bool
) -> None:
    """Start the server with the keys, and of the release, that it had; `switched`: the other database
    has been the live one, and so another release may be there."""
    if journal.old_keys is not None and deployment.profile is not None:
        remember(deployment.profile, journal.old_keys)
        _adopt(deployment)
    release = journal.release is not None and switched
    if journal.old_keys is not None or journal.provisions or release:
        from infra.provision import Request, Schema, up
        from infra.pulumi_cli.project import configured

        config = {} if journal.release is None else {"release": journal.release}
        if config.items() <= configured(stack_folder(deployment.stack)).items():
            config = {}  # nothing has to be written
        schema: Schema = "migrate" if journal.release is None else "leave"
        up(Request(deployment.stack, config, held=True, schema=schema), report)
        if journal.release is None:
            return
    # Without a database none will answer; it is tried as often as its keeper does.
    start_server(deployment, wait=journal.had_database)


def carried(generations: Generations, source: str, target: str) -> list[str]:
    """Take records and links along to what is live now; what can't be keeps nobody from going on, and is
    returned in words."""
    import psycopg

    try:
        if generations.exists(source) and generations.exists(target):
            generations.carry_records(source, target)
    except (psycopg.Error, LettaOpsError) as error:
        return [f"records and links of the last minutes stay in {source}: {error}"]
    return []


def _set_aside(generations: Generations, journal: Journal) -> None:
    """Of a restore whose switch did not come to pass: it is dropped, unless it had clients."""
    generations.adopt(journal.side)  # whoever wrote the journal has made it
    if journal.has_standby:
        generations.drop(journal.undone)
        generations.exchange([(journal.side, journal.undone)])


def _adopt(deployment: Deployment) -> None:
    """Say that the key in the profile belongs to the data, though `up` may know the backup's by now."""
    folder, profile = deployment.folder, deployment.profile
    if folder is not None and profile is not None:
        key = kept_value(folder, ENCRYPTION_KEY)
        adopted = None if key is None else key_fingerprint(Sensitive(key))
        remember(profile, {ADOPTED_KEY: adopted})


def moves_back(generations: Generations, journal: Journal) -> Moves:
    """How what a restore has replaced lives again, and what it brought is kept as `undone`."""
    moves = [(journal.name, journal.undone)]
    if generations.exists(journal.undone):  # of an earlier time: it goes with the side one
        moves.insert(0, (journal.undone, journal.side))
    if journal.had_database:
        moves.append((journal.previous, journal.name))
    if generations.exists(journal.older):
        moves.append((journal.older, journal.previous))
    return moves


def finish_interrupted(deployment: Deployment, report: Report) -> None:
    """Undo a restore that was killed in the middle, if there is one. The caller holds the lock.

    The undoing of a proven one is finished when it had begun, else forgotten.
    """
    remove_leftovers(deployment, report)
    journal = read_journal(deployment)
    if journal is None:
        return
    if journal.proven:
        report(f"{_what(journal)} was killed after it had taken effect")
        _record(deployment, journal)
        journal_file(deployment).unlink()
    elif not journal.undoes:
        report(f"{_what(journal)} was interrupted before it was proven")
        go_back(deployment, journal, report)
    elif has_begun(deployment, journal):
        report("the undoing of a restore was interrupted: it goes on")
        go_back(deployment, journal, report)
    else:
        report("the undoing of a restore was interrupted before anything was changed")
        forget(deployment)


def _what(journal: Journal) -> str:
    if journal.migrates:
        return f"an earlier migration ({journal.backup})"
    return f"an earlier restore (of {journal.backup})"


def _record(deployment: Deployment, journal: Journal) -> None:
    """See to it that the audit trail tells of a restore whose command can't any more."""
    event = Event(
        "migrate apply" if journal.migrates else "backup restore",
        journal.backup,
        "done",
        dt.datetime.now(dt.UTC),
        0.0,
        {"backup": journal.backup, "killed": "after it had taken effect"},
        id=uuid.UUID(journal.record) if journal.record else uuid.uuid4(),
    )
    append(deployment, event)


def has_begun(deployment: Deployment, journal: Journal) -> bool:
    """Whether undoing a proven restore has changed anything: the databases come first."""
    with generations_of(deployment, journal.scope, journal.name) as generations:
        return generations.name_of(journal.side_oid) != journal.name


def forget(deployment: Deployment) -> None:
    """End an undoing that has not begun: the server, which it stopped, runs again."""
    start_server(deployment)
    journal_file(deployment).unlink(missing_ok=True)
