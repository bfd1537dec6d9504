"""A real HTTP server that speaks enough of the Hugging Face hub's way for tests: look up, fetch, create, commit.

`FakeHub.used` points huggingface_hub at it, with a cache of its own, for as long as a test needs. Large files go over
Git LFS, small ones inside the commit, as at the hub. Everything that is sent is kept: `requests` has each request's
method, path and token, `uploaded` the hashes of what came over LFS.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.threaded_server import ThreadedServer

TOKEN = "hf_" + "Testtoken0" * 4


@dataclass
class Repo:
    """A repository: its commits, newest last, each with its files, and what is known of it."""

    private: bool = False
    gated: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add files to a branch; returns the commit."""
        before = dict(self.commits).get(self.branches.get(branch, ""), {})
        content = {**before, **files}
        digest = hashlib.sha1(f"{branch}{len(self.commits)}".encode())
        for name in sorted(content):
            digest.update(name.encode() + content[name])
        self.commits.append((digest.hexdigest(), content))
        self.branches[branch] = digest.hexdigest()
        return digest.hexdigest()

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit that a revision means, with its files."""
        commit = self.branches.get(revision, revision)
        found = dict(self.commits).get(commit)
        return None if found is None else (commit, found)


class FakeHub(ThreadedServer):
    """The server, in a thread of its own."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.uploaded: list[str] = []
        self.failing_uploads = 0
        """How many of the coming LFS uploads fail with status 500."""
        self._blobs: dict[str, bytes] = {}
        kind, repo, rev = "{kind:str}", "{owner:str}/{name:str}", "{revision:str}"
        routes = [
            Route("/api/repos/create", self._create, methods=["POST"]),
            Route("/api/validate-yaml", self._validate, methods=["POST"]),
            Route(f"/api/{kind}/{repo}/preupload/{rev}", self._preupload, methods=["POST"]),
            Route(f"/api/{kind}/{repo}/commit/{rev}", self._commit, methods=["POST"]),
            Route(f"/api/{kind}/{repo}/revision/{{revision:path}}", self._info),
            Route(f"/api/{kind}/{repo}", self._info),
            Route(f"/datasets/{repo}/resolve/{rev}/{{path:path}}", self._resolve, methods=["GET", "HEAD"]),
            Route(f"/datasets/{repo}.git/info/lfs/objects/batch", self._batch, methods=["POST"]),
            Route(f"/{repo}.git/info/lfs/objects/batch", self._batch, methods=["POST"]),
            Route("/lfs/{oid:str}", self._put, methods=["PUT"]),
        ]
        super().__init__(routes)
        self.url = f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Forget everything that was put here or asked."""
        self.repos.clear()
        self.requests.clear()
        self.uploaded.clear()
        self._blobs.clear()

    def dataset(self, name: str, files: dict[str, bytes | str], **facts: Any) -> Repo:
        """Add a data set with these files."""
        repo = self.repos[("dataset", name)] = Repo(**facts)
        repo.commit({path: one.encode() if isinstance(one, str) else one for path, one in files.items()})
        return repo

    def paths(self, method: str) -> list[str]:
        """The paths that were asked for by a method."""
        return [path for how, path, _ in self.requests if how == method]

    @contextmanager
    def used(self, cache: Path, token: str | None = TOKEN) -> Iterator[Self]:
        """Have huggingface_hub of this process ask this server, with a cache below `cache`."""
        from huggingface_hub import constants

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", self.url)
            template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
            patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            patch.setenv("LORA_TUI_CACHE", str(cache / "own"))
            patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
            patch.delenv("HF_TOKEN", raising=False)
            if token is not None:
                patch.setenv("HF_TOKEN", token)
            yield self

    def _named(self, request: Request) -> tuple[str, str]:
        self._note(request)
        values = request.path_params
        kind = values.get("kind") or ("datasets" if request.url.path.startswith("/datasets/") else "models")
        return kind.removesuffix("s"), f"{values['owner']}/{values['name']}"

    def _note(self, request: Request) -> str:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.requests.append((request.method, request.url.path, token))
        return token

    def _refused(self, request: Request, named: tuple[str, str]) -> Response | None:
        repo, token = self.repos.get(named), request.headers.get("authorization", "")
        if repo is None or (repo.private and TOKEN not in token):
            return JSONResponse({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if repo.gated and TOKEN not in token:
            return JSONResponse({"error": "gated"}, 403, {"X-Error-Code": "GatedRepo"})
        return None

    async def _info(self, request: Request) -> Response:
        named = self._named(request)
        if (refused := self._refused(request, named)) is not None:
            return refused
        found = self.repos[named].files(request.path_params.get("revision", "main"))
        if found is None:
            return JSONResponse({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        commit, files = found
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        return JSONResponse(
            {
                "id": named[1],
                "sha": commit,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
                "private": self.repos[named].private,
            }
        )

    async def _resolve(self, request: Request) -> Response:
        named = self._named(request)
        if (refused := self._refused(request, named)) is not None:
            return refused
        found = self.repos[named].files(request.path_params["revision"])
        content = None if found is None else found[1].get(request.path_params["path"])
        if found is None or content is None:
            return JSONResponse({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": found[0], "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        return Response(content, headers=headers)

    async def _create(self, request: Request) -> Response:
        token, asked = self._note(request), await request.json()
        if token != TOKEN:
            return JSONResponse({"error": "Invalid username or password."}, 401)
        owner = asked.get("organization") or "me"
        named = asked.get("type") or "model", f"{owner}/{asked['name']}"
        if named in self.repos:
            url = f"{self.url}/{named[1]}"
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        self.repos[named] = Repo(private=bool(asked.get("private") or asked.get("visibility") == "private"))
        self.repos[named].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        prefix = "datasets/" if named[0] == "dataset" else ""
        return JSONResponse({"url": f"{self.url}/{prefix}{named[1]}", "id": named[1]})

    async def _validate(self, request: Request) -> Response:
        """As the hub does with a README.md before it is committed."""
        import yaml

        self._note(request)
        content = (await request.json())["content"]
        head = yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else {}
        named = [head.get("base_model"), *(head.get("datasets") or ())]
        errors = [{"message": f'"{one}" is not a valid repo id'} for one in named if one and one.count("/") != 1]
        return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)

    async def _preupload(self, request: Request) -> Response:
        named, asked = self._named(request), await request.json()
        if (refused := self._refused(request, named)) is not None:
            return refused
        large = (".safetensors", ".parquet", ".gguf")
        modes = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(large) else "regular",
                "shouldIgnore": False,
            }
            for one in asked["files"]
        ]
        return JSONResponse({"files": modes})

    async def _batch(self, request: Request) -> Response:
        self._named(request)
        asked = await request.json()
        objects = [
            one
            if one["oid"] in self._blobs
            else {**one, "actions": {"upload": {"href": f"{self.url}/lfs/{one['oid']}", "header": {}}}}
            for one in asked["objects"]
        ]
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _put(self, request: Request) -> Response:
        self._note(request)
        content = await request.body()
        if self.failing_uploads:
            self.failing_uploads -= 1
            return Response("broken", 400)
        oid = request.path_params["oid"]
        assert hashlib.sha256(content).hexdigest() == oid
        self._blobs[oid] = content
        self.uploaded.append(oid)
        return Response()

    async def _commit(self, request: Request) -> Response:
        named = self._named(request)
        files: dict[str, bytes] = {}
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self._blobs[value["oid"]]
        repo = self.repos[named]
        if not repo.private and TOKEN not in request.headers.get("authorization", ""):
            return JSONResponse({"error": "Forbidden"}, 403)
        commit = repo.commit(files)
        prefix = "datasets/" if named[0] == "dataset" else ""
        url = f"{self.url}/{prefix}{named[1]}/commit/{commit}"
        return JSONResponse({"commitUrl": url, "commitOid": commit, "hookOutput": "", "success": True})
