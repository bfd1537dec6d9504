"""``--run export --to-hub OWNER/NAME``: an adapter or a dataset prepared, listed and, with ``--send``, sent.

Without ``--send`` nothing leaves the machine: the folder is written, and each of its files is named. Whoever looks at
it may edit its card; the same command lists it anew, and with ``--send`` exactly that is sent.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from lora_tui.config.hub_names import hub_dataset
from lora_tui.engine.export.hub_card import (
    AdapterFacts,
    adapter_card,
    card_license,
    card_problems,
    check_license,
    dataset_card,
    with_license,
)
from lora_tui.engine.export.hub_upload import (
    LIST,
    Upload,
    changed_since,
    check_token,
    list_files,
    read_list,
    send,
    write_list,
)
from lora_tui.engine.export.public_names import (
    CARD,
    copy_public,
    find_private,
    private_names,
    public_base,
    public_dataset,
)
from lora_tui.engine.models.adapter_source import AdapterSource, check_intact
from lora_tui.engine.models.builtin import HUB_NAME
from lora_tui.engine.models.checksums import has_checksums, write_checksums
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.files import atomic_folder, expanded, sha256_of, unwritable
from lora_tui.outputs import check_name
from lora_tui.store.training import evaluations
from lora_tui.text import count, file_size

SENDING = "sending"
"""The phase in which files travel."""

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_WORD}/{_WORD}")
_SHORTEST_PATH = 5

Write = Callable[[Path], Awaitable[None]]


def check_hub_options(ctx: RunContext) -> None:
    """Raise `UsageError` for options of an upload that contradict each other or name nothing."""
    repo = ctx.options.get("to_hub")
    if repo is None:
        if given := next((name for name in ("send", "public", "license") if ctx.options.get(name)), None):
            raise UsageError(f"--{given} is for an upload: add --to-hub OWNER/NAME.")
        return
    if not _REPO.fullmatch(str(repo)) or ".." in str(repo) or "--" in str(repo):
        raise UsageError(f"--to-hub takes OWNER/NAME, such as me/my-adapter, not {repo}.")
    if license_name := ctx.options.get("license"):
        check_license(str(license_name))
    if ctx.options.get("send"):
        check_token()


async def adapter_to_hub(ctx: RunContext, source: AdapterSource) -> dict[str, Any]:
    """List an adapter for the hub, or send it."""
    repo = str(ctx.options["to_hub"])
    await asyncio.to_thread(check_intact, source.folder)
    metrics: dict[str, float] = {}
    if source.run_id is not None:
        rows = [row for row in await evaluations(ctx.store, source.run_id) if row.model == "tuned"]
        metrics = next((row.metrics for row in reversed(rows) if row.step == source.step), {})
    base = public_base(source)
    if not base:
        ctx.warn(
            "The base model is a folder of this machine, so the card names none: where the hub has it, add "
            "base_model: OWNER/NAME to the head of README.md."
        )
    private = private_names(source)
    facts = AdapterFacts(repo, base, public_dataset(source), _license(ctx, base), metrics, private)
    card = await asyncio.to_thread(_card_of, source)

    async def write(folder: Path) -> None:
        left_out = await asyncio.to_thread(copy_public, source, folder, adapter_card(card, facts))
        if left_out:
            ctx.emit("note", message=f"Not sent, being of no use to others: {', '.join(left_out)}.")

    weights = await asyncio.to_thread(_identity, source)
    paths = [*(name for name in private if name.startswith("/")), f"{Path.home()}/"]
    return {"format": "adapter", "adapter_run": source.run_id} | await _to_hub(
        ctx, "model", {"format": "adapter", **weights}, write, paths
    )


async def dataset_to_hub(ctx: RunContext, form: str, data_file: Path, write_folder: Write) -> dict[str, Any]:
    """List a dataset for the hub, or send it; `write_folder` writes its files and card into a folder not there yet."""
    source = hub_dataset(data_file)

    async def write(folder: Path) -> None:
        inner = folder / str(ctx.options["to_hub"]).partition("/")[2]
        await write_folder(inner)
        card = (inner / CARD).read_text(encoding="utf-8")
        licence, sources = str(ctx.options.get("license") or ""), [] if source is None else [source.repo]
        card = dataset_card(card, str(ctx.options["to_hub"]), licence, sources)
        (inner / CARD).write_text(card, encoding="utf-8")
        for path in list(inner.iterdir()):
            path.rename(folder / path.name)
        inner.rmdir()

    data = str(data_file) if source is not None else await asyncio.to_thread(sha256_of, data_file)
    made_from = {"format": form, "data": data}
    options = {name: ctx.options.get(name) for name in ("split", "with_provenance", "parquet") if ctx.options.get(name)}
    return {"format": form} | await _to_hub(ctx, "dataset", made_from | options, write, [])


async def _to_hub(
    ctx: RunContext, kind: str, made_from: dict[str, Any], write: Write, paths: list[str]
) -> dict[str, Any]:
    """Prepare a folder unless it is there, list it, and send it where that is asked for."""
    repo, private = str(ctx.options["to_hub"]), not ctx.options.get("public")
    sends = bool(ctx.options.get("send"))
    target = expanded(str(ctx.options.get("output") or f"to-hub-{repo.partition('/')[2]}"))
    check_name(target, "--output")
    listed = await asyncio.to_thread(_listed, target, repo, kind, made_from)
    try:
        if listed is None:
            with atomic_folder(target) as scratch:
                await write(scratch)
                prepared = Upload(repo, kind, private, made_from, await asyncio.to_thread(list_files, scratch))
                write_list(scratch, prepared)
        elif sends:
            await asyncio.to_thread(_check_unchanged, ctx, target, listed)
        else:
            await asyncio.to_thread(_list_anew, target, str(ctx.options.get("license") or ""))
        files = await asyncio.to_thread(list_files, target)
    except OSError as problem:
        raise unwritable(target, problem) from problem
    upload = Upload(repo, kind, private, made_from, files)
    await asyncio.to_thread(write_list, target, upload)
    await asyncio.to_thread(_check, target, upload, paths)
    _tell(ctx, target, upload)
    result: dict[str, Any] = {
        "path": str(target.absolute()),
        "repository": repo,
        "kind": kind,
        "visible_to": "you alone" if private else "everybody",
        "listed": {file.path: file.size for file in upload.files},
        "sent": sends,
    }
    if not sends:
        return result
    ctx.raise_if_stopping()
    ctx.emit("progress", phase=SENDING, done=0, total=0)
    address, revision = await asyncio.to_thread(send, target, upload)
    ctx.emit("note", message=f"Sent to {address} as commit {revision[:12]}.")
    return result | {"address": address, "revision": revision}


def _listed(target: Path, repo: str, kind: str, made_from: dict[str, Any]) -> Upload | None:
    """Return the list of a folder that was prepared before; raises `UsageError` where it holds something else."""
    if not target.exists():
        return None
    listed = read_list(target) if target.is_dir() else None
    if listed is None:
        raise UsageError(f"--output {target} exists already and was not prepared for the hub; name another.")
    if (listed.repo, listed.kind, dict(listed.made_from)) != (repo, kind, made_from):
        raise UsageError(
            f"{target} was prepared for {listed.repo} out of other data or another adapter. Remove it, or name another "
            "folder with --output."
        )
    return listed


def _check_unchanged(ctx: RunContext, target: Path, listed: Upload) -> None:
    """Raise `UsageError` where what would be sent is not what was listed."""
    changed = changed_since(target, listed)
    license_name = ctx.options.get("license")
    if changed:
        what = f"{', '.join(changed[:5])} changed since it was listed"
    elif listed.private == bool(ctx.options.get("public")):
        what = f"it was listed as {'private' if listed.private else 'public'}"
    elif license_name and card_license((target / CARD).read_text(encoding="utf-8")) != license_name:
        what = f"it was listed without the licence {license_name}"
    else:
        return
    raise UsageError(f"Nothing is sent from {target}: {what}. List it anew, without --send, and then send it.")


def _check(target: Path, upload: Upload, paths: list[str]) -> None:
    """Raise `LoraTuiError` where a file tells of this machine or holds a secret, or the hub would refuse the card."""
    here = [path for path in {str(Path.cwd()), *paths} if len(path) >= _SHORTEST_PATH]
    if found := list(find_private(target, here)):
        raise LoraTuiError(f"Nothing is sent: {target}: {'; '.join(found[:3])}. Correct it there and list anew.")
    if problems := card_problems((target / CARD).read_text(encoding="utf-8"), upload.kind):
        raise LoraTuiError(f"The hub would refuse it: {target}: {'; '.join(problems[:3])}.")


def _tell(ctx: RunContext, target: Path, upload: Upload) -> None:
    """Name every file, and what is missing that others will look for."""
    verb = "Sending" if ctx.options.get("send") else "Would be sent"
    seen = "private" if upload.private else "public"
    head = (
        f"{verb} to {upload.repo} ({upload.kind}, {seen}): {count(len(upload.files), 'file')}, {file_size(upload.size)}"
    )
    ctx.emit("note", message=f"{head}. Files of the same names there are replaced.")
    for file in upload.files:
        ctx.emit("note", message=f"  {file.path}  {file_size(file.size)}")
    if not card_license((target / CARD).read_text(encoding="utf-8")):
        ctx.emit("note", message="No licence is named, so others may not use it: --license apache-2.0, or another.")
    if not ctx.options.get("send"):
        ctx.emit("note", message=f"Nothing has been sent. Look at {target}/{CARD}; the same command with --send sends.")


def _license(ctx: RunContext, base: str) -> str:
    """The licence that is named; that of the built-in model where nobody names one."""
    return str(ctx.options.get("license") or ("apache-2.0" if base == HUB_NAME else ""))


def _card_of(source: AdapterSource) -> str:
    path = source.folder / CARD
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _identity(source: AdapterSource) -> dict[str, Any]:
    """What tells an adapter from every other: its run and the hash of its weights."""
    (weights,) = [file for file in list_files(source.folder) if file.path == "adapter_model.safetensors"]
    return {"run": source.run_id, "weights": weights.sha256}


def _list_anew(target: Path, license_name: str) -> None:
    """Bring a folder that was looked at up to date: the licence that is named now, and the checksums of its files."""
    (target / LIST).unlink(missing_ok=True)
    card = target / CARD
    if license_name:
        card.write_text(with_license(card.read_text(encoding="utf-8"), license_name), encoding="utf-8")
    if has_checksums(target):
        write_checksums(target)
