"""The pages that introduce a dataset to other programs: its card, and the entry that LLaMA-Factory reads.

A card is Markdown with a head in YAML (Hugging Face Hub, "Dataset cards"): which file is which split. The entry follows
`data/README.md` of LLaMA-Factory.
"""

from collections.abc import Mapping
from typing import Any

from lora_tui.engine.export.provenance import FIELDS
from lora_tui.text import count, one_line

THIS_DATASET = "this-folder"
"""Stands for the dataset's folder in its card: nobody knows yet where it will be read."""

_DOCUMENTS = "documents_"
_MOST_DOCUMENTS = 30

_ENTRIES: Mapping[str, dict[str, Any]] = {
    "messages": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
    "sharegpt": {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
        "tags": {
            "role_tag": "from",
            "content_tag": "value",
            "user_tag": "human",
            "assistant_tag": "gpt",
            "system_tag": "system",
        },
    },
    "alpaca": {"columns": {"prompt": "instruction", "query": "input", "response": "output"}},
    "prompt-completion": {"columns": {"prompt": "prompt", "response": "completion"}},
}
_TEXT_ENTRY: dict[str, Any] = {"columns": {"prompt": "text"}}
"""Of plain texts, which LLaMA-Factory reads in its stage ``pt``."""

_WHAT_TO_KNOW = """
## What to know

The examples were written by a model about the documents below and accepted by a score, not each by a person. Errors of
the writer that the judge missed are in it; what the documents get wrong is, too. Who may use it depends on the licence
of the documents and on the terms of the writer's maker."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_entry(file_name: str, form: str) -> dict[str, Any]:
    """Return the entry of one file in LLaMA-Factory's ``dataset_info.json``."""
    return {"file_name": file_name, **(_TEXT_ENTRY if file_name.startswith(_DOCUMENTS) else _ENTRIES[form])}


def card_text(name: str, form: str, manifest: Mapping[str, Any]) -> str:
    """Return the dataset card, out of what the manifest says."""
    files: Mapping[str, Mapping[str, Any]] = manifest["files"]
    total = sum(file["records"] for file in files.values())
    synthetic = bool(manifest["runs"])
    parts = [_head(files, total, synthetic=synthetic), f"# {one_line(name, 100)}\n"]
    runs = list(manifest["runs"].values())
    writers = sorted({run["writer"] for run in runs})
    judges = sorted({judge for run in runs for judge in run["judges"]})
    known, documents = manifest["provenance"]["known"], manifest["documents"]
    source = f" from {count(len(documents), 'document')}" if documents else ""
    made = f"{count(total, 'example')}, made{source} with {manifest['made_by']}."
    if writers:
        made += f" Written by {_names(writers)} and judged by {_names(judges)}, with the passage in view."
    if manifest["score"] is not None:
        made += f" Scores (0-10): mean {manifest['score']['mean']:.2f}, least {manifest['score']['least']:.2f}."
    parts.append(made + "\n")
    parts.append("## Files\n\n| file | examples | SHA-256 |\n| --- | --- | --- |")
    parts += [f"| `{file}` | {facts['records']:,} | `{facts['sha256'][:16]}…` |" for file, facts in files.items()]
    split = manifest["split"]
    if split["validation"]:
        parts.append(
            f"\nThe split is by document: {split['train']:,} examples to train on and {split['validation']:,} to "
            "validate with have no document in common."
            + (" Where the document is not known, it is by question." if known < total else "")
        )
    if manifest["provenance"]["given"]:
        parts.append(f"\n## Provenance\n\nKnown of {known:,} of {total:,} examples, in the column `provenance`:\n")
        parts += [f"- `{field}`: {meaning}" for field, meaning in FIELDS.items()]
    parts.append(f"\n## How to read it\n\n```python\n{_loading(files)}```\n")
    parts.append("LLaMA-Factory: name this folder as `dataset_dir`; `dataset_info.json` has the entries.")
    if writers:
        parts.append(_WHAT_TO_KNOW)
    if documents:
        parts.append("\n## Documents\n\n| document | examples | split |\n| --- | --- | --- |")
        shown = list(documents.items())[:_MOST_DOCUMENTS]
        parts += [f"| {_code(path)} | {facts['examples']:,} | {facts['split']} |" for path, facts in shown]
        if len(documents) > _MOST_DOCUMENTS:
            parts.append(f"\n{len(documents) - _MOST_DOCUMENTS:,} more are in `manifest.json`.")
    return "\n".join(parts) + "\n"


def _head(files: Mapping[str, Mapping[str, Any]], total: int, *, synthetic: bool) -> str:
    """Return the YAML at the beginning: plain words and names of our own alone, so nothing has to be escaped."""
    lines = [
        "---",
        "task_categories:",
        "- question-answering",
        "- text-generation",
        "tags:",
        *(["- synthetic"] if synthetic else []),
        "- lora-tui",
    ]
    size = next((name for most, name in _SIZES if total < most), "n>1M")
    lines += ["size_categories:", f"- {size}", "configs:"]
    for config in ("default", "documents"):
        own = [file for file in files if file.startswith(_DOCUMENTS) == (config == "documents")]
        if own:
            lines += [f"- config_name: {config}", "  data_files:"]
            for file in own:
                split = "validation" if "validation" in file else "train"
                lines += [f"  - split: {split}", f"    path: {file}"]
    return "\n".join([*lines, "---\n"])


def _loading(files: Mapping[str, Any]) -> str:
    lines = ["from datasets import load_dataset\n", f'examples = load_dataset("{THIS_DATASET}")  # for TRL: SFTTrainer']
    if any(file.startswith(_DOCUMENTS) for file in files):
        lines.append(f'texts = load_dataset("{THIS_DATASET}", "documents")  # plain texts')
    return "\n".join(lines) + "\n"


def _names(names: list[str]) -> str:
    return ", ".join(_code(name) for name in names)


def _code(text: str) -> str:
    """Return foreign text as code, so that nothing of it is markup."""
    return f"`{one_line(text, 100).replace('`', '′').replace('|', '¦')}`"
