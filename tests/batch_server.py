"""A server with OpenAI's Batch API beside single calls: files, batches, and the ways in which they end.

What is in a batch is answered as single calls are, faults included, when `held` is false and it is looked at for the
second time. `answered` counts the calls of batches, `created` has every batch's body.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.openai_server import OpenAIServer, Received, kind_of


class BatchServer(OpenAIServer):
    """The server; `ends` are the ways in which the coming batches end, ``completed`` where none is left."""

    def reset(self, key: str | None = None) -> None:
        super().reset(key)
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.ends: list[str] = []
        self.held = False
        self.held_kind = ""
        """The kind of call whose batches are held."""
        self.faults: dict[str, list[int]] = {"/v1/files": [], "/v1/batches": []}
        """Statuses with which the next requests are refused; 0 does what is asked and breaks the connection."""
        self.share_answered = 1.0
        """Of a batch that has expired."""
        self.looks_refused = 0
        """The status with which looks at a batch, and its cancelling, are refused; 0 for none."""
        self.answered = 0

    def _more_routes(self) -> list[Route]:
        return [
            Route("/v1/files", self._upload, methods=["POST"]),
            Route("/v1/files/{file}/content", self._content_of, methods=["GET"]),
            Route("/v1/batches", self._create, methods=["POST"]),
            Route("/v1/batches", self._list, methods=["GET"]),
            Route("/v1/batches/{batch}", self._get, methods=["GET"]),
            Route("/v1/batches/{batch}/cancel", self._cancel, methods=["POST"]),
        ]

    async def _scripted(self, request: Request, answer: Any) -> Response:
        faults = self.faults[request.url.path]
        status = faults.pop(0) if faults else 200
        if status == 0:
            return BrokenResponse()
        if status != 200:
            return JSONResponse({"error": {"message": "scripted"}}, status)
        return JSONResponse(answer())

    async def _upload(self, request: Request) -> Response:
        body = await request.body()

        def keep() -> Mapping[str, str]:
            name = f"file-{len(self.files) + 1}"
            self.files[name] = b"\n".join(line for line in body.split(b"\n") if line.startswith(b'{"custom_id"'))
            assert b'name="purpose"\r\n\r\nbatch\r\n' in body
            return {"id": name}

        return await self._scripted(request, keep)

    async def _create(self, request: Request) -> Response:
        body = await request.json()
        faults = self.faults["/v1/batches"]
        if faults and faults[0] == 0:
            self._begin(body)
        return await self._scripted(request, lambda: self._begin(body))

    def _begin(self, body: dict[str, Any]) -> dict[str, Any]:
        self.created.append(body)
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].split(b"\n")]
        name = f"batch-{len(self.batches) + 1}"
        counts = {"total": len(lines), "completed": 0, "failed": 0}
        self.batches[name] = {"id": name, "status": "validating", "request_counts": counts, "lines": lines, **body}
        return self._shown(name)

    def _shown(self, name: str) -> dict[str, Any]:
        return {key: value for key, value in self.batches[name].items() if key != "lines"}

    async def _list(self, request: Request) -> Response:
        return JSONResponse({"data": [self._shown(name) for name in reversed(self.batches)]})

    async def _get(self, request: Request) -> Response:
        if self.looks_refused:
            return JSONResponse({"error": {"message": "scripted"}}, self.looks_refused)
        name = request.path_params["batch"]
        batch = self.batches[name]
        if batch["status"] == "validating":
            batch["status"] = "in_progress"
        elif (
            batch["status"] == "in_progress" and not self.held and kind_of(batch["lines"][0]["body"]) != self.held_kind
        ):
            self._end(name, self.ends.pop(0) if self.ends else "completed")
        return JSONResponse(self._shown(name))

    async def _cancel(self, request: Request) -> Response:
        if self.looks_refused:
            return JSONResponse({"error": {"message": "scripted"}}, self.looks_refused)
        name = request.path_params["batch"]
        self._end(name, "cancelled")
        return JSONResponse(self._shown(name))

    async def _content_of(self, request: Request) -> Response:
        return Response(self.files[request.path_params["file"]])

    def _end(self, name: str, status: str) -> None:
        batch = self.batches[name]
        batch["status"] = status
        if status == "failed":
            batch["errors"] = {"data": [{"message": "Enqueued token limit reached", "code": "token_limit_exceeded"}]}
            return
        lines = batch["lines"]
        done = lines if status == "completed" else lines[: int(self.share_answered * len(lines))]
        good, bad = [], []
        for line in done:
            status_code, answer = self._reply(line["body"])
            self.answered += status_code == 200
            response = {"status_code": status_code, "request_id": "req", "body": answer}
            (good if status_code == 200 else bad).append({"custom_id": line["custom_id"], "response": response})
        bad += [
            {"custom_id": line["custom_id"], "response": None, "error": {"code": "batch_expired", "message": "late"}}
            for line in lines[len(done) :]
        ]
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}
        for key, found in (("output_file_id", good), ("error_file_id", bad)):
            if found:
                file = f"file-{len(self.files) + 1}"
                self.files[file] = b"".join(json.dumps(one).encode() + b"\n" for one in found)
                batch[key] = file

    def _reply(self, body: dict[str, Any]) -> tuple[int, Any]:
        fault = self._standing_fault(body) or self._fault()
        kind, content = self._content(body, fault)
        outcome = "ok" if fault is None else fault.kind
        self.received.append(Received(kind_of(body), body, {}, 0.0, outcome, content, 0))
        if fault is not None and fault.kind == "http":
            return fault.status, fault.body
        return 200, self._completion(body, kind, content, fault)


class BrokenResponse(Response):
    """A connection that breaks before the answer is whole."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await asyncio.sleep(0)
        raise ConnectionError("scripted")
