"""Rows of a Parquet file as records, read a batch at a time; its columns identify the form, as keys do elsewhere.

Of wide tables only the columns that some form knows are read: images and embeddings beside a conversation stay on the
disk. pyarrow, which takes a third of a second to import, comes with the extra ``hub``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_tui.engine.data.compressed import HUB_EXTRA, MAX_EXPANDED_BYTES
from lora_tui.engine.data.forms import EXAMPLE_FORMS, FormSet, Malformed, form_of, form_of_fields, lower_keys
from lora_tui.engine.data.records import Record
from lora_tui.errors import UsageError
from lora_tui.text import one_line

SUFFIX = ".parquet"

_MAGIC = b"PAR1"
_BATCH = 1024

_NEEDED = ("role", "from", "content", "value")
"""Keys of a turn whose absence is an error, and whose emptiness is none."""


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its first bytes. Raises `OSError`."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def parquet_rows(path: Path, forms: FormSet[Any] = EXAMPLE_FORMS) -> Iterator[Record]:
    """Yield the rows of a Parquet file; they know their number, and no line.

    Raises `Malformed` where the columns identify no form, `UsageError` where the file is damaged, expands beyond
    `MAX_EXPANDED_BYTES`, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as problem:
        raise UsageError(f"{path} is a Parquet file, which needs an extra: {HUB_EXTRA}.") from problem
    try:
        with parquet.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name.strip().lower() in forms.known]
            try:
                form_of([name.strip().lower() for name in names], forms)
            except Malformed as problem:
                found = one_line(", ".join(file.schema_arrow.names), 120) or "none"
                raise Malformed(f"the columns ({found}) tell no known form; expected {forms.expected}") from problem
            number = size = 0
            for batch in file.iter_batches(_BATCH, columns=names):
                size += batch.nbytes
                if size > MAX_EXPANDED_BYTES:
                    raise UsageError(f"{path} expands to more than {MAX_EXPANDED_BYTES // 2**20:,} MB.")
                for row in batch.to_pylist():
                    number += 1
                    fields = lower_keys({key: _plain(value) for key, value in row.items()})
                    yield Record(fields, form_of_fields(fields, forms), None, number)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        why = one_line(str(problem), 120)
        raise UsageError(f"{path} is damaged, or no Parquet file ({why}). Copy it again.") from problem


def _plain(value: Any) -> Any:
    """Return a cell without what its column's type adds: a turn has every key of any turn, most of them null."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: one for key, one in value.items() if one is not None or key in _NEEDED}
    return value
