"""A model that repeats itself: OpenAI's protocol, answered by rules instead of by a network.

    python fake_model.py --port N [--host 127.0.0.1] [--delay-ms 0] [--forward NAME=URL]

It lets a Letta server answer messages at no cost and always in the same way. It needs only the
standard library of Python 3.11 or later, so it can be copied and run by any interpreter, the
server's own for instance. Point a server to it with OPENAI_BASE_URL=http://HOST:N/v1 and any
OPENAI_API_KEY: Letta lists its chat models as `openai-proxy/fake` (context window 30000, Letta's
default for names that it doesn't know) and `openai-proxy/gpt-4o-mini` (128000), and embeds with
`openai/text-embedding-3-small`.

GET  /health               200 while it serves
GET  /v1/models            its chat models; a request may name any other id as well
POST /v1/chat/completions  plain or streamed; what it answers follows from the last message:

* a user message (Letta's JSON envelope is opened first) that holds `call TOOL {"argument": 1}` is
  answered by a call of that tool, the first one if there are several. Required arguments that the
  message leaves out get a sane value. A tool that the request doesn't offer, and arguments that
  aren't a JSON object, are answered by a text that says so.
* a tool's result is answered by `The tool TOOL answered: ...`.
* anything else is answered by `The fake model heard: ...`. What is repeated is cut off after 1000
  characters, or the summary that Letta asks for of a long conversation would be as long as it.
* Where the request demands a tool (`tool_choice`), texts go out through `send_message`, the way
  of Letta's older agent types. If that isn't offered, the demanded tool is called, or the first.

With `--forward NAME=URL` the model NAME is listed too, and requests that name it go to the real
server at URL (`http://127.0.0.1:8286/v1`): one endpoint then has a model that thinks and embeddings
that work, where the real server has none.

POST /v1/embeddings        a hashed bag of words of unit length: texts that share words are near.

The same request gives the same answer, ids included; only the time `created` differs. Token counts
are one for four characters. Wrong requests get OpenAI's error bodies: 400, or 404 for a path.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import json
import math
import re
import signal
import socketserver
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

CHAT_MODELS = ("fake", "gpt-4o-mini")
DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
DEFAULT_DIMENSION = 1536
LARGEST_DIMENSION = 4096  # the width of Letta's vector column

DIRECTIVE = re.compile(r"\bcall\s+([A-Za-z0-9_-]{1,64})\s*(?=\{)")
# Written in the user's name by Letta, and no words of a person.
UNSPOKEN = ("heartbeat", "login", "system_alert")
LONGEST_ECHO = 1000  # characters


class RequestError(Exception):
    """A request that can't be answered: an HTTP status, and what is wrong with which field."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": field,
                "code": "not_found" if status == 404 else None,
            }
        }


def complete(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request for a chat completion, as the whole (not streamed) response."""
    messages = _required(request, "messages", list)
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise RequestError(400, "messages: a list of at least one object is needed", "messages")
    model = _required(request, "model", str)
    tools = _tools(request)
    digest = _digest(request)
    answer = _answer(messages, tools, request.get("tool_choice"))
    message: dict[str, Any] = {"role": "assistant", "content": answer}
    if isinstance(answer, ToolCall):
        # Letta cuts longer ids off: 29 characters are its limit.
        call = {"id": f"call_{digest[:24]}", "type": "function", "function": answer.function()}
        message |= {"content": None, "tool_calls": [call]}
    prompt, completion = _tokens([messages, request.get("tools")]), _tokens(message)
    return {
        "id": f"chatcmpl-{digest[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": "tool_calls" if isinstance(answer, ToolCall) else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }


def stream(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Cut the answer to `request` into the chunks of a streamed one, word by word."""
    whole = complete(request)
    message = whole["choices"][0]["message"]
    base = {**whole, "object": "chat.completion.chunk"}
    del base["usage"]

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**base, "choices": [choice]}

    for call in message.get("tool_calls", []):
        function = {"name": call["function"]["name"], "arguments": ""}
        head = {"index": 0, "id": call["id"], "type": "function", "function": function}
        yield chunk({"role": "assistant", "content": None, "tool_calls": [head]})
        for piece in _pieces(call["function"]["arguments"]):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    if message["content"] is not None:
        yield chunk({"role": "assistant", "content": ""})
        for piece in _pieces(message["content"]):
            yield chunk({"content": piece})
    yield chunk({}, whole["choices"][0]["finish_reason"])
    if (request.get("stream_options") or {}).get("include_usage"):
        yield {**base, "choices": [], "usage": whole["usage"]}


