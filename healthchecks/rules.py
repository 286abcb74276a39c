"""Judging what the probes saw: pure functions, each verdict with its reason and the next step."""

from __future__ import annotations

from backups.humanize import size_in_words
from healthchecks.model import State, Thresholds, Verdict
from healthchecks.probes.api import ApiAnswer
from healthchecks.probes.authentication import Strangers
from healthchecks.probes.database import Kept, Reached, Revision, Slots
from healthchecks.probes.encryption import Encryption
from healthchecks.probes.identity import Identity
from healthchecks.probes.release import Client, RunningRelease, Weaknesses
from healthchecks.probes.streams import Streams
from infra.stack.releases import RELEASES, release_number
from infra.targets.facts import DiskSpace, Listeners, Services

REFUSED = (401, 403)  # 403: what some proxies in front answer instead
NO_SUCH_STREAM, NO_REDIS = (400,), 503  # of a server that has its Redis, and of one that hasn't
TELLS_NOTHING = (404, 405)  # no Letta server, or a proxy that hides the path


def _why_not(seen: ApiAnswer) -> str:
    if seen.error is not None and seen.error.code == "wrong-password":
        return "the server answers, and refuses the password"
    return "the server doesn't answer" if seen.version is None else "the server is up, but fails"


def api_answers(seen: ApiAnswer, thresholds: Thresholds) -> Verdict:
    """The API must answer a request that reads the database: its health page doesn't look there."""
    if seen.error is not None:
        return Verdict(State.CRITICAL, _why_not(seen), seen.error.message, seen.error.hint)
    answer = f"Letta {seen.version} at {seen.url} answers in {seen.seconds:.3f} s"
    if seen.seconds > thresholds.slow_answer:
        return Verdict(
            State.WARNING,
            f"{answer}, more than {thresholds.slow_answer:.1f} s",
            hint="see what the machine and the database are busy with",
        )
    return Verdict(State.OK, answer)


def authentication_on(seen: Strangers, _: Thresholds) -> Verdict:
    """No token and a wrong token must be refused, everywhere."""
    let_in = [attempt for attempt in seen.attempts if attempt.status not in REFUSED]
    answers = "; ".join(f"{a.method} {a.path} with {a.token} token: {a.status}" for a in let_in)
    if not let_in:
        return Verdict(State.OK, f"all {len(seen.attempts)} requests of a stranger are refused")
    if all(attempt.status in TELLS_NOTHING or attempt.status >= 500 for attempt in let_in):
        return Verdict(
            State.UNKNOWN,
            "requests of a stranger fail, but not for want of a password",
            answers,
            "see what answers there, and what the server's log says",
        )
    return Verdict(
        State.CRITICAL,
        "the API is open: anyone who reaches it can read everything and run code",
        answers,
        "set LETTA_SERVER_SECURE=true (or start with --secure): a password alone does nothing",
    )


def streams_offered(seen: Streams, _: Thresholds) -> Verdict:
    """Without streams in the background some clients can send no message; a stack of ours has them."""
    if seen.status in NO_SUCH_STREAM:
        return Verdict(State.OK, "the server offers streams in the background")
    if seen.status != NO_REDIS:
        return Verdict(
            State.OK,
            f"this release doesn't tell whether it offers streams in the background ({seen.status})",
            hint="`letta-ops smoke` tries it",
        )
    if not seen.is_ours:
        return Verdict(
            State.WARNING,
            "streams in the background are refused: the server has no Redis",
            "Letta Code sends no message without",
            "give it one with LETTA_REDIS_HOST, and start it anew",
        )
    return Verdict(
        State.CRITICAL,
        "streams in the background are refused: the server found no Redis when it started",
        "Letta Code sends no message without",
        "see that `redis` runs (`letta-ops status`); then start the server anew:"
        " `letta-ops up --config server.environment.RESTARTED=$(date +%s)`",
    )


