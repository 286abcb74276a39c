"""Rotating the secrets of a stack: the new one is in the profile before anything uses it, and what fails
goes back to the old one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from backups.rekey import Rekeying, opens, rekey, unopened, values_in
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.process import Report
from infra.provision import Request, up
from infra.sensitive import Sensitive
from infra.servers import start_server, stop_server
from infra.stack.deployment import Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.stack.locations import stack_folder
from infra.stack.profile import (
    ADOPTED_KEY,
    ENCRYPTION_KEY,
    NEXT_KEY,
    RETIRED_KEYS,
    SECRET_PATHS,
    load,
    remember,
    remembered,
)
from infra.stack.references import is_reference
from infra.targets import host

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

BYTES = 32
PASSWORDS = {
    "server-password": ("server-password",),
    "database-password": ("database-owner-password", "database-reader-password"),
}
ENCRYPTION = "encryption-key"
NAMES = (*PASSWORDS, ENCRYPTION)
Prove = Callable[[Deployment], None]


def ensure_ours(deployment: Deployment, name: str) -> Path:
    """The stack's profile. Raises LettaOpsError: `not-here`, or `secret-elsewhere` for a reference."""
    profile, there = deployment.profile, host(deployment)
    if profile is None or deployment.folder is None or not there.is_ours:
        raise LettaOpsError(
            "not-here",
            "the server is not one that letta-ops provisioned from here",
            "rotate it where the server is configured, then in the profile",
        )
    if name == "database-password" and not there.provides_database:
        raise LettaOpsError(
            "not-here",
            "the database is not one that letta-ops provisioned",
            "ALTER ROLE there, then set database.url and run `letta-ops up`",
        )
    for secret in PASSWORDS.get(name, (name,)):
        if is_reference(str(remembered(profile, SECRET_PATHS[secret]) or "")):
            raise LettaOpsError(
                "secret-elsewhere",
                f"{SECRET_PATHS[secret]} in {profile} is a reference: it is kept elsewhere",
                "change it there, then run `letta-ops up`",
            )
    return profile


def rotate_password(deployment: Deployment, name: str, prove: Prove, report: Report) -> None:
    """Give the stack a new password. Raises LettaOpsError; then the old one is in force again."""
    profile = ensure_ours(deployment, name)
    paths = [SECRET_PATHS[each] for each in PASSWORDS[name]]
    old = {path: remembered(profile, path) for path in paths}
    remember(profile, {path: secrets.token_urlsafe(BYTES) for path in paths})
    try:
        _bring_in(deployment, prove, report)
    except BaseException as error:
        _go_back(deployment, profile, old, prove, report, error)
        raise


def rotate_key(deployment: Deployment, prove: Prove, report: Report) -> dict[str, Any]:
    """Encrypt what the server keeps encrypted with a new key; return what was done.

    Raises LettaOpsError; then the old key is in force again. Killed anywhere, the profile has both keys,
    and `finish_rotation` sees which is in force.
    """
    profile = ensure_ours(deployment, ENCRYPTION)
    old = deployment.server.encryption_key
    if old is None:
        raise LettaOpsError(
            "secret-missing",
            "the profile has no encryption key",
            "run `letta-ops up`, which makes one",
        )
    keys = Rekeying(old, Sensitive(secrets.token_urlsafe(BYTES)))
    with _owner(deployment) as link:
        schema = _schema(link)
        values = values_in(link, schema)
        report(f"{sum(map(len, values.values()))} values are encrypted anew, beside the server")
        keys.prepare(value for column in values.values() for value in column)
    remember(profile, {NEXT_KEY: keys.new.reveal()})
    changed = 0
    try:
        report("the server is stopped")
        stop_server(deployment)
        with _owner(deployment) as link:
            changed = rekey(link, schema, keys)
        _take(profile, keys.new, keys.old)
        _bring_in(deployment, prove, report)
    except BaseException as error:
        _undo_key(deployment, profile, keys, schema, prove, report, error)
        raise
    with _owner(deployment) as link:
        closed = [*unopened(values_in(link, schema), keys.new)]
    return {
        "fingerprint": key_fingerprint(keys.new),
        "previous_fingerprint": key_fingerprint(keys.old),
        "values": changed,
        "unopened": sorted(set(closed)),
    }


def finish_rotation(deployment: Deployment, report: Report) -> bool:
    """Finish a rotation of the key that was killed, or forget it; whether there was one."""
    profile = deployment.profile
    following = remembered(profile, NEXT_KEY) if profile is not None else None
    if profile is None or following is None:
        return False
    new, old = Sensitive(str(following)), deployment.server.encryption_key
    with _owner(deployment) as link:
        in_force = opens(values_in(link, _schema(link)), new)
    if in_force:
        report("a rotation of the encryption key was interrupted: the new one is in force")
        _take(profile, new, old)
    else:
        report("a rotation of the encryption key was interrupted: the old one is in force")
        remember(profile, {NEXT_KEY: None})
    up(Request(deployment.stack, held=True), report)
    start_server(load(stack_folder(deployment.stack), profile))
    return True


def _take(profile: Path, new: Sensitive, old: Sensitive | None) -> None:
    """The new key is the server's, and the old one is kept for backups of before: in one write."""
    retired = str(remembered(profile, RETIRED_KEYS) or "").split()
    if old is not None and old.reveal() not in retired:
        retired.append(old.reveal())
    remember(
        profile,
        {
            ENCRYPTION_KEY: new.reveal(),
            ADOPTED_KEY: key_fingerprint(new),
            RETIRED_KEYS: " ".join(each for each in retired if each != new.reveal()) or None,
            NEXT_KEY: None,
        },
    )


def _undo_key(
    deployment: Deployment,
    profile: Path,
    keys: Rekeying,
    schema: str,
    prove: Prove,
    report: Report,
    error: BaseException,
) -> None:
    try:
        report("going back to the old key")
        stop_server(deployment)
        with _owner(deployment) as link:
            if opens(values_in(link, schema), keys.new):
                rekey(link, schema, keys.back())
        _take(profile, keys.old, None)
        _bring_in(deployment, prove, report)
    except BaseException as worse:  # noqa: BLE001  # the first error is the one to tell
        error.add_note(f"going back did not succeed yet: {worse}")
        error.add_note("`letta-ops up` sees which key is in force; the profile has both")
    else:
        error.add_note("the old key is in force again: its smoke test passed")


def _go_back(
    deployment: Deployment,
    profile: Path,
    old: Mapping[str, Any],
    prove: Prove,
    report: Report,
    error: BaseException,
) -> None:
    try:
        report("going back to the old password")
        remember(profile, old)
        _bring_in(deployment, prove, report)
    except BaseException as worse:  # noqa: BLE001  # the first error is the one to tell
        error.add_note(f"going back did not succeed yet: {worse}")
        error.add_note("`letta-ops up` brings in what stands in the profile")
    else:
        error.add_note("the old password is in force again")


def _bring_in(deployment: Deployment, prove: Prove, report: Report) -> None:
    up(Request(deployment.stack, held=True), report)
    now = load(stack_folder(deployment.stack), deployment.profile)
    start_server(now)
    prove(now)


def _owner(deployment: Deployment) -> Any:
    owner = deployment.database.owner if deployment.database else None
    return host(deployment).session(owner)


def _schema(link: psycopg.Connection[Any]) -> str:
    return database_facts(link).schema or "public"
