"""Whose backup it is: what is signed, by whom, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backups.manifest import Manifest, parse_manifest
from backups.signing import Signers, key_to_sign, new_key, own_key, signed, signer_of
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.backup_settings import BackupSection, BackupSettings
from infra.stack.deployment import Deployment, Server
from infra.stack.locations import StackFolder
from infra.stack.profile import remember, remembered
from tests.unit.backups import manifest

KEY, OTHER = new_key(), new_key()


def deployment(key: Sensitive | None = None, *signers: str, **more: Any) -> Deployment:
    settings = BackupSettings(backup=BackupSection(signers=",".join(signers)))  # type: ignore[arg-type]
    return Deployment(
        "prod", "local", Server("http://x:1"), "an-id", signing_key=key, backups=settings, **more
    )


def with_signature(made: Manifest, key: Sensitive = KEY) -> Manifest:
    return replace(made, signature=signed(made, key))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LETTA_OPS_STATE", str(tmp_path / "state"))
    (tmp_path / "state" / "prod").mkdir(parents=True)
    return tmp_path / "state"


def refusal(signers: Signers, made: Manifest) -> str:
    with pytest.raises(LettaOpsError) as caught:
        signers.ensure(made)
    assert not signers.know(made)
    return caught.value.code


def test_a_manifest_is_known_by_its_signature_also_after_it_was_stored() -> None:
    made = with_signature(manifest())
    stored = parse_manifest(made.as_text().encode(), "here")
    assert stored == made
    for known in (
        Signers.of(deployment(KEY)),
        Signers.of(deployment(OTHER, signer_of(KEY))),
        Signers.of(deployment(), [Sensitive(f"# signer: {signer_of(KEY)}\nAGE-SECRET-KEY-1X")]),
    ):
        known.ensure(stored)
        assert known.know(stored)
    assert refusal(Signers.of(deployment(OTHER)), stored) == "signer-unknown"
    assert refusal(Signers.of(deployment(KEY)), manifest()) == "backup-unsigned"


FORGED: dict[str, Callable[[Manifest], dict[str, Any]]] = {
    "another time": lambda made: {"created_at": made.created_at.replace(year=2027)},
    "a part less": lambda made: {"parts": made.parts[1:]},
    "another size": lambda made: {"parts": (replace(made.parts[0], size=1), *made.parts[1:])},
    "another deployment": lambda made: {"deployment": "another"},
    "not encrypted": lambda made: {"encryption": None, "recipients": (), "label": "x"},
    "a table less": lambda made: {"database": replace(made.database, tables={})},
    "more for an administrator": lambda made: {"tools": {"pg_dump": "17.0"}},
}


@pytest.mark.parametrize("what", FORGED)
def test_a_manifest_that_was_changed_with_its_digest_made_anew_is_forged(what: str) -> None:
    made = with_signature(manifest())
    changed = replace(made, **FORGED[what](made))
    assert parse_manifest(changed.as_text().encode(), "here") == changed  # its digest fits
    assert refusal(Signers.of(deployment(KEY)), changed) == "backup-forged"


def test_a_signature_of_somebody_else_or_none_that_can_be_read_is_refused() -> None:
    made, known = manifest(), Signers.of(deployment(KEY))
    assert refusal(known, with_signature(made, OTHER)) == "signer-unknown"
    by_us = with_signature(made)
    assert by_us.signature is not None
    claimed = replace(by_us.signature, signer=signer_of(OTHER))
    assert refusal(known, replace(made, signature=claimed)) == "backup-forged"
    for value in ("", "x", "ä", by_us.signature.value[:-4]):
        forged = replace(by_us.signature, value=value)
        assert refusal(known, replace(made, signature=forged)) == "backup-forged"
    for signer in ("ed25519:", "rsa:x", ""):
        forged = replace(by_us.signature, signer=signer)
        assert refusal(known, replace(made, signature=forged)) == "backup-forged"


def test_a_backup_of_format_1_is_still_read_and_is_unsigned() -> None:
    import hashlib

    body = json.loads(manifest().as_text())
    for name in ("sha256", "signature"):
        body.pop(name, None)
    body["format"] = 1
    for name in ("extensions", "rights", "properties"):
        del body["database"][name]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    body["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    found = parse_manifest(json.dumps(body).encode(), "here")
    assert found == manifest()
    assert refusal(Signers.of(deployment(KEY)), found) == "backup-unsigned"


def test_the_first_backup_makes_the_key_which_stays(state: Path) -> None:
    folder = StackFolder(state, "prod")
    remember(folder.profile, {"id": "an-id"})
    ours = deployment(folder=folder, profile=folder.profile)
    assert own_key(ours) is None
    key = key_to_sign(ours)
    assert remembered(folder.profile, "signing.key") == key.reveal()

    theirs = deployment(profile=folder.profile)  # a profile that somebody wrote by hand
    key = key_to_sign(theirs)
    assert own_key(theirs) == key == key_to_sign(theirs)
    file = state / "prod" / "signing-key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert key_to_sign(deployment(KEY)) == KEY


def test_a_key_that_is_none_is_told_without_it() -> None:
    with pytest.raises(LettaOpsError) as caught:
        signer_of(Sensitive("not-a-key"))
    assert caught.value.code == "configuration"
    assert "not-a-key" not in str(caught.value)