def database_reachable(seen: Reached, _: Thresholds) -> Verdict:
    if seen.facts is None:
        error = seen.error
        return Verdict(
            State.CRITICAL,
            "the database can't be reached, or not be read",
            error.message if error else "",
            error.hint if error else "",
        )
    return Verdict(State.OK, f"database {seen.facts.name}, PostgreSQL {seen.facts.version}")


def database_is_the_servers(seen: Identity, _: Thresholds) -> Verdict:
    """Server and database must know the same built-in tools and agents.

    A copy of the database knows them too; sessions of a pooling server tell it from the original.
    """
    other = f"the server uses another database than {seen.database}"
    hint = "correct [database] in the profile, or LETTA_PG_URI of the server, before any backup"
    if seen.tools == 0:
        return Verdict(State.UNKNOWN, "the server lists no built-in tools to compare", "", hint)
    if seen.known_tools < seen.tools:
        missing = f"{seen.tools - seen.known_tools} of {seen.tools} built-in tools are not there"
        return Verdict(State.CRITICAL, other, missing, hint)
    counted = sorted((seen.agents_before, seen.agents_after))
    if not counted[0] <= seen.agents <= counted[1]:
        numbers = f"the server counts {seen.agents_after} agents, the database {seen.agents}"
        return Verdict(State.CRITICAL, f"{other}, or a copy of it", numbers, hint)
    same = f"the same on both sides: built-in tools: {seen.known_tools}, agents: {seen.agents}"
    if seen.pools and seen.sessions == 0:
        nobody = "no session of the server is open in it, though the server keeps some"
        return Verdict(State.WARNING, "the database may be a copy of the server's", nobody, hint)
    return Verdict(State.OK, "the database is the server's", same)


def extension_installed(seen: Reached, _: Thresholds) -> Verdict:
    if seen.facts is not None and seen.facts.pgvector:
        return Verdict(State.OK, f"pgvector {seen.facts.pgvector.version}")
    return Verdict(
        State.CRITICAL,
        "the extension vector is missing: archival memory can't be searched",
        hint="run CREATE EXTENSION vector in this database, as a superuser",
    )


def revision_is_head(seen: Revision, _: Thresholds) -> Verdict:
    """One set of tables, at the head of the release that runs."""
    tables = seen.facts.tables
    if not tables:
        return Verdict(
            State.CRITICAL,
            f"database {seen.facts.name} holds no Letta tables that can be seen",
            "no table alembic_version in any schema",
            "name the right database, or let the migrations run",
        )
    if len(tables) > 1:
        places = ", ".join(f"{each.schema} ({each.revision})" for each in tables)
        return Verdict(
            State.CRITICAL,
            "the database holds more than one set of Letta tables",
            f"in the schemas {places}: what a restore leaves that lost the search path",
            "find out which the server reads before anything writes; take a backup of all first",
        )
    revision = tables[0].revision
    if seen.head is None:
        unknown = f"this letta-ops doesn't know the head of Letta {seen.version}"
        return Verdict(State.UNKNOWN, f"revision {revision}: {unknown}", hint="update letta-ops")
    if revision == seen.head:
        return Verdict(State.OK, f"revision {revision}, the head of Letta {seen.version}")
    return Verdict(
        State.CRITICAL,
        f"revision {revision}, but Letta {seen.version} needs {seen.head}",
        hint="see `letta-ops migrate status`; run the release that it belongs to, or migrate it",
    )


