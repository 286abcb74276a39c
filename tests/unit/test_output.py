"""Answers and errors: the same object as JSON and as text, and nothing that drives the terminal."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from infra.errors import LettaOpsError
from ops_cli.invocation import Invocation
from ops_cli.output import Table, facts, present, print_error, print_json, print_table, printable


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_an_answer_is_one_json_document_or_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    present(Invocation(json=True), {"agents": 2}, lambda answer: [f"{answer['agents']} agents"])
    assert json.loads(capsys.readouterr().out) == {"agents": 2}
    present(Invocation(), {"agents": 2}, lambda answer: [f"{answer['agents']} agents"])
    assert capsys.readouterr().out == "2 agents\n"


def test_a_table_in_a_pipe_is_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table(("id", "name"), [("1", "n" * 300), ("22", "")]))
    assert capsys.readouterr().out == f"ID  NAME\n1   {'n' * 300}\n22\n"


def test_a_name_with_markup_or_escapes_is_shown_as_it_is() -> None:
    for stream in (Terminal(), io.StringIO()):
        print_table(Table(("name",), [("[red]x[/red] \x1b[31m",)]), stream)
        assert "[red]x[/red] \\x1b[31m" in stream.getvalue()


def test_on_a_terminal_the_first_column_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    print_table(Table(("id", "name"), [("agent-" + "0" * 36, "n" * 50)]), stream)
    assert "agent-" + "0" * 36 in stream.getvalue()


def test_on_a_terminal_too_narrow_for_it_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    print_table(Table(("id", "name"), [("agent-" + "0" * 36, "n" * 50)]), stream)
    assert f"agent-{'0' * 36}  {'n' * 50}\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("\x9b", "\\x9b"),
    ],
)
def test_control_characters_become_visible(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_in_one_line_line_breaks_become_visible_too() -> None:
    assert printable("a\nb", single_line=True) == "a\\x0ab"


def test_an_error_goes_to_stderr_as_text_with_its_next_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_error(LettaOpsError("c", "it broke", "mend it"), as_json=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: it broke\n  next: mend it\n"


def test_an_error_goes_to_stdout_as_json_beside_the_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_error(LettaOpsError("c", "it broke", "mend it"), as_json=True, result={"passed": False})
    assert json.loads(capsys.readouterr().out) == {
        "passed": False,
        "error": {"code": "c", "message": "it broke", "hint": "mend it"},
    }


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_is_valid_in_every_encoding_also_with_half_a_surrogate_pair(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    print_json({"name": "é漢\ud800"})
    stream.flush()
    assert json.loads(raw.getvalue()) == {"name": "é漢\ud800"}


def test_facts_are_aligned_and_leave_out_what_is_not_known() -> None:
    assert facts([("a", 1), ("long", "x"), ("b", None)]) == ["a     1", "long  x"]


def test_work_goes_on_when_nobody_reads_what_it_says() -> None:
    """As in `letta-ops destroy 2>&1 | head -1`."""
    work = (
        "import sys\nfrom ops_cli.output import note\nsys.stdin.read()\n"
        "for number in range(3): note(str(number))\nprint('done')"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", work],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    child.stderr.close()
    child.stderr = None
    assert child.communicate("")[0] == "done\n"
    assert child.returncode == 0
