"""What the verbs about agent files have in common: telling what is lost, and `--strict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops_cli.output import UnsuccessfulError, note

if TYPE_CHECKING:
    from ops_cli.agents.loss import Loss

Strict = Annotated[bool, typer.Option("--strict", help="Fail when anything is lost.")]


def tell_losses(losses: Sequence[Loss], words: str) -> None:
    from ops_cli.agents.loss import in_words

    lost = in_words(losses)
    if lost:
        note(f"warning: {words}: {'; '.join(lost)}")


def lossy(losses: list[dict[str, Any]], answer: dict[str, Any] | None = None) -> UnsuccessfulError:
    """`answer` is of what was done all the same."""
    return UnsuccessfulError(
        "loss",
        "not all is carried, and --strict was said",
        "`letta-ops agent archive` carries everything; without --strict the rest is told only",
        {**(answer or {}), "loss": losses},
    )