def secrets_encrypted(seen: Encryption, _: Thresholds) -> Verdict:
    """Nothing in the clear, and the profile's key opens what is encrypted."""
    if seen.columns == 0:
        reason = "no column named *_enc is visible to the profile's role"
        return Verdict(State.UNKNOWN, "no secrets can be seen", reason, "let it read all tables")
    if seen.plaintext:
        return Verdict(
            State.CRITICAL,
            f"secrets lie in the database in the clear: {sum(seen.plaintext.values())}",
            ", ".join(f"{column}: {count}" for column, count in sorted(seen.plaintext.items())),
            "set LETTA_ENCRYPTION_KEY for the server, then save these secrets anew",
        )
    if seen.encrypted == 0:
        return _nothing_stored(seen)
    if not seen.has_key:
        return Verdict(
            State.WARNING,
            f"secrets are encrypted ({seen.encrypted}), and the profile has no key to them",
            "without LETTA_ENCRYPTION_KEY a backup of this database loses them",
            "add server.encryption_key to the profile",
        )
    if seen.unopened:
        return Verdict(
            State.CRITICAL,
            f"the profile's encryption key does not open {', '.join(seen.unopened)}",
            f"{seen.opened} of the values tried could be decrypted",
            "find the key with which they were written: without it these secrets are lost",
        )
    return Verdict(
        State.OK,
        f"secrets encrypted: {seen.encrypted}; the key opens all {seen.opened} that were tried",
    )


def services_run(seen: Services, _: Thresholds) -> Verdict:
    if not seen.supervised:
        return Verdict(
            State.CRITICAL,
            "the stack doesn't run",
            "its supervisord is not there",
            "start it with `letta-ops up`",
        )
    detail = ", ".join(f"{each.name} {each.state}" for each in seen.services)
    down = [each for each in seen.services if each.state != "RUNNING"]
    if not down:
        return Verdict(State.OK, f"{len(seen.services)} services run", detail)
    # A start takes its time; everything else is a service that failed, or was stopped.
    state = State.WARNING if all(e.state == "STARTING" for e in down) else State.CRITICAL
    names = ", ".join(each.name for each in down)
    return Verdict(state, f"not running: {names}", detail, "see why: `letta-ops logs`")


def listens_on_loopback_only(seen: Listeners, _: Thresholds) -> Verdict:
    exposed = [each for each in seen.listeners if not each.loopback]
    if exposed:
        return Verdict(
            State.CRITICAL,
            "the stack can be reached from other machines",
            "; ".join(f"{e.process} ({e.pid}) on {e.address} port {e.port}" for e in exposed),
            "bind it to 127.0.0.1, and put a proxy with TLS in front for others",
        )
    if seen.hidden:
        return Verdict(
            State.UNKNOWN,
            f"this user may not see the sockets of {len(seen.hidden)} processes",
            ", ".join(seen.hidden),
            "run the check as root, or as the user that runs the services",
        )
    ports = ", ".join(str(each.port) for each in seen.listeners)
    return Verdict(State.OK, f"only on loopback: ports {ports}" if ports else "nothing listens")


def disk_has_room(seen: DiskSpace, thresholds: Thresholds) -> Verdict:
    """Low is below both the share and the bytes: a tenth of a large disk is still plenty, and a
    small disk is always below the bytes. Full is below the bytes alone, or low and below the share.
    """
    share = seen.free / seen.total if seen.total else 0.0
    low = seen.free < thresholds.low_disk_bytes and share < thresholds.low_disk_share
    full = seen.free < thresholds.full_disk_bytes or (low and share < thresholds.full_disk_share)
    where = f"{seen.folder}" + (f" in {seen.container}" if seen.container else "")
    room = f"{seen.free / 1000**3:.1f} GB ({share:.0%}) free at {where}"
    hint = "free some space: Postgres stops when there is none"
    if full or low:
        return Verdict(State.CRITICAL if full else State.WARNING, f"only {room}", hint=hint)
    return Verdict(State.OK, room)


def release_is_maintained(seen: RunningRelease, thresholds: Thresholds) -> Verdict:
    if not seen.known:
        reason = f"this letta-ops knows nothing about Letta {seen.version}"
        return Verdict(State.WARNING, reason, hint="update letta-ops, or run a release it knows")
    if seen.end_of_life is None or thresholds.today < seen.end_of_life:
        return Verdict(State.OK, f"Letta {seen.version} is maintained")
    return Verdict(
        State.WARNING,
        f"Letta {seen.version} gets no fixes since {seen.end_of_life.isoformat()}",
        "security holes stay open; keep it off the network and behind its password",
        "plan the way out; acknowledge `release` to be told of other things only",
    )


