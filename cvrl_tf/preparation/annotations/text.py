"""Reads the text and the tables of annotations, whichever program has written them."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence

from absl import logging
from etils import epath

_SEPARATORS = ",;\t"


def read_text(source: epath.Path) -> str:
    """Returns the text of a file of UTF-8, or of UTF-16 with a byte-order mark.

    Bytes that are no UTF-8 become what `os.fsdecode` makes of them, so that names may hold any.

    Raises:
      ValueError: it is another encoding.
    """
    content = source.read_bytes()
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding, errors = ("utf-16", "strict") if is_utf_16 else ("utf-8-sig", "surrogateescape")
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is damaged UTF-16 ({error}): save it as UTF-8.") from None
    if "\0" in text:
        raise ValueError(
            f"{source} holds zero bytes, as text in UTF-16 without a byte-order mark does: save it "
            "as UTF-8."
        )
    return text


def read_rows(
    source: epath.Path, needed: Sequence[str], others: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Reads a table whose first line names the columns, in any case.

    Commas, semicolons or tabs separate the columns. Spaces around names and values don't count.

    Args:
      source: see `read_text`.
      needed: names of columns, in lower case, that have to be there.
      others: columns that may be there. A warning names those that are not read.

    Yields:
      `FILE:LINE`, and the values of a row by column; of a column that is not there, "".

    Raises:
      ValueError: columns are missing or there twice, or a line doesn't fit them.
    """
    known = [*needed, *others]
    text = read_text(source)
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=lambda each: len({*_names(header, each)} & {*known}))
    rows = csv.reader(io.StringIO(text, newline=None), delimiter=separator, skipinitialspace=True)
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        if missing := [name for name in needed if name not in names]:
            raise ValueError(f"{source} has no column {missing}; it has {names}.")
        if twice := [name for name in known if names.count(name) > 1]:
            raise ValueError(f"{source} has the columns {twice} twice: delete one of each.")
        if unread := [name for name in names if name not in known]:
            logging.warning("%s: the columns %s are not read; known are %s.", source, unread, known)
        for row in rows:
            place = f"{source}:{rows.line_num}"
            if not any(value.strip() for value in row):
                continue
            if len(row) > len(names):
                raise ValueError(
                    f"{place}: {len(row)} values for {len(names)} columns: put values that hold "
                    f"{separator!r} in double quotes. A video has one label."
                )
            values = {name: value.strip() for name, value in zip(names, row, strict=False)}
            yield place, {**dict.fromkeys(known, ""), **values}
    except csv.Error as error:
        raise ValueError(f"{source}:{rows.line_num}: {error}. Correct the line.") from None


def _names(header: str, separator: str) -> list[str]:
    return [name.strip(' "\r').lower() for name in header.split(separator)]
