"""A value made once and kept: passwords, the encryption key, the deployment's id.

It is remembered in the profile before anything uses it: after a `destroy`, or with Pulumi's state
lost, the same value comes back, and so the data stays readable.
"""

from __future__ import annotations

import secrets
import uuid
from typing import ClassVar

from infra.embedded.provider import Properties, Provider
from infra.errors import LettaOpsError
from infra.locations import StackFolder
from infra.profiles import remember, remembered
from infra.references import resolve

BYTES = 32
# What the data depends on for ever: with another key, Letta's stored secrets can't be read.
FIXED = ("server.encryption_key", "id")


class GeneratedValue(Provider):
    """Inputs: `key` (path in the profile), `kind` (`secret` or `id`). Output: `value`."""

    compared: ClassVar[tuple[str, ...]] = ("kind",)

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        key = inputs["key"]
        value = _kept(folder, key)
        if value is None:
            self._refuse_new_secret_for_old_data(folder, key)
            value = _generate(inputs["kind"])
            remember(folder.profile, {key: value})
        return key, {"value": value}

    def change(self, folder: StackFolder, old: Properties, new: Properties) -> Properties:
        """A password changed in the profile wins; a lost profile gets the known value back."""
        kept = _kept(folder, new["key"])
        value = kept or old["value"]
        if value != old["value"] and new["key"] in FIXED:
            raise LettaOpsError(
                "fixed-value-changed",
                f"{new['key']} in {folder.profile} is not the one that the data was written with",
                f"delete its line from the file and run `letta-ops --stack {folder.stack} up`"
                " again: it writes the right value back",
            )
        if kept is None:
            remember(folder.profile, {new["key"]: value})
        return {"value": value}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        if _kept(folder, outputs["key"]) == outputs["value"]:
            return None
        return f"{outputs['key']} differs in {folder.profile}"

    def _refuse_new_secret_for_old_data(self, folder: StackFolder, key: str) -> None:
        if folder.has_data:
            raise LettaOpsError(
                "profile-lost",
                f"{folder.postgres_data} holds data, but {folder.profile} has no {key} for it",
                f"put your copy of {folder.profile.name} back: a new key could not read the old"
                f" data. To begin anew, run"
                f" `letta-ops --stack {folder.stack} destroy --delete-data`",
            )


def _kept(folder: StackFolder, key: str) -> str | None:
    """What the profile says, a reference in it followed; None where it says nothing."""
    text = remembered(folder.profile, key)
    if text is None:
        return None
    try:
        return resolve(str(text))
    except ValueError as error:
        raise LettaOpsError(
            "configuration", f"{key} in {folder.profile}: {error}", "correct the reference"
        ) from None


def _generate(kind: str) -> str:
    # Letters, digits, - and _ only: safe in URIs, shells and configuration files alike.
    return str(uuid.uuid4()) if kind == "id" else secrets.token_urlsafe(BYTES)
