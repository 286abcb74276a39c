"""What a command that changed the data asks of the server, before it stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backups.restoring.restore import ConfirmServer
    from infra.process import Report
    from infra.stack.deployment import Deployment


def prover(
    report: Report, state: str, *, with_models: bool, secrets_lost: bool = False
) -> ConfirmServer:
    """The proof, with its steps told; `state` is what a failure's hint begins with."""
    from healthchecks.proof import prove
    from infra.errors import LettaOpsError
    from ops_cli.commands.smoke import step_reporter

    def confirm_server(deployment: Deployment) -> None:
        try:
            prove(
                deployment,
                report,
                with_models=with_models,
                secrets_lost=secrets_lost,
                on_step=step_reporter(report),
            )
        except LettaOpsError as error:
            raise LettaOpsError(error.code, error.message, f"{state}; {error.hint}") from None

    return confirm_server