def weaknesses_are_mitigated(seen: Weaknesses, thresholds: Thresholds) -> Verdict:
    """Those that a setting mitigates are, and the others are named."""
    open_to_all = authentication_on(seen.strangers, thresholds).state is not State.OK
    bare = [each for each in seen.known if each.setting is not None and open_to_all]
    told = "; ".join(f"{each.id}: {each.what}: {each.mitigation}" for each in seen.known)
    if bare:
        names = ", ".join(each.id for each in bare)
        return Verdict(
            State.CRITICAL,
            f"Letta {seen.version}: {names} and nothing in its way: strangers are let in",
            told,
            "; ".join(f"set {each.setting}" for each in bare),
        )
    return Verdict(
        State.OK, f"Letta {seen.version}: {len(seen.known)} are known, and strangers kept out", told
    )


def client_fits_the_server(seen: Client, _: Thresholds) -> Verdict:
    """The releases that we know are those with which this library was tried."""
    oldest = min(RELEASES.values(), key=lambda each: each.number)
    newest = max(RELEASES.values(), key=lambda each: each.number)
    server = release_number(seen.server)
    if oldest.number <= server <= newest.number:
        return Verdict(State.OK, f"letta-client {seen.library} with Letta {seen.server}")
    return Verdict(
        State.WARNING,
        f"letta-client {seen.library} was not tried with Letta {seen.server}",
        f"it was with {oldest.version} to {newest.version}",
        "what a command says may be wrong: use a letta-ops that knows that release",
    )


def nothing_is_left_behind(seen: Kept, _: Thresholds) -> Verdict:
    """No restore or migration waits to be put right; what they keep takes room."""
    kept = ", ".join(f"{name} ({size_in_words(size)})" for name, size in seen.databases.items())
    if seen.interrupted is not None:
        return Verdict(
            State.CRITICAL,
            f"a restore or a migration ({seen.interrupted}) was interrupted, and is not put right yet",
            kept,
            "if no command is at work on it: run `letta-ops backup create` or `up`, which puts it right",
        )
    if not kept:
        return Verdict(State.OK, "nothing is kept of restores and migrations")
    hint = "once it is not needed any more: `letta-ops backup restore --drop-previous`"
    if sum(seen.databases.values()) > 2 * seen.live:
        return Verdict(State.WARNING, f"kept, more than twice what serves: {kept}", hint=hint)
    return Verdict(State.OK, f"kept of restores and migrations: {kept}", hint=hint)


def _nothing_stored(seen: Encryption) -> Verdict:
    if seen.has_key:
        unproven = "no secret is stored yet, so nothing can be proven"
        return Verdict(State.OK, f"{unproven}; the profile has a key")
    return Verdict(
        State.WARNING,
        "no secret is stored yet, and the profile has no encryption key",
        "without LETTA_ENCRYPTION_KEY the server will store them in the clear",
        "set LETTA_ENCRYPTION_KEY for the server, and server.encryption_key in the profile",
    )


def slots_hold_the_live_database(seen: Slots, _: Thresholds) -> Verdict:
    """A slot that nobody reads from keeps all that is written since, and its database undropped."""
    if not seen.aside:
        return Verdict(State.OK, "no slot holds a database that was set aside")
    names = ", ".join(seen.aside)
    return Verdict(
        State.WARNING,
        f"{names}: of the database that a restore has replaced; Postgres keeps what is written for it",
        hint="make the slot anew on the live database; drop the old one:"
        f" SELECT pg_drop_replication_slot('{seen.aside[0]}')",
    )
