"""`letta-ops smoke`: let an agent do its work once, and clean up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from infra.process import Report
from ops_cli.invocation import Invocation, current
from ops_cli.options import EmbeddingHandle, ModelHandle, new_app
from ops_cli.output import Part, Table, UnsuccessfulError, present
from ops_cli.progress import progress

if TYPE_CHECKING:
    from healthchecks.smoke import Smoke, Step

app = new_app("Let an agent do its work once, and clean up.")


@app.command("smoke")
def smoke(
    context: typer.Context, model: ModelHandle = None, embedding: EmbeddingHandle = None
) -> None:
    """Make an agent, talk to it, use its memory, export and delete it; each step is timed."""
    from healthchecks.smoke import run

    invocation = current(context)
    with progress(invocation) as report:
        done = run(
            invocation.deployment(), model=model, embedding=embedding, on_step=step_reporter(report)
        )
    if not done.passed:
        raise failure(invocation, done, done.as_json())
    present(invocation, done.as_json(), render)


def step_reporter(report: Report) -> Any:
    """Return a listener for the steps of a smoke test that makes progress lines of them."""

    def listen(step: Step) -> None:
        outcome = "passed" if step.passed else f"FAILED: {step.detail}"
        report(f"smoke: {step.name}: {outcome} ({step.seconds:.1f} s)")

    return listen


def failure(invocation: Invocation, done: Smoke, result: dict[str, Any]) -> UnsuccessfulError:
    """The error of a smoke test that failed, with `result` for JSON."""
    bad = [f"  - {step.name}: {step.detail}" for step in done.steps if not step.passed]
    return UnsuccessfulError(
        "smoke-failed",
        "\n".join(["the smoke test failed:", *bad]),
        f"run `{invocation.command('check')}`, and look at the server's log",
        result,
    )


def render(answer: dict[str, Any]) -> Iterator[Part]:
    rows = [
        (step["name"], "passed" if step["passed"] else "FAILED", f"{step['seconds']:.2f} s",
         step["detail"] or "")
        for step in answer["steps"]
    ]  # fmt: skip
    yield Table(("step", "result", "time", "detail"), rows)
    yield f"smoke test passed in {answer['seconds']:.1f} s"
