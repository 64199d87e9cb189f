"""Finds out a text's encoding: what is UTF-8 beyond ASCII is never read as anything else."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection
from pathlib import Path

from viber_courier.ops.lists.files import HEAD, NotAList

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which begins alike
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
WESTERN = "cp1252"
CANDIDATES = ("cp1251", "koi8-r", "koi8-u", "cp866", "iso8859-5", "mac-cyrillic", WESTERN)
"""One byte a character; what else there is must be named with --encoding."""
SEQUENCE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
HIGH = re.compile(rb"[\x80-\xff]")
AFTER = "№€°©®"
"""Those that stand after no letter; the others stand before one now and then."""
CYRILLIC = "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґў"
"""Letters of Russian, Ukrainian and Belarusian: another's are a sign of another encoding."""
COMMON = "оеаинтсрвлкмдпуяыьгзбчйхіїёў"
"""Cyrillic letters that are frequent; the others are valid, and rare."""
PAIRS = frozenset(
    re.findall(
        "..",
        "стнотонаеновнираворококапорепраталилеетвевероголанеиедеталоснымиинтетиожесьдоскзааннн"
        "ольосамодаиязабыигчтасрочевивасяютчекидиайейийаяоекапикубеявпользвашатьелатутьшанхор",
    )
)
LATIN = "éèàçüöäßñóíáêôîúãõâøåæëïùûœìò"
EASTERN = {
    "cp1250": ("ąćęłńóśźż", "áäčďéěíĺľňóôŕřšťúůýž", "áéíóöőúüű", "ăâîşţ", "čćđšž"),
    "cp1257": ("ąčęėįšųūž", "āčēģīķļņšūž"),
}
"""Letters beyond ASCII of Polish, Czech and Slovak, Hungarian, Romanian, Croatian; the Baltic's."""
QUIET = " «»–—…№“”„’‘°©®€•·×§±™¿¡"
"""Signs beyond ASCII that say nothing of the letters."""
UNLIKELY = -4
RARE = 4
"""What an encoding must make up for that has most letters in cp1251's places."""
MARGIN = 2
"""How much better one encoding must be, in all letters together."""


def find_encoding(path: Path, given: str | None, names: Collection[str]) -> tuple[str, bool]:
    """Returns a file's encoding and whether it begins with a BOM. Raises NotAList.

    ``given`` is what the user says, ``names`` are columns that must be there.
    """
    if given:
        try:
            b"0".decode(given, "ignore")  # some codecs are of no text, or of no long one
            given = codecs.lookup(given).name
        except (LookupError, UnicodeError):
            raise NotAList(f"no such encoding: {given}") from None
        given = given.removesuffix("-sig")
    with path.open("rb") as file:
        head = file.read(HEAD)
    for mark, name in MARKS:
        if head.startswith(mark):
            return _agreed(name, given), True
    if wide := _wide(head):
        return _agreed(wide, given), False
    is_utf8, lines, first = _scan(path)
    if is_utf8:
        return _agreed("utf-8", given) if lines else given or "utf-8", False
    sample = b"\n".join(lines)
    high = len(HIGH.findall(sample))
    if sum(map(len, SEQUENCE.findall(sample))) > 0.9 * high or given == "utf-8":
        raise NotAList(f"line {first} is not utf-8" + (": mend this line" if not given else ""))
    return given or _best(sample, path, names, first), False


def _agreed(found: str, given: str | None) -> str:
    if given not in (None, found, found[:-3]):  # utf-16 names both utf-16-le and utf-16-be
        raise NotAList(f"the file is {found}, not {given}: leave --encoding out")
    return found


def _wide(head: bytes) -> str:
    """Returns which UTF-16 a text without a BOM is, else "". Its digits have every other byte 0."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    for name, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if zeros > 0.1 * len(head) / 2 and others < 0.02 * zeros:
            text = head[: len(head) // 2 * 2].decode(name, "replace")
            if all(char.isprintable() or char in "\r\n\t" for char in text[:-1]):
                return name
    return ""


def _scan(path: Path) -> tuple[bool, list[bytes], int]:
    """Returns whether a file is UTF-8, lines of it beyond ASCII, the first line that isn't."""
    is_utf8, lines, size, first = True, list[bytes](), 0, 1
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if b"\0" in line:
                text = f"line {number} has a NUL byte: a list is .xlsx or CSV"
                raise NotAList(f"the file is no text and no workbook, {text}")
            if line.isascii():
                continue
            if size < HEAD:
                lines.append(line)
                size += len(line)
            if is_utf8:
                try:
                    line.decode()
                except UnicodeDecodeError:
                    is_utf8, first = False, number
            elif size >= HEAD:
                break
    return is_utf8, lines, first


def _best(sample: bytes, path: Path, names: Collection[str], first: int) -> str:
    """Returns the encoding in which the sample reads best. Raises NotAList if none stands out."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    wanted = [name.casefold() for name in names if not name.isascii()]
    ranks = dict[str, tuple[bool, int, str]]()
    for name in CANDIDATES:
        try:
            text = sample.decode(name)
        except UnicodeDecodeError:
            continue
        beginning = head.decode(name, "replace").casefold()
        fits = all(each in beginning for each in wanted)
        if (wanted and fits) or not _is_foreign(text, name):
            rank = sum(_weights(text)) - RARE * (name == "mac-cyrillic")
            ranks.setdefault(text, (fits, rank, name))
    if ranks:
        (fits, rank, name), *others = sorted(ranks.values(), reverse=True)
        second = max((r for f, r, n in others if f == fits), default=0)
        if rank > 0 and rank - second >= MARGIN:
            return name
        if fits and wanted and not any(f for f, *_ in others):
            return name
    text = "has letters whose encoding can't be told: name it with --encoding, e.g. cp1251"
    raise NotAList(f"line {first} {text}")


def _is_foreign(text: str, name: str) -> bool:
    """Returns whether a text can't be what was written, were this its encoding.

    One sign in a hundred may be odd: a typing mistake. A Latin text may be Western only if it can't
    be of a language of the East, whose encodings have other letters in the same places.
    """
    weights = _weights(text)
    if sum(weight == UNLIKELY for weight in weights) > len(weights) // 100:
        return True
    if name != WESTERN:
        return False
    for other, alphabets in EASTERN.items():
        read = text.encode(name).decode(other, "replace")
        letters = {char for char in read.lower() if char.isalpha() and not char.isascii()}
        if read != text and any(letters <= set(alphabet) for alphabet in alphabets):
            return True
    return False


def _weights(text: str) -> list[int]:
    """Returns how much each letter beyond ASCII looks like one of a word."""
    return [
        _weight(before, char, after)
        for before, char, after in zip(" " + text, text, text[1:] + " ", strict=False)
        if not char.isascii()
        and (char not in QUIET or (before if char in AFTER else after).isalpha())
    ]


def _weight(before: str, char: str, after: str) -> int:
    lower = char.lower()
    if before.islower() and char.isupper():
        return UNLIKELY  # no word has a capital in its midst
    if lower in CYRILLIC:
        if (before.isalpha() and before.isascii()) or (after.isalpha() and after.isascii()):
            return UNLIKELY  # no word mixes Latin and Cyrillic
        rank = (2 if lower in COMMON else -1) + ((before + char).lower() in PAIRS)
        return rank if before.isalpha() or after.isalpha() else 0  # one letter is no word
    if char in QUIET:
        return UNLIKELY if char in AFTER else -1
    if lower not in LATIN:
        return UNLIKELY
    if not before.isalpha():
        return 2 * after.isalpha()
    return 2 if before.isascii() else -1  # an accented letter beside another is rare
