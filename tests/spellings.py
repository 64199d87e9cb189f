"""Grammars: how people write one phone number, and how programs write one table."""

from __future__ import annotations

import csv
import io

import phonenumbers
from hypothesis import strategies as st

SEPARATORS = st.sampled_from(["", " ", "-", ".", "\u00a0", "\u2009", "\u2011", "–", "  ", " - "])
INVISIBLE = st.sampled_from(
    ["", "", "", "\u200b", "\u202a", "\u202c", "\ufeff", "\u2060", "\u00ad"]
)
AROUND = st.sampled_from(
    [
        *[("", ""), (" ", "\u00a0"), ("tel:", ""), ("'", ""), ('="', '"'), ("“", "”"), ("(", ")")],
        *[("тел. ", ""), ("", ";"), ("", "."), ("\u202a", "\u202c"), ("Tel.: ", " ")],
        ("\t", "\r\n"),
    ]
)
SCRIPTS = st.sampled_from(["0123456789"] * 5 + ["０１２３４５６７８９", "٠١٢٣٤٥٦٧٨٩", "۰۱۲۳۴۵۶۷۸۹"])
COUNTRIES = [*phonenumbers.SUPPORTED_REGIONS]
COUNTRIES.sort()


@st.composite
def numbers(draw: st.DrawFn) -> tuple[str, str]:
    """A valid mobile number: its country and its E.164 digits."""
    country = draw(st.sampled_from(COUNTRIES))
    mobile = phonenumbers.PhoneNumberType.MOBILE
    example = phonenumbers.example_number_for_type(country, mobile)
    if example is None:
        return "RU", "79250000001"
    digits = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)[1:]
    for _ in range(3):
        changed = digits[:-4] + draw(st.text("0123456789", min_size=4, max_size=4))
        number = phonenumbers.parse("+" + changed)
        if phonenumbers.is_valid_number(number):
            return country, changed
    return country, digits


@st.composite
def spellings(draw: st.DrawFn, country: str, digits: str) -> str:
    """One of the ways in which people, phones and spreadsheets write this number."""
    number = phonenumbers.parse("+" + digits)
    style = draw(st.integers(0, 9))
    national = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    international = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    if style == 0:
        return f"{digits}.0"
    if style == 1:
        mark = draw(st.sampled_from(".,"))
        return f"{digits[0]}{mark}{digits[1:]}E+{len(digits) - 1}"
    if style == 2:
        kept = draw(st.integers(2, len(digits) - 1))
        return f"{digits[0]}.{digits[1:kept]}E+{len(digits) - 1}"
    if style == 3:
        text = f"{int(digits):,}"
    elif style == 4:
        text = national
    elif style == 5:
        text = str(number.national_number)  # a spreadsheet has dropped the leading 0
    elif style == 6:
        text = phonenumbers.format_out_of_country_calling_number(
            number, draw(st.sampled_from(COUNTRIES))
        )
    elif style == 7:
        text = international
    elif style == 8:
        text = draw(st.sampled_from(["+", "00", ""])) + digits
    else:
        separator, code = draw(SEPARATORS), str(number.country_code)
        rest = digits[len(code) :]
        cut = draw(st.integers(1, max(1, len(rest) - 5)))
        brackets = ["({})", " ({}) "] if len(rest) - cut >= 5 else []
        area = draw(st.sampled_from(["{}", "-{}-", *brackets])).format(rest[:cut])
        end = rest[cut:]
        text = f"+{code}{area}{separator.join([end[:2], end[2:-2], end[max(2, len(end) - 2) :]])}"
    script = draw(SCRIPTS)
    text = "".join(script[int(c)] if c in "0123456789" else c for c in text)
    before, after = draw(AROUND)
    place = draw(st.integers(0, len(text)))
    return before + text[:place] + draw(INVISIBLE) + text[place:] + after


TEXTS = st.text(
    st.sampled_from("абвгдежзиклмнопрстуАБВ abcXYZ019 ;,|\t\"'\r\n-…«»№"), max_size=24
).map(lambda text: text if text.strip() else "")
ENCODINGS = [(name, bom) for name in ("utf-8", "utf-16-le", "utf-16-be") for bom in (True, False)]
ENCODINGS += [("cp1251", False), ("koi8-r", False), ("cp866", False)]
SENTENCE = "Здравствуйте, ваш заказ готов, приходите за ним до воскресенья"
"""Enough Russian to tell the one-byte encodings from each other."""


@st.composite
def tables(draw: st.DrawFn) -> tuple[bytes, str, list[dict[str, str]]]:
    """A file as some program writes it, its encoding, and its rows without the empty cells."""
    encoding, bom = draw(st.sampled_from(ENCODINGS))
    columns = ["address", *draw(st.permutations(["content.text", "metadata.1", "metadata.2"]))]
    columns = columns[: draw(st.integers(1, 4))]
    cells = TEXTS.filter(lambda text: _fits(text, encoding))
    rows = []
    for n in range(draw(st.integers(1, 5))):
        row = {name: draw(cells) for name in columns[1:]}
        rows.append({"address": f"7925000000{n}", **row})
    if len(columns) > 1:
        rows[0][columns[1]] = SENTENCE
    delimiter = draw(st.sampled_from(",;\t|"))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    end = draw(st.sampled_from(["\r\n", "\n", "\r"]))
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)
    quoted = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=end)
    if draw(st.booleans()):
        out.write(f"sep={delimiter}{end}")
    spelled = draw(st.sampled_from([str, str.upper, str.title, lambda name: f"  {name} "]))
    writer.writerow([spelled(name) for name in columns])
    for row in rows:
        values = [row[name] for name in columns]
        ways = draw(st.integers(0, 2))  # as it is, its last empty cells left out, more of them
        while ways == 1 and len(values) > 1 and not values[-1]:
            values.pop()
        values += [""] * (ways if ways == 2 else 0)
        (quoted if set("\r\n") & set("".join(values)) else writer).writerow(values)
        if draw(st.booleans()):
            out.write(draw(st.sampled_from([end, f" {delimiter} {end}", delimiter * 2 + end])))
    data = ("\ufeff" * bom + out.getvalue()).encode(encoding)
    return data, encoding, [{name: cell for name, cell in row.items() if cell} for row in rows]


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
