"""The fake model over real HTTP: what it answers to which message, and to wrong requests."""

from __future__ import annotations

import base64
import http.client
import json
import math
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.embedded import fake_model
from infra.embedded.fake_model import FakeModel

INSERT = {
    "name": "memory_insert",
    "parameters": {
        "type": "object",
        "properties": {
            "label": {"type": "string"},
            "new_string": {"type": "string"},
            "insert_line": {"type": "integer", "default": -1},
        },
        "required": ["label", "new_string"],
    },
}
OLDER_INSERT = {
    "name": "memory_insert",
    "parameters": {
        "type": "object",
        "properties": {
            "thinking": {"type": "string"},
            "label": {"type": "string"},
            "request_heartbeat": {"type": "boolean"},
        },
        "required": ["thinking", "label", "request_heartbeat"],
    },
}
SEND_MESSAGE = {
    "name": "send_message",
    "parameters": {
        "type": "object",
        "properties": {"thinking": {"type": "string"}, "message": {"type": "string"}},
        "required": ["thinking", "message"],
    },
}


class Client:
    """One kept-open connection to the fake model."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        self.connection.request(method, path, body)
        response = self.connection.getresponse()
        return response.status, response.read()

    def post(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        status, body = self.call("POST", path, json.dumps(request).encode())
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def complete(self, *messages: dict[str, Any], **settings: Any) -> dict[str, Any]:
        request = {"model": "fake", "messages": list(messages), **settings}
        message: dict[str, Any] = self.post("/v1/chat/completions", request)["choices"][0][
            "message"
        ]
        return message

    def embed(self, *texts: str, **settings: Any) -> list[Any]:
        request = {"model": "text-embedding-3-small", "input": list(texts), **settings}
        return [item["embedding"] for item in self.post("/v1/embeddings", request)["data"]]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with FakeModel("127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    client = Client(port)
    yield client
    client.connection.close()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def envelope(message: str, kind: str = "user_message") -> str:
    return json.dumps({"type": kind, "message": message, "time": "2026-11-21 02:00:00 PM UTC"})


def offer(*functions: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": function} for function in functions]


def called(message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    (call,) = message["tool_calls"]
    return call["function"]["name"], json.loads(call["function"]["arguments"])


HEARTBEAT = user(json.dumps({"type": "heartbeat", "reason": "a tool was called", "time": "now"}))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("Good morning", "Good morning", id="plain text"),
        pytest.param(envelope("Good morning"), "Good morning", id="in Letta's envelope"),
        pytest.param([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo",
                     id="in parts"),
        pytest.param([{"type": "text", "text": envelope("one")}], "one", id="envelope in a part"),
        pytest.param("[1, 2]", "[1, 2]", id="JSON that is no envelope"),
        pytest.param("call me when you are back", "call me when you are back", id="no directive"),
        pytest.param("Grüße 🙂", "Grüße 🙂", id="beyond ASCII"),
        pytest.param("x" * 1500, "x" * 1000 + "...", id="long text is cut off"),
    ],
)  # fmt: skip
def test_it_repeats_what_it_heard(client: Client, content: Any, expected: str) -> None:
    answer = client.complete({"role": "system", "content": "Be brief."}, user(content))
    assert answer == {"role": "assistant", "content": f"The fake model heard: {expected}"}


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(
            [user("first"), {"role": "assistant", "content": "a"}, user("last")], id="last"
        ),
        pytest.param([user(envelope("last")), HEARTBEAT], id="a heartbeat is no message"),
        pytest.param([user("last"), user(envelope("summary", "system_alert"))], id="nor an alert"),
    ],
)
def test_it_answers_the_last_words_of_a_person(
    client: Client, history: list[dict[str, Any]]
) -> None:
    assert client.complete(*history)["content"] == "The fake model heard: last"


@pytest.mark.parametrize("choice", ["auto", "required", None])
def test_a_directive_anywhere_in_the_message_calls_the_tool(
    client: Client, choice: str | None
) -> None:
    text = (
        'Please call memory_insert {"label": "human", "new_string": "a {b} \\"c\\""} and thank you'
    )
    answer = client.complete(user(envelope(text)), tools=offer(INSERT), tool_choice=choice)
    expected = {"label": "human", "new_string": 'a {b} "c"'}
    assert called(answer) == ("memory_insert", expected)
    assert answer["content"] is None
    assert len(answer["tool_calls"][0]["id"]) <= 29  # Letta cuts longer ones off


def test_required_arguments_that_the_directive_leaves_out_are_filled_in(client: Client) -> None:
    tool = {
        "name": "book",
        "parameters": {
            "properties": {
                "text": {"type": "string"},
                "count": {"type": "integer"},
                "kind": {"enum": ["a", "b"], "type": "string"},
                "maybe": {"type": ["string", "null"]},
                "either": {"anyOf": [{"type": "array"}, {"type": "null"}]},
                "limit": {"type": "integer", "default": 5},
                "optional": {"type": "string"},
            },
            "required": ["text", "count", "kind", "maybe", "either", "limit"],
        },
    }
    answer = client.complete(user("call book {}"), tools=offer(tool))
    expected = {"text": "fake", "count": 0, "kind": "a", "maybe": None, "either": None, "limit": 5}
    assert called(answer) == ("book", expected)


def test_an_older_agent_gets_its_thoughts_first_and_asks_for_the_result(client: Client) -> None:
    answer = client.complete(
        user('call memory_insert {"label": "human"}'),
        tools=offer(OLDER_INSERT, SEND_MESSAGE),
        tool_choice="required",
    )
    name, arguments = called(answer)
    assert name == "memory_insert"
    assert list(arguments) == ["thinking", "label", "request_heartbeat"]
    assert arguments["request_heartbeat"] is True


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ('call unknown {"a": 1}', {"tools": offer(INSERT)},
         "The fake model can't call unknown: the request doesn't offer that tool."),
        ('call memory_insert {"a": 1}', {},
         "The fake model can't call memory_insert: the request doesn't offer that tool."),
        ("call memory_insert {a: 1}", {"tools": offer(INSERT)},
         "The fake model can't call memory_insert: its arguments are not a JSON object."),
        ('call memory_insert {"a": 1}', {"tools": offer(INSERT), "tool_choice": "none"},
         'The fake model heard: call memory_insert {"a": 1}'),
    ],
)  # fmt: skip
def test_a_directive_that_cannot_be_followed_is_answered_in_text(
    client: Client, text: str, settings: dict[str, Any], expected: str
) -> None:
    assert client.complete(user(text), **settings)["content"] == expected


@pytest.mark.parametrize("tail", [[], [HEARTBEAT]], ids=["newer agents", "older agents"])
def test_a_tool_result_is_reported_and_the_directive_not_followed_again(
    client: Client, tail: list[dict[str, Any]]
) -> None:
    question = user('call memory_insert {"label": "human", "new_string": "tea"}')
    call = client.complete(question, tools=offer(INSERT))
    result = {
        "role": "tool",
        "tool_call_id": call["tool_calls"][0]["id"],
        "content": json.dumps({"status": "OK", "message": "Likes tea", "time": "now"}),
    }
    answer = client.complete(question, call, result, *tail, tools=offer(INSERT))
    assert answer["content"] == "The tool memory_insert answered: Likes tea"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "send_message"}}]
)
def test_text_goes_out_through_send_message_where_a_tool_is_demanded(
    client: Client, choice: Any
) -> None:
    tools = offer(INSERT, SEND_MESSAGE)
    name, arguments = called(client.complete(user("hello"), tools=tools, tool_choice=choice))
    assert name == "send_message"
    assert arguments["message"] == "The fake model heard: hello"
    assert arguments["thinking"]


def test_without_send_message_a_demanded_tool_is_called_with_sane_arguments(client: Client) -> None:
    answer = client.complete(user("hello"), tools=offer(INSERT), tool_choice="required")
    assert called(answer) == ("memory_insert", {"label": "fake", "new_string": "fake"})


@pytest.mark.parametrize("text", ["hello  to\nyou ", 'call memory_insert {"label": "a b"}'])
def test_a_streamed_answer_is_the_plain_one_in_pieces(client: Client, text: str) -> None:
    request = {"model": "fake", "messages": [user(text)], "tools": offer(INSERT)}
    plain = client.post("/v1/chat/completions", request)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    # The options are part of the request, and so of the ids: only they may differ.
    chunks = streamed(client, {**request, **options})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    message = plain["choices"][0]["message"]
    assert "".join(delta.get("content") or "" for delta in deltas) == (message["content"] or "")
    pieces = [call for delta in deltas for call in delta.get("tool_calls", [])]
    function = {"name": "", "arguments": ""}
    for piece in pieces:
        function["name"] += piece["function"].get("name", "")
        function["arguments"] += piece["function"]["arguments"]
    if pieces:
        assert function == message["tool_calls"][0]["function"]
    assert chunks[-2]["choices"][0]["finish_reason"] == plain["choices"][0]["finish_reason"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0


def test_a_stream_holds_its_usage_only_when_asked(client: Client) -> None:
    chunks = streamed(client, {"model": "fake", "messages": [user("hello")], "stream": True})
    assert all("usage" not in chunk for chunk in chunks)


def streamed(client: Client, request: dict[str, Any]) -> list[dict[str, Any]]:
    status, body = client.call("POST", "/v1/chat/completions", json.dumps(request).encode())
    assert status == 200
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_the_same_request_gives_the_same_answer(client: Client) -> None:
    request = {"model": "any-name", "messages": [user("call memory_insert {}")],
               "tools": offer(INSERT)}  # fmt: skip
    first, second = (client.post("/v1/chat/completions", request) for _ in range(2))
    assert {**first, "created": 0} == {**second, "created": 0}
    assert first["model"] == "any-name"


def test_texts_that_share_words_are_near(client: Client) -> None:
    question, near, far = client.embed(
        "Where is the treasure?", "The treasure is below the oak", "Bread needs flour and salt"
    )
    assert dot(question, near) > 0.5
    assert dot(question, far) < 0.1


def test_an_embedding_has_unit_length_and_the_dimension_of_its_model(client: Client) -> None:
    for text in ("one two two", "!!!", " "):
        (vector,) = client.embed(text)
        assert len(vector) == 1536
        assert math.isclose(dot(vector, vector), 1.0)
    (large,) = client.embed("one", model="text-embedding-3-large")
    (small,) = client.embed("one", dimensions=8)
    assert (len(large), len(small)) == (3072, 8)


def test_an_embedding_in_base64_holds_the_same_numbers(client: Client) -> None:
    (plain,) = client.embed("one two two")
    (encoded,) = client.embed("one two two", encoding_format="base64")
    assert struct.unpack("<1536f", base64.b64decode(encoded)) == pytest.approx(plain)


@pytest.mark.parametrize("given", ["one text", [1, 2, 3], [[1, 2], [3]], ["a", "b"]], ids=str)
def test_texts_and_tokens_can_be_embedded(client: Client, given: Any) -> None:
    data = client.post("/v1/embeddings", {"model": "any", "input": given})["data"]
    nested = isinstance(given, list) and not isinstance(given[0], int)
    assert [item["index"] for item in data] == list(range(len(given) if nested else 1))


def test_the_listed_models_are_chat_models_only(client: Client) -> None:
    """Letta takes every model of the list for one to chat with, embedding models too."""
    status, body = client.call("GET", "/v1/models")
    assert status == 200
    assert [model["id"] for model in json.loads(body)["data"]] == ["fake", "gpt-4o-mini"]


CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
HELLO = [user("hello")]


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        (CHAT, b"{not json", 400, None),
        (CHAT, b"", 400, None),
        (CHAT, b"[]", 400, None),
        (CHAT, {"messages": HELLO}, 400, "model"),
        (CHAT, {"model": "fake"}, 400, "messages"),
        (CHAT, {"model": "fake", "messages": []}, 400, "messages"),
        (CHAT, {"model": "fake", "messages": ["hello"]}, 400, "messages"),
        (CHAT, {"model": "fake", "messages": HELLO, "stream": True, "tools": [{}]}, 400, "tools"),
        (CHAT, {"model": "fake", "messages": HELLO, "tools": offer(INSERT),
                "tool_choice": {"function": {"name": "absent"}}}, 400, "tool_choice"),
        (CHAT, {"model": "fake", "messages": HELLO, "tool_choice": {}}, 400, "tool_choice"),
        (EMBEDDINGS, {"model": "any"}, 400, "input"),
        (EMBEDDINGS, {"model": "any", "input": ""}, 400, "input"),
        (EMBEDDINGS, {"model": "any", "input": [""]}, 400, "input"),
        (EMBEDDINGS, {"model": "any", "input": "a", "dimensions": 0.5}, 400, "dimensions"),
        (EMBEDDINGS, {"model": "any", "input": "a", "encoding_format": "x"}, 400,
         "encoding_format"),
        ("/v1/completions", {"model": "any"}, 404, None),
        ("/v1/responses", b"{}", 404, None),
    ],
)  # fmt: skip
def test_a_wrong_request_gets_an_error_as_of_openai_and_keeps_the_connection(
    client: Client, path: str, body: bytes | dict[str, Any], status: int, field: str | None
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found, answer = client.call("POST", path, data)
    error = json.loads(answer)["error"]
    assert (found, error["type"], error["param"]) == (status, "invalid_request_error", field)
    assert error["message"]
    assert client.call("GET", "/health") == (200, b'{"status": "ok"}')


def test_many_clients_are_served_at_once(port: int) -> None:
    connections = [Client(port) for _ in range(50)]
    for client in connections:
        client.connection.connect()
    for client in reversed(connections):
        assert client.complete(user("hello"))["content"] == "The fake model heard: hello"
        client.connection.close()


def test_it_runs_as_a_program_without_our_packages_and_ends_at_once(tmp_path: Path) -> None:
    script = tmp_path / "fake_model.py"
    script.write_bytes(Path(fake_model.__file__).read_bytes())
    number = free_port()
    argv = [sys.executable, "-I", str(script), "--port", str(number), "--delay-ms", "200"]
    # The program that is tested, with its signals: no run of a tool, which infra.process is for.
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert f"127.0.0.1:{number}/v1" in child.stdout.readline()
        client = Client(number)
        started = time.monotonic()
        client.complete(user("hello"))
        assert time.monotonic() - started >= 0.2
        child.terminate()  # with a connection still open
        assert child.wait(timeout=5) == 0
        assert child.communicate() == ("", "")
        client.connection.close()


def test_a_taken_port_is_told_in_one_line(port: int) -> None:
    argv = [sys.executable, "-I", fake_model.__file__, "--port", str(port)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"cannot listen on 127.0.0.1:{port}: Address already in use\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def dot(left: list[float], right: list[float]) -> float:
    return sum(one * other for one, other in zip(left, right, strict=True))


@pytest.fixture
def in_front(port: int) -> Iterator[Client]:
    """A second server that hands what is for the model `real` to the first one."""
    server = FakeModel("127.0.0.1", 0, forwards={"real": f"http://127.0.0.1:{port}/v1"})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = Client(server.server_port)
    yield client
    client.connection.close()
    server.shutdown()
    server.server_close()


def test_a_forwarded_model_is_listed_and_answers_from_behind(in_front: Client) -> None:
    status, body = in_front.call("GET", "/v1/models")
    assert status == 200
    assert "real" in {entry["id"] for entry in json.loads(body)["data"]}
    behind = in_front.complete(user("hello"), model="real")
    assert behind["content"] == "The fake model heard: hello"


def test_a_forwarded_stream_arrives_as_it_is(in_front: Client) -> None:
    request = {"model": "real", "messages": [user("hello there")]}
    plain = in_front.post("/v1/chat/completions", request)["choices"][0]["message"]["content"]
    chunks = streamed(in_front, {**request, "stream": True})
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert "".join(pieces) == plain


def test_a_missing_text_is_sent_on_as_an_empty_one() -> None:
    """llama.cpp's server refuses `"content": null`, which OpenAI's protocol allows."""
    request = {"messages": [{"role": "assistant", "content": None}, {"role": "user"}]}
    sent = fake_model._without_nulls(request)["messages"]
    assert sent == [{"role": "assistant", "content": ""}, {"role": "user"}]


def test_a_model_behind_that_is_down_is_named(port: int) -> None:
    server = FakeModel("127.0.0.1", 0, forwards={"gone": "http://127.0.0.1:9/v1"})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request = {"model": "gone", "messages": [user("hello")]}
    status, body = Client(server.server_port).call(
        "POST", "/v1/chat/completions", json.dumps(request).encode()
    )
    server.shutdown()
    server.server_close()
    assert status == 502
    assert b"127.0.0.1:9" in body
