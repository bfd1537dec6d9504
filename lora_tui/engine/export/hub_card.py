"""Cards as a hub takes them: the head of a README.md with base model, data sets, licence and metrics, and its check.

huggingface_hub writes and parses the head; what the hub would refuse when it is sent is refused here: a licence that it
does not know, a base model or data set that is no name of the hub. The rest of the card is what training or the
dataset's export has written, without paths of this machine.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_tui.engine.export.dataset_card import THIS_DATASET
from lora_tui.engine.models.adapter_source import THIS_FOLDER as FOLDER
from lora_tui.errors import UsageError

LICENSES = frozenset(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 "
    "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 "
    "cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr "
    "mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "grok2-community gemma unknown other".split()
)
"""What a card may name (hub documentation, "Licenses")."""

_METRICS = {"bleu": "bleu", "rougeL": "rouge", "exact_match": "exact_match", "token_f1": "f1"}
"""Metrics of an evaluation that the hub knows, by our name, with its own."""

_TITLES = {"bleu": "BLEU", "rougeL": "ROUGE-L", "exact_match": "Exact match", "token_f1": "F1 of the words"}

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What a hub wants to know of an adapter; empty where it is not known.

    `metrics` are those of its evaluation on the test prompts, `private` names what stands in its files and means
    something on this machine alone, with what to write in its place.
    """

    repo: str
    base_model: str = ""
    dataset: str = ""
    license: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    private: Mapping[str, str] = field(default_factory=dict)


def check_license(name: str) -> None:
    """Raise `UsageError` for a licence that the hub does not know."""
    if name not in LICENSES:
        near = ", ".join(sorted(one for one in LICENSES if one[:3] == name.lower()[:3])) or "apache-2.0, mit, cc-by-4.0"
        raise UsageError(f"--license {name}: the hub does not know it. Some that it knows: {near}, other.")


def adapter_card(text: str, facts: AdapterFacts) -> str:
    """Return an adapter's card for the hub, out of the one beside its weights; empty text makes a short one."""
    from huggingface_hub import EvalResult, ModelCardData

    head, body = _divided(text, "ModelCard")
    body = _body(body, facts) or f"\n# {facts.repo.partition('/')[2]}\n\nA LoRA adapter, to be loaded with PEFT.\n"
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="test-prompts",
            dataset_name="test prompts of the training",
            metric_type=_METRICS[name],
            metric_name=_TITLES[name],
            metric_value=round(value, 4),
        )
        for name, value in facts.metrics.items()
        if name in _METRICS
    ]
    known = {
        key: value for key, value in head.items() if key not in ("base_model", "model-index", "tags", "eval_results")
    }
    known |= {"library_name": "peft", "pipeline_tag": "text-generation"}
    if facts.base_model:
        known |= {"base_model": facts.base_model, "base_model_relation": "adapter"}
    if facts.dataset:
        known["datasets"] = [facts.dataset]
    if facts.license:
        known["license"] = facts.license
    if results:
        known |= {
            "metrics": sorted({result.metric_type for result in results}),
            "model_name": facts.repo.partition("/")[2],
        }
    tags = [str(tag) for tag in head.get("tags") or ()]
    data = ModelCardData(tags=list(dict.fromkeys([*tags, "lora", "lora-tui"])), eval_results=results or None, **known)
    return f"---\n{data.to_yaml()}\n---\n{body}"


def dataset_card(text: str, repo: str, license_name: str, sources: list[str]) -> str:
    """Return a dataset's card with its name on the hub, a licence, and the hub's data sets that it is made from."""
    from huggingface_hub import DatasetCardData

    head, body = _divided(text, "DatasetCard")
    if license_name:
        head["license"] = license_name
    if sources:
        head["source_datasets"] = sources
    body = body.replace(f'"{THIS_DATASET}"', f'"{repo}"')
    return f"---\n{DatasetCardData(**head).to_yaml()}\n---\n{body}"


def with_license(text: str, name: str) -> str:
    """Return a card with this licence in place of its own."""
    head, body = _divided(text, "ModelCard")
    from huggingface_hub.repocard_data import CardData

    return f"---\n{CardData(**head | {'license': name}).to_yaml()}\n---\n{body}"


def card_license(text: str) -> str:
    """Return the licence that a card names; empty where it names none."""
    return str(_divided(text, "ModelCard")[0].get("license") or "")


def card_problems(text: str, kind: str) -> list[str]:
    """Return what a hub would refuse a card for, or lacks in it: sentences; `kind` is "model" or "dataset"."""
    try:
        head, _ = _divided(text, "ModelCard" if kind == "model" else "DatasetCard", strict=True)
    except ValueError as problem:
        return [f"README.md: its head cannot be read: {' '.join(str(problem).split())[:200]}"]
    found = []
    license_name = head.get("license")
    if license_name is not None and license_name not in LICENSES:
        found.append(f"README.md: the hub does not know the licence {license_name}")
    for key in ("base_model", "datasets"):
        values = head.get(key) or []
        found += [
            f"README.md: {key} is no name of the hub: {value}"
            for value in (values if isinstance(values, list) else [values])
            if not isinstance(value, str) or not _REPO.fullmatch(value)
        ]
    return found


def _divided(text: str, kind: str, *, strict: bool = False) -> tuple[dict[str, Any], str]:
    """Return a card's head as values and the rest as text. Raises `ValueError` for a wrong head where that matters."""
    from huggingface_hub import DatasetCard, ModelCard

    if not text.startswith("---"):
        return {}, text
    try:
        card = (ModelCard if kind == "ModelCard" else DatasetCard)(text, ignore_metadata_errors=not strict)
    except Exception as problem:  # YAML's, and whatever a value of the wrong kind leads to
        if strict:
            raise ValueError(str(problem)) from problem
        return {}, text.partition("\n---\n")[2]
    return dict(card.data.to_dict()), card.text  # type: ignore[no-untyped-call]  # huggingface_hub's has no types


def _body(text: str, facts: AdapterFacts) -> str:
    """Return the card below its head with names that others can use, and commands that work for them."""
    for private, public in sorted(facts.private.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(private, public)
    lines = []
    fetched = False
    for line in text.split("\n"):
        if line.startswith("lora-tui --run export"):
            if not fetched:
                lines.append(f"hf download {facts.repo} --local-dir {FOLDER}")
                fetched = True
            lines.append(line)
        else:
            fetched = fetched and not line.startswith("```")
            lines.append(line.replace(FOLDER, facts.repo))
    return "\n".join(lines)
