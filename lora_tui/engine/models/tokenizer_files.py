"""A base model's tokenizer, saved beside an adapter or merged weights as others can read it, too.

transformers 5 writes a tokenizer that transformers 4, and what is built on it such as vLLM, cannot read: a class that
did not exist (``TokenizersBackend``) and the list ``extra_special_tokens``, once a table. The files that came with the
model are therefore copied as they are; only where there are none, as with a GGUF file, they are written anew, and those
two entries put as both read them.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("chat_template.jinja", "chat_template.json"),
)


def save_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path | None, target: Path) -> None:
    """Write the tokenizer's files into `target`; `folder` holds those of the base model, where it is known.

    Raises `OSError`.
    """
    if folder is not None and (folder / "tokenizer_config.json").is_file():
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
    else:
        tokenizer.save_pretrained(target)
    make_readable(target / "tokenizer_config.json")


def make_readable(path: Path) -> None:
    """Put the entries of a tokenizer_config.json that transformers 5 writes in a new form as transformers 4 reads them.

    Nothing is changed where there are none. Raises `OSError`.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    changed = dict(content)
    if content.get("tokenizer_class") == "TokenizersBackend":
        changed["tokenizer_class"] = "PreTrainedTokenizerFast"
        changed.pop("backend", None)
    if isinstance(content.get("extra_special_tokens"), list):
        changed["additional_special_tokens"] = changed.pop("extra_special_tokens")
    if changed != content:
        path.write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
