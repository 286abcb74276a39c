"""A value made once and kept: passwords, the encryption key, the deployment's id.

It is remembered in the profile before anything uses it: after a `destroy`, or with Pulumi's state
lost, the same value comes back, and so the data stays readable.
"""

from __future__ import annotations

from typing import ClassVar

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.fingerprint import key_fingerprint
from infra.stack.locations import StackFolder
from infra.stack.profile import ADOPTED_KEY, remember, remembered
from infra.stack.secrets import kept_value
from infra.targets.providers.provider import Properties, Provider

# What the data depends on for ever: with another key, Letta's stored secrets can't be read.
FIXED = ("server.encryption_key", "id")


class GeneratedValue(Provider):
    """Inputs: `key` (path in the profile), `proposed` (for when it has none). Output: `value`."""

    outputs: ClassVar[tuple[str, ...]] = ("value",)
    secret_outputs: ClassVar[tuple[str, ...]] = ("value",)

    compared: ClassVar[tuple[str, ...]] = ("key",)

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        key = inputs["key"]
        value = kept_value(folder, key)
        if value is None:
            self._refuse_new_secret_for_old_data(folder, key)
            value = str(inputs["proposed"])
            remember(folder.profile, {key: value})
        return key, {"value": value}

    def change(self, folder: StackFolder, old: Properties, new: Properties) -> Properties:
        """A password changed in the profile wins; a lost profile gets the known value back."""
        kept = kept_value(folder, new["key"])
        value = kept or old["value"]
        if value != old["value"] and new["key"] in FIXED and not _adopted(folder, value):
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
        if kept_value(folder, outputs["key"]) == outputs["value"]:
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


def _adopted(folder: StackFolder, value: str) -> bool:
    """Whether a restore has put `value` there, together with the data that was written with it."""
    wanted = remembered(folder.profile, ADOPTED_KEY)
    return wanted is not None and wanted == key_fingerprint(Sensitive(value))
