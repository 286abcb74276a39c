"""The secrets of a stack and its id: those that it has, or new ones for those that it lacks."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.stack.profile import SECRET_PATHS, remembered
from infra.stack.references import resolve

BYTES = 32


@dataclass(frozen=True)
class StackSecrets:
    """`values` by the names of `letta-ops secret show`; `id` is the deployment's.

    `fresh`: the encryption key is new. `key_lost`: though the deployment isn't.
    """

    values: Mapping[str, Sensitive]
    id: str
    fresh: bool
    key_lost: bool

    def __getitem__(self, name: str) -> Sensitive:
        return self.values[name]


def stack_secrets(folder: StackFolder) -> StackSecrets:
    """What the profile holds, completed. Nothing is written: `GeneratedValue` does that.

    So the program knows, before anything is made, what the values will be: names that follow from
    them stay the same from the first run on.
    """
    kept = {name: kept_value(folder, path) for name, path in SECRET_PATHS.items()}
    id_ = kept_value(folder, "id")
    # Letters, digits, - and _ only: safe in URIs, shells and configuration files alike.
    values = {name: value or secrets.token_urlsafe(BYTES) for name, value in kept.items()}
    return StackSecrets(
        {name: Sensitive(value) for name, value in values.items()},
        id_ or str(uuid.uuid4()),
        fresh=kept["encryption-key"] is None,
        # The id is written last: who has it had a key.
        key_lost=kept["encryption-key"] is None and id_ is not None,
    )


def kept_value(folder: StackFolder, key: str) -> str | None:
    """What the profile says under `key`, a reference in it followed; None where it says nothing."""
    text = remembered(folder.profile, key)
    if text is None:
        return None
    try:
        return resolve(str(text))
    except ValueError as error:
        raise LettaOpsError(
            "configuration", f"{key} in {folder.profile}: {error}", "correct the reference"
        ) from None
