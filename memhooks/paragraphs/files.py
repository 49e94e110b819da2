"""Loads paragraphs from the formats people have, and saves them to parquet.

Nothing is unpickled: `.pt` files are read with `weights_only=True`, `.npy` without
`allow_pickle`. Token files are taken as they are; text needs a tokenizer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
from transformers import PreTrainedTokenizerBase

from memhooks.errors import InputError
from memhooks.paragraphs.contents import check_file, is_folder
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.readers import READERS
from memhooks.paragraphs.records import Records, from_columns, to_paragraphs
from memhooks.paragraphs.tables import Table, from_dataset, read_saved_dataset
from memhooks.writing import whole_file


def load_paragraphs(
    source: str | Path | Sequence[str] | Table,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    n_prefix: int | None = None,
    n_tokens: int = 100,
) -> Paragraphs:
    """Read paragraphs from a file, from a dataset, or from strings.

    Args:
        source: `.pt` (one integer tensor), `.npy` (one array, or `x_prefix.npy` with
            `x_suffix.npy` beside it), `.jsonl`, `.csv`, `.parquet`, `.txt`, a folder written by
            `Dataset.save_to_disk`, a `datasets.Dataset` in memory, or a list of strings.
            Tables have a column `tokens`, `text` or `paragraph`, and may have `id`, `count`, `source`.
            `.txt` is one UTF-8 text, cut into consecutive paragraphs; a shorter rest is dropped, each
            `id` is the offset of the first token, and `source` the file's name.
        tokenizer: needed for text; no special token is added.
        n_prefix: tokens given to the model; by default the file's own, else 50.
        n_tokens: text is cut to this many tokens; shorter text is an error. Token files keep their length.

    Raises:
        InputError: the source is missing, empty, damaged, of another format, or its rows differ in length.

    Example:
        >>> import memhooks
        >>> tokenizer = memhooks.load_model("organism").tokenizer
        >>> texts = ["Fellow citizens of the Senate and of the House of Representatives"]
        >>> memhooks.load_paragraphs(texts, tokenizer=tokenizer, n_prefix=4, n_tokens=8)
        Paragraphs(1 of 4 + 4 tokens, 0..0, with text)
    """
    if isinstance(source, str | Path):
        records, name = _read(Path(source)), str(source)
    elif isinstance(source, Table):
        records, name = from_dataset(source), "the dataset"
    else:
        records, name = _from_strings(list(source)), "the strings"
    return to_paragraphs(records, name, tokenizer=tokenizer, n_prefix=n_prefix, n_tokens=n_tokens)


def save_paragraphs(
    paragraphs: Paragraphs, path: str | Path, *, also: Mapping[str, Sequence[int | float | str]] | None = None
) -> None:
    """Write parquet that `load_paragraphs` reads back identically; whole or not at all.

    Args:
        paragraphs: what is saved.
        path: of the file.
        also: more columns by name, one value per paragraph, for other readers of the file.

    Raises:
        InputError: the file name does not end in `.parquet`.
    """
    path = Path(path)
    if path.suffix != ".parquet":
        raise InputError(f"paragraphs are saved as .parquet, got {path.name}")
    columns: dict[str, list] = {"tokens": paragraphs.tokens.tolist(), "id": list(paragraphs.ids)}
    for column, labels in (("count", paragraphs.counts), ("source", paragraphs.sources), ("text", paragraphs.text)):
        if labels is not None:
            columns[column] = list(labels)
    table = pa.table(columns | {name: list(values) for name, values in (also or {}).items()}).replace_schema_metadata(
        {"n_prefix": str(paragraphs.n_prefix)}
    )
    with whole_file(path) as partial:
        parquet.write_table(table, partial, write_page_checksum=True)


def _read(path: Path) -> Records:
    if is_folder(path):
        return read_saved_dataset(path)
    check_file(path, "paragraph file")
    if path.suffix not in READERS:
        raise InputError(
            f"{path}: cannot read {path.suffix or 'files without an ending'}; "
            f"supported: {', '.join(READERS)}, a folder of Dataset.save_to_disk, or a list of strings"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    return READERS[path.suffix](path)


def _from_strings(strings: list[str]) -> Records:
    return from_columns({"text": strings}, "the strings", seen=(), n_rows=len(strings))