def embed(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request for embeddings of a text, of tokens, or of a list of either."""
    model = _required(request, "model", str)
    given = _required(request, "input", (str, list))
    single = isinstance(given, str) or all(isinstance(item, int) for item in given)
    inputs = [given] if single else given
    if not given or not all(isinstance(item, (str, list)) and item for item in inputs):
        raise RequestError(400, "input: texts or lists of tokens, none of them empty", "input")
    dimension = request.get("dimensions") or DIMENSIONS.get(model, DEFAULT_DIMENSION)
    if not isinstance(dimension, int) or not 1 <= dimension <= LARGEST_DIMENSION:
        raise RequestError(400, f"dimensions: 1 to {LARGEST_DIMENSION}", "dimensions")
    encoding = request.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise RequestError(400, "encoding_format: float or base64", "encoding_format")
    texts = [item if isinstance(item, str) else " ".join(map(str, item)) for item in inputs]
    vectors = [_vector(text, dimension) for text in texts]
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector if encoding == "float" else _base64(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    tokens = _tokens(texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": model, "data": data, "usage": usage}


class ToolCall:
    """The wish to have a tool run, instead of a text."""

    def __init__(self, tool: dict[str, Any], arguments: dict[str, Any], goes_on: bool) -> None:
        self.name = tool["name"]
        self.arguments = _filled(tool.get("parameters") or {}, arguments, goes_on)

    def function(self) -> dict[str, str]:
        return {"name": self.name, "arguments": json.dumps(self.arguments, ensure_ascii=False)}


def _answer(messages: list[Any], tools: dict[str, Any], choice: Any) -> str | ToolCall:
    heard, report = _last(messages)
    directive = None if report or choice == "none" else DIRECTIVE.search(heard)
    text = report or f"The fake model heard: {_short(heard)}"
    if directive:
        name = directive.group(1)
        arguments = _json_at(heard, directive.end())
        if name in tools and isinstance(arguments, dict):
            return ToolCall(tools[name], arguments, goes_on=True)
        reason = (
            "its arguments are not a JSON object"
            if name in tools
            else "the request doesn't offer that tool"
        )
        text = f"The fake model can't call {name}: {reason}."
    name = _demanded(tools, choice)
    if name is None:
        return text
    return ToolCall(tools[name], {"message": text} if name == "send_message" else {}, goes_on=False)


def _demanded(tools: dict[str, Any], choice: Any) -> str | None:
    """The name of the tool through which the answer has to go, if it has to go through one."""
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        if name not in tools:
            raise RequestError(400, f"tool_choice: no tool is named {name}", "tool_choice")
        return str(name)
    if choice != "required" or not tools:
        return None
    return "send_message" if "send_message" in tools else next(iter(tools))


def _last(messages: list[Any]) -> tuple[str, str | None]:
    """What came last: the words of a user, or a tool's result, and then the text to report it."""
    for position in range(len(messages) - 1, -1, -1):
        message = messages[position]
        envelope, text = _opened(message.get("content"))
        if message.get("role") == "tool":
            name = _tool_of(message.get("tool_call_id"), messages[:position])
            return "", f"The tool {name} answered: {_short(text)}"
        if message.get("role") == "user" and envelope not in UNSPOKEN:
            return text, None
    return "", None


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_ECHO else text[:LONGEST_ECHO] + "..."


def _opened(content: Any) -> tuple[str | None, str]:
    """The type of Letta's envelope around a content, if there is one, and the text in it."""
    if isinstance(content, list):
        parts = [part.get("text", "") for part in content if isinstance(part, dict)]
        opened = [_opened(part) for part in parts]
        return (opened[-1][0] if opened else None), "\n".join(text for _, text in opened)
    text = content if isinstance(content, str) else ""
    try:
        envelope = json.loads(text)
    except ValueError:
        return None, text
    if not isinstance(envelope, dict):
        return None, text
    inner = envelope.get("message", text)
    return envelope.get("type"), inner if isinstance(inner, str) else json.dumps(inner)


def _tool_of(call_id: Any, messages: list[Any]) -> str:
    for message in reversed(messages):
        for call in message.get("tool_calls") or []:
            if call.get("id") == call_id:
                return str(call["function"]["name"])
    return "that was called"


def _json_at(text: str, position: int) -> Any:
    try:
        # Not strict: a person who types a line break into a string means one.
        return json.JSONDecoder(strict=False).raw_decode(text, position)[0]
    except ValueError:
        return None


def _filled(schema: dict[str, Any], given: dict[str, Any], goes_on: bool) -> dict[str, Any]:
    """`given`, and a value for everything else that the tool's schema requires.

    Letta's older agents add two arguments to every tool: their thoughts, and `request_heartbeat`,
    without which they never see the tool's result.
    """
    properties = schema.get("properties") or {}
    required = list(schema.get("required") or [])
    if "request_heartbeat" in properties:
        required.append("request_heartbeat")
    known = {"thinking": "I do what the message says.", "request_heartbeat": goes_on}
    filler = {
        name: known.get(name, _sane(properties.get(name) or {}))
        for name in required
        if name not in given
    }
    # In the schema's order: Letta puts the thoughts first, and streams them as they come.
    values = {**given, **filler}
    order = [*(name for name in properties if name in values), *values]
    return {name: values[name] for name in order}


def _sane(schema: dict[str, Any]) -> Any:
    if "default" in schema:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    kinds = schema.get("type") or [kind.get("type") for kind in schema.get("anyOf", [])]
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "null" in kinds:
        return None
    values = {"integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}
    return values.get(kinds[0] if kinds else "string", "fake")


def _tools(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {tool["function"]["name"]: tool["function"] for tool in request.get("tools") or []}
    except (TypeError, KeyError):
        raise RequestError(400, "tools: each needs a function with a name", "tools") from None


def _required(request: dict[str, Any], field: str, kind: type | tuple[type, ...]) -> Any:
    if field not in request:
        raise RequestError(400, f"you must provide {field}", field)
    if not isinstance(request[field], kind):
        raise RequestError(400, f"{field} has the wrong type", field)
    return request[field]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _tokens(value: Any) -> int:
    return math.ceil(len(json.dumps(value, ensure_ascii=False)) / 4)


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)


def _vector(text: str, dimension: int) -> list[float]:
    counts = [0.0] * dimension
    # A text without a word still needs a direction: nothing is near a vector of length 0.
    for word in re.findall(r"\w+", text.lower()) or [text]:
        place = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        counts[int.from_bytes(place, "big") % dimension] += 1.0
    length = math.sqrt(sum(count * count for count in counts))
    return [count / length for count in counts]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open between requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together: apart, each answer waits 40 ms for an ACK
    server: FakeModel

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (inherited)
        """Say nothing: messages are no business of a log, and errors go to the one who asked."""

    def _serve(self) -> None:
        try:
            # Read also where it isn't used, or the next request on this connection starts in it.
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._route(self.command, self.path.partition("?")[0].rstrip("/"), body)
        except RequestError as error:
            self._send(error.status, error.body)
        except ConnectionError:
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 (told to the one who asked, who sees it fail)
            self._send(500, {"error": {"message": repr(error), "type": "server_error"}})

    def _route(self, method: str, path: str, body: bytes) -> None:
        if (method, path) == ("GET", "/health"):
            return self._send(200, {"status": "ok"})
        if (method, path) == ("GET", "/v1/models"):
            entry = {"object": "model", "created": 0, "owned_by": "letta-ops"}
            # Without the embedding models: Letta takes everything in this list for a chat model.
            data = [{"id": name, **entry} for name in (*CHAT_MODELS, *self.server.forwards)]
            return self._send(200, {"object": "list", "data": data})
        if (method, path) == ("POST", "/v1/embeddings"):
            return self._send(200, embed(_parsed(body)))
        if (method, path) == ("POST", "/v1/chat/completions"):
            request = _parsed(body)
            if target := self.server.forwards.get(str(request.get("model"))):
                return self._forward(target, request)
            time.sleep(self.server.delay)
            if request.get("stream"):
                return self._send_stream(stream(request))
            return self._send(200, complete(request))
        raise RequestError(404, f"unknown path: {method} {self.path}")

    def _forward(self, target: str, request: dict[str, Any]) -> None:
        """Hand the request to a real server and its answer back, a stream as it comes."""
        url = urlsplit(target)
        link = http.client.HTTPConnection(url.hostname or "", url.port, timeout=600)
        try:
            link.request(
                "POST",
                f"{url.path}/chat/completions",
                json.dumps(_without_nulls(request)).encode(),
                {"Content-Type": "application/json"},
            )
            answer = link.getresponse()
        except OSError as error:
            raise RequestError(502, f"the model's server at {target}: {error}") from None
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := answer.read1(65536):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_stream(self, chunks: Iterator[dict[str, Any]]) -> None:
        # All before the head, so that a wrong request still gets its status.
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in [*lines, "data: [DONE]\n\n"]:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line.encode()), line.encode()))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


