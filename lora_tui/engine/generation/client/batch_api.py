"""OpenAI's Batch API: a file of requests, answered within a day at half the price.

    POST /files, POST /batches, GET /batches/{id}, GET /files/{id}/content

Each request of a file has a `custom_id`, ours; its answer comes in the batch's output file or, where it failed, in its
error file. A batch carries our own name in its metadata, by which it is found again where it is not known whether it
was begun.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_tui.engine.generation.client.answers import Answer, HttpClient
from lora_tui.text import one_line

NAME_KEY = "lora_tui"
"""The key of our own name for a batch in its metadata."""

ENDED = ("completed", "failed", "expired", "cancelled")
_MOST_FILE_BYTES = 400_000_000
_WINDOW = "24h"


class BatchRefused(Exception):  # noqa: N818  # a finding about one request
    """The endpoint refuses something about a batch: HTTP status and its reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"HTTP {status}: {reason}" if reason else f"HTTP {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class BatchState:
    """A batch as the endpoint has it: how many of its requests are `done` and `failed`, its files, its errors."""

    id: str
    status: str
    done: int
    failed: int
    files: Sequence[str]
    error: str


class BatchApi:
    """The batches of one account. Raises `BatchRefused`, and what the HTTP client raises."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def upload(self, name: str, lines: Sequence[Mapping[str, Any]]) -> str:
        """Upload requests as JSON Lines; returns the file's id."""
        border = f"----{uuid.uuid4().hex}"
        data = b"".join(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for line in lines)
        head = (
            f'--{border}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{border}\r\n'
            f'Content-Disposition: form-data; name="file"; filename="{name}.jsonl"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode()
        body = head + data + f"\r\n--{border}--\r\n".encode()
        answer = await self._http.send("POST", "/files", body, f"multipart/form-data; boundary={border}")
        return _text(_read(answer), "id")

    async def create(self, file: str, path: str, name: str) -> BatchState:
        """Begin a batch of the requests in a file, which all go to `path` such as ``/chat/completions``."""
        wanted = {
            "input_file_id": file,
            "endpoint": f"/v1{path}",
            "completion_window": _WINDOW,
            "metadata": {NAME_KEY: name},
        }
        answer = await self._http.send("POST", "/batches", json.dumps(wanted).encode(), "application/json")
        return _state(_read(answer))

    async def get(self, batch: str) -> BatchState:
        """Return how far a batch is."""
        return _state(_read(await self._http.send("GET", f"/batches/{batch}")))

    async def find(self, name: str) -> BatchState | None:
        """Return the batch with our name among the newest hundred, or None."""
        found = _read(await self._http.send("GET", "/batches?limit=100")).get("data")
        for one in found if isinstance(found, list) else []:
            metadata = one.get("metadata") if isinstance(one, dict) else None
            if isinstance(metadata, dict) and metadata.get(NAME_KEY) == name:
                return _state(one)
        return None

    async def cancel(self, batch: str) -> None:
        """Have a batch ended; what is answered by then is kept, and paid for."""
        _read(await self._http.send("POST", f"/batches/{batch}/cancel", b"{}", "application/json"))

    async def answers(self, state: BatchState) -> dict[str, Answer]:
        """Return the answers of a batch that has ended, by our ids; those that were never given are missing."""
        found: dict[str, Answer] = {}
        for file in state.files:
            answer = await self._http.send("GET", f"/files/{file}/content", most=_MOST_FILE_BYTES)
            if not 200 <= answer.status < 300:
                _read(answer)
            for line in answer.text.split("\n"):
                if line.strip() and (one := _answer(line)) is not None:
                    found[one[0]] = one[1]
        return found


def _answer(line: str) -> tuple[str, Answer] | None:
    """Return our id and the answer of a line; None where it says that none was given, or cannot be read."""
    try:
        read = json.loads(line)
    except (ValueError, RecursionError):
        return None
    response = read.get("response") if isinstance(read, dict) else None
    if not isinstance(response, dict) or not isinstance(status := response.get("status_code"), int):
        return None
    headers = {"x-request-id": str(response.get("request_id") or "")}
    return str(read.get("custom_id")), Answer(status, headers, json.dumps(response.get("body")))


def _read(answer: Answer) -> dict[str, Any]:
    """Return the object in an answer; raises `BatchRefused`."""
    try:
        read = json.loads(answer.text)
    except (ValueError, RecursionError):
        read = None
    if not 200 <= answer.status < 300 or not isinstance(read, dict):
        error = read.get("error") if isinstance(read, dict) else None
        said = error.get("message") if isinstance(error, dict) else error
        raise BatchRefused(answer.status, one_line(str(said or answer.text), 200))
    return read


def _state(read: Mapping[str, Any]) -> BatchState:
    counts = read.get("request_counts")
    counts = counts if isinstance(counts, dict) else {}
    errors = read.get("errors")
    listed = errors.get("data") if isinstance(errors, dict) else None
    said = [str(one.get("message")) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    files = [str(read[name]) for name in ("output_file_id", "error_file_id") if read.get(name)]
    done, failed = (counts.get(name) for name in ("completed", "failed"))
    return BatchState(
        _text(read, "id"),
        str(read.get("status") or ""),
        done if isinstance(done, int) else 0,
        failed if isinstance(failed, int) else 0,
        files,
        one_line("; ".join(said), 300),
    )


def _text(read: Mapping[str, Any], name: str) -> str:
    value = read.get(name)
    if not isinstance(value, str) or not value:
        raise BatchRefused(200, f"its answer has no {name}")
    return value
