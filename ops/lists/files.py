"""What a file is by its first bytes, so that one that is no list is named for what it is. Pure."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from viber_courier.schemas.errors import CourierError

HEAD = 1 << 16
"""Bytes that are enough to tell what a file is."""
SAVE = "save it as .xlsx or CSV"
MAGIC = (
    (b"%PDF", f"a PDF: open the list in the program it comes from and {SAVE}"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89PNG", "an image (PNG)"),
    (b"\xff\xd8\xff", "an image (JPEG)"),
    (b"GIF8", "an image (GIF)"),
    (b"II*\0", "an image (TIFF)"),
    (b"MM\0*", "an image (TIFF)"),
    (b"RIFF", "an image, a sound or a film"),
    (b"{\\rtf", f"a text document (RTF): {SAVE}"),
    (b"SQLite format 3", "a database (SQLite): export a CSV file"),
    (b"PAR1", "a Parquet file: export a CSV file"),
    (b"\x7fELF", "a program"),
    (b"BEGIN:VCARD", f"a file of contacts (vCard): {SAVE}"),
    (b"<?xml", f"XML: {SAVE}"),
    (b"<", f"a web page (HTML): open it in a spreadsheet and {SAVE}"),
    (b"MIME-Version:", f"a web page or e-mail (MHTML): open it in a spreadsheet and {SAVE}"),
)
INSIDE = (
    ("word/", f"a Word document: {SAVE}"),
    ("ppt/", f"a presentation: {SAVE}"),
    ("Index/", "a document of Apple Numbers or Pages: export it as .xlsx or CSV"),
    ("Index.zip", "a document of Apple Numbers or Pages: export it as .xlsx or CSV"),
)
OLE = b"\xd0\xcf\x11\xe0"
"""The beginning of Office's old files, .xls and .doc, and of Excel's encrypted ones."""


class NotAList(CourierError):
    """The file can't be read as a list. The text says why, and repeats none of its rows."""


def is_workbook(path: Path, head: bytes) -> bool:
    """Returns whether a file is a workbook, by its first bytes. Raises NotAList if it is no list.

    A file that is neither must be a text.
    """
    if not head.strip(b"\0 \r\n\t\xef\xbb\xbf"):
        raise NotAList("the file is empty")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"PK"):
        return _is_workbook_archive(path)
    if start.startswith(OLE):
        return True
    for magic, kind in MAGIC:
        if start[: len(magic)].lower() == magic.lower():
            raise NotAList(f"the file is {kind}")
    if start[:1] in (b"{", b"[") and _is_json(start):
        raise NotAList("the file is JSON: a list is a table, .xlsx or CSV")
    return False


def _is_workbook_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            kind = archive.read("mimetype") if "mimetype" in names else b""
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):
        raise NotAList("the file is a damaged .xlsx or archive: copy or save it again") from None
    if any(name.startswith("xl/workbook.") for name in names) or b"spreadsheet" in kind:
        return True
    for beginning, text in INSIDE:
        if any(name.startswith(beginning) for name in names):
            raise NotAList(f"the file is {text}")
    raise NotAList("the file is an archive (zip): unpack it first")


def _is_json(start: bytes) -> bool:
    text = start.decode(errors="ignore")
    try:
        json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        return error.pos > min(len(text), HEAD) // 2  # a long document is cut off
    except RecursionError:
        pass
    return True