def _without_nulls(request: dict[str, Any]) -> dict[str, Any]:
    """OpenAI takes `"content": null` beside a tool call; llama.cpp's server insists on a text."""
    messages = request.get("messages")
    if not isinstance(messages, list):
        return request
    texts = [
        {**message, "content": ""}
        if isinstance(message, dict) and message.get("content", "") is None
        else message
        for message in messages
    ]
    return {**request, "messages": texts}


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise RequestError(400, "the body is not a JSON object")
    return request


class FakeModel(ThreadingHTTPServer):
    """The server; `delay` is the time in seconds before each chat completion.

    `forwards` maps the names of real models to the URLs that serve them.
    """

    request_queue_size = 128

    def __init__(
        self,
        host: str,
        port: int,
        delay: float = 0.0,
        forwards: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__((host, port), Handler)
        self.delay = delay
        self.forwards = dict(forwards or {})

    def server_bind(self) -> None:
        # Without HTTPServer's own, which asks the DNS for our name and can wait for seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="A deterministic, OpenAI-compatible model.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--delay-ms", type=int, default=0)
    parser.add_argument("--forward", action="append", default=[], metavar="NAME=URL")
    options = parser.parse_args()
    forwards = dict(each.partition("=")[::2] for each in options.forward)
    # Also for a container, where a process of number 1 without a handler isn't ended by SIGTERM.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        server = FakeModel(options.host, options.port, options.delay_ms / 1000, forwards)
    except OSError as error:
        sys.exit(f"cannot listen on {options.host}:{options.port}: {error.strerror}")
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())  # as `launch.py` writes it
    print(f"{now} the fake model listens on http://{options.host}:{options.port}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
