"""Reads a phone number as people write it (extra ``phone``): docs/decisions/0027.

What is no plain international number is refused, never guessed: a guess is a message, and perhaps a
paid SMS, to a stranger.
"""

import re
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple
from unicodedata import category, decimal

from viber_courier.schemas.errors import InvalidMessage

HOME = "7"
"""The country code whose numbers the provider's API shows without a plus: 79250000001."""
LEAST_BARE = 11
"""Fewest digits of an international number without a plus; national numbers have ten at most."""
ABROAD = ("00", "001", "009", "011", "0011")
"""What is dialled in place of the plus."""
TRUNK_8 = ("RU", "KZ", "BY", "TM")
"""Where national numbers begin with an 8, which is also the first digit of country codes."""
MOST = 200
"""Most characters of a number with all that may stand around it."""
ORDINARY = re.compile(r"(\+?)([1-9][0-9]{9,14})")
INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufe0e\ufe0f"
"""What can't be seen, beside the formatting characters (category Cf)."""
LABEL = re.compile(
    r"(?i)(?:tel|telephone|phone|mobile|mob|cell|callto|sms|viber|whatsapp|m|t|ph|тел|"
    r"телефон|моб|сот|т|м)(?!\w)"
    r"[.:]*\s*/*"
)
QUOTED = re.compile(r"""=?\s*"(.*)"|['`](.*?)'?""", re.S)
EXPONENT = re.compile(r"\+?([0-9]+)(?:[.,]([0-9]+))? ?(?:[EeЕе]|[x*×]10\^?) ?\+?([0-9]{1,3})")
DECIMALS = re.compile(
    r"(\+?[0-9]+)[.,]0+|([0-9]{1,3}(?:([ ,.'])[0-9]{3})(?:\3[0-9]{3})*)(?!\3)[.,]00?"
)
THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")
DATE = re.compile(r"[12][0-9]{3}-[01][0-9]-[0-3][0-9].*|[0-3][0-9]\.[01][0-9]\.[12][0-9]{3}.*")
EXTENSION = re.compile(r"(?i)[0-9)\s.,;]\s*(?:ext|extn|x|доб|вн|#)[\w.]*\W*[0-9]+\W*")
SHAPE = re.compile(r"(?:\+\s*)?[0-9][0-9 .~-]*(?:/[0-9 .~-]{5,})?")
TWO = re.compile(r"[,;|\n\r\t&]|[0-9].*\+|^[0-9]{1,4}\.\s")

EMPTY = "is empty"
CUT = "can't be read: Excel has cut this number's digits. Format the column as text in the sheet"
SEVERAL = "must be one number; this looks like more than one"
EXTENDED = "must be without an extension"
LETTERS = "must be a phone number, without letters and other signs"
NATIONAL = (
    "is not plainly international: begin it with + and the country code,"
    " or say whose national numbers these are, as --country RU"
)
INVALID = "is not a number that exists: its country has no such numbers"
NEITHER = "is neither a national number of this country nor plainly international"
AMBIGUOUS = "may be a national or an international number: begin it with + and the country code"
PLUS_8 = (
    "may be a national number with +8 for its 8, or another country's: mend it,"
    " or read it without a country"
)
SERVICE = "is a toll-free, premium-rate or other service number"


class Number(NamedTuple):
    """A number: E.164 digits, its country as two letters, and whether it is a landline's."""

    digits: str
    country: str
    is_landline: bool


def normalize_address(text: str, country: str | None = None) -> str:
    """Returns a phone number as people write it in the API's form: E.164 digits without a plus.

    Understands separators, brackets, ``tel:``, invisible characters, other scripts' digits and what
    Excel makes of a number. ``country``, two letters as ``"RU"``, reads that country's national
    numbers; without it they are refused. Raises InvalidMessage, which says what is wrong with
    ``address`` and doesn't repeat it; ValueError if there is no such country; ImportError without
    the extra ``phone``.
    """
    return read_number(text, country).digits


def read_number(text: str, country: str | None = None) -> Number:
    """Returns what normalize_address reads, with the number's country. Raises as it does."""
    require_country(country)
    if not isinstance(text, str):
        raise _refusal("must be a string")
    ordinary = ORDINARY.fullmatch(text)
    plus, digits = ordinary.groups() if ordinary else _digits(text)
    return read_quickly(plus, digits, country) or read_slowly(plus, digits, country)


def require_country(country: str | None) -> None:
    """Raises ValueError if there is no such country, ImportError without the extra ``phone``."""
    if country is not None and country not in _library().SUPPORTED_REGIONS:
        raise ValueError("country must be two capital letters, as RU")


def read_slowly(plus: str, digits: str, country: str | None) -> Number:
    """Returns the number that digits are, after "+" or "". Raises InvalidMessage."""
    if plus:
        # "+8 495" has a trunk prefix for its country code: Moscow's, or Viet Nam's
        if country in TRUNK_8 and digits.startswith("8") and _valid(digits, country):
            raise _refusal(PLUS_8)
        return _accepted(_valid("+" + digits), INVALID)
    national = _valid(digits, country) if country else None
    if national and _has_lost_a_zero(national, digits, country):
        raise _refusal(AMBIGUOUS)
    if digits.startswith("00") or (digits.startswith("0") and _is_abroad(national, country)):
        return _accepted(_after_zeros(digits, national), INVALID)
    bare = _plain(digits)
    if national and bare and national != bare and not _is_written_nationally(national, digits):
        if bare.country != country:
            raise _refusal(AMBIGUOUS)
        national = None  # Germany's 491791112233 is a mobile, and no landline of Wittmund
    return _accepted(national or bare, NEITHER if country else NATIONAL)


@cache
def _library() -> ModuleType:
    try:
        import phonenumbers
    except ModuleNotFoundError:
        text = "phone numbers are read with phonenumbers: pip install 'viber-courier[phone]'"
        raise ImportError(text) from None
    return phonenumbers


def _refusal(text: str) -> InvalidMessage:
    return InvalidMessage({"address": [text]})


class _Read(NamedTuple):
    """A valid number and its type, one of phonenumbers' PhoneNumberType."""

    digits: str
    country: str
    type: int


def _accepted(read: _Read | None, otherwise: str) -> Number:
    if read is None:
        raise _refusal(otherwise)
    kinds = _library().PhoneNumberType
    if read.type not in (kinds.MOBILE, kinds.FIXED_LINE, kinds.FIXED_LINE_OR_MOBILE, kinds.VOIP):
        raise _refusal(SERVICE)
    return Number(read.digits, read.country, read.type == kinds.FIXED_LINE)


def _valid(text: str, country: str | None = None) -> _Read | None:
    """Returns a valid number as phonenumbers reads it, else None."""
    library = _library()
    try:
        number = library.parse(text, country)
    except library.NumberParseException:
        return None
    if not library.is_valid_number(number):
        return None
    digits = library.format_number(number, library.PhoneNumberFormat.E164).removeprefix("+")
    region = library.region_code_for_number(number)
    # 001 stands for numbers of no country: satellites, and freephone of many countries.
    return _Read(digits, region, library.number_type(number)) if region != "001" else None


def _exact(digits: str) -> _Read | None:
    """Returns the international number that digits are, at most with a (0) after the country code.

    phonenumbers also takes 119 376 310 000, dialled in Cuba, for 1 and +1 937 631 0000.
    """
    read = _valid("+" + digits)
    spellings = (digits[:n] + digits[n + 1 :] for n in (1, 2, 3) if digits[n : n + 1] == "0")
    return read if read and read.digits in (digits, *spellings) else None


def _plain(digits: str) -> _Read | None:
    """Returns the international number that digits without a plus are beyond doubt, else None.

    They are in doubt where some country's own numbers are written so. A landline without its
    leading 0 is no such doubt: with Germany's, of any length, nothing would be left.
    """
    if digits.startswith("0") or len(digits) < LEAST_BARE:
        return None
    read = _exact(digits)
    if read is None or (digits.startswith(HOME) and len(digits) == LEAST_BARE):
        return read
    for country in TRUNK_8 if digits.startswith("8") else ():
        if (other := _valid(digits, country)) and other.digits != read.digits:
            return None
    return None if any(p.fullmatch(digits) for p in _mobiles().get(len(digits), ())) else read


def _is_written_nationally(read: _Read, digits: str) -> bool:
    """Returns whether these digits are how people there write it: a mobile, or with the prefix."""
    library = _library()
    prefix = library.PhoneMetadata.metadata_for_region(read.country).national_prefix
    is_landline = read.type == library.PhoneNumberType.FIXED_LINE
    return not is_landline or (bool(prefix) and digits.startswith(prefix))


def _is_abroad(read: _Read | None, country: str | None) -> bool:
    return read is not None and not read.digits.startswith(
        str(_library().country_code_for_region(country))
    )


def _after_zeros(digits: str, national: _Read | None) -> _Read | None:
    """Returns the number after 00, or after 001, 009, 011, 0011, which some countries dial instead.

    Refuses two: 009 1 268 464 0000 is Antigua's and, after 00, India's.
    """
    after = (digits[len(each) :] for each in ABROAD if digits.startswith(each))
    found = {national, *map(_exact, after)} - {None}
    if len(found) > 1:
        raise _refusal(AMBIGUOUS)
    return found.pop() if found else None


def _has_lost_a_zero(read: _Read, digits: str, country: str | None) -> bool:
    """Returns whether a spreadsheet may have dropped a 0 that is part of the number, as Gabon's."""
    whole = None if digits.startswith("0") else _valid("0" + digits, country)
    mobile = _library().PhoneNumberType.MOBILE
    return whole is not None and whole.digits != read.digits and whole.type == mobile


@cache
def _mobiles() -> dict[int, list[re.Pattern[str]]]:
    """Returns the patterns of all countries' mobile numbers, without country code, by length."""
    library, found = _library(), dict[int, list[re.Pattern[str]]]()
    for country in sorted(library.SUPPORTED_REGIONS):
        mobile = library.PhoneMetadata.metadata_for_region(country).mobile
        for length in mobile.possible_length if mobile else ():
            if length >= LEAST_BARE:
                pattern = re.compile(mobile.national_number_pattern)
                found.setdefault(length, []).append(pattern)
    return found


def read_quickly(plus: str, digits: str, country: str | None) -> Number | None:
    """Returns an ordinary mobile number as read_slowly does, 20 times as fast; None: ask it.

    Ordinary is: with a plus; or 7 and ten digits, or 8 and ten digits, in a list of +7.
    """
    if plus:
        if country in TRUNK_8 and digits.startswith("8"):
            return None
    else:
        if len(digits) != LEAST_BARE or country not in (None, "RU", "KZ"):
            return None
        if country and digits.startswith("8"):
            digits = HOME + digits[1:]
        elif not digits.startswith(HOME):
            return None
    for length in (1, 2, 3):
        if patterns := _patterns(digits[:length]):
            for region, leading, mobile in patterns:
                if leading is None or leading.match(digits, length):
                    return Number(digits, region, False) if mobile(digits, length) else None
            return None
    return None


@cache
def _patterns(code: str) -> list[tuple[str, Any, Any]]:
    """Returns a country code's regions in phonenumbers' order, each with its leading digits and
    with a pattern of what is mobile and of no type that is looked at before."""
    library, found = _library(), []
    if code[:1] in ("", "0") or int(code) not in library.COUNTRY_CODE_TO_REGION_CODE:
        return []
    for region in library.COUNTRY_CODE_TO_REGION_CODE[int(code)]:
        if (about := library.PhoneMetadata.metadata_for_region(region, None)) is None:
            return []
        kinds = (
            *(about.premium_rate, about.toll_free, about.shared_cost, about.voip, about.uan),
            *(about.personal_number, about.pager, about.voicemail, about.fixed_line),
        )
        others = [d.national_number_pattern for d in kinds if d and d.national_number_pattern]
        lengths = "|".join(f"[0-9]{{{n}}}" for n in getattr(about.mobile, "possible_length", ()))
        mobile = getattr(about.mobile, "national_number_pattern", None) or "(?!)"
        pattern = f"(?=(?:{lengths})$)(?!(?:{'|'.join(others) or '(?!)'})$)(?:{mobile})"
        leading = re.compile(about.leading_digits) if about.leading_digits else None
        found.append((region, leading, re.compile(pattern, re.ASCII).fullmatch))
    return found


def _digits(text: str) -> tuple[str, str]:
    """Returns "+" or "", and the digits of a text. Raises InvalidMessage."""
    if len(text) > MOST:
        raise _refusal(LETTERS)
    text = _unwrapped(text if text.isascii() else "".join(_clean(text)))
    if not text:
        raise _refusal(EMPTY)
    text = _without_excel(text)
    if EXTENSION.search(text):
        raise _refusal(EXTENDED)
    if any(map(str.isalpha, text)) or DATE.fullmatch(text):
        raise _refusal(LETTERS)
    digits = re.sub("[^0-9]", "", text)
    if TWO.search(text) or len(digits) > 20:
        raise _refusal(SEVERAL)
    text = _without_brackets(text)
    if not SHAPE.fullmatch(text):
        raise _refusal(LETTERS)
    # "+8 (495)" begins with a trunk prefix, which is no country code.
    if len(digits) < 7 or re.match(r"\+\s*[^17][^0-9]", text):
        raise _refusal(INVALID)
    return text[: text.startswith("+")], digits


def _clean(text: str) -> Iterator[str]:
    """Yields the characters with their plain likes: a digit of any script, a blank, a hyphen."""
    for char in text:
        kind = "" if char.isascii() else category(char)
        if char in INVISIBLE:
            continue
        if "\uff01" <= char <= "\uff5e":
            yield chr(ord(char) - 0xFEE0)  # full-width
        elif kind == "Nd":
            yield str(decimal(char))
        elif kind == "Zs":
            yield " "
        elif kind in ("Zl", "Zp"):
            yield "\n"
        elif kind == "Pd" or char == "\u2212":
            yield "-"
        elif kind in ("Pi", "Pf"):
            yield "'" if char in "\u2018\u2019\u201b" else '"'
        elif kind != "Cf":
            yield char


def _unwrapped(text: str) -> str:
    """Returns the text without what stands around the number: quotes, ``tel:``, brackets."""
    text = text.strip()
    for _ in range(3):
        if found := QUOTED.fullmatch(text):
            text = (found[1] or found[2] or "").strip()
        if text.startswith("=") and text[1:2] in tuple("+0123456789"):
            text = text[1:]
        if found := LABEL.match(text):
            text = text[found.end() :]
        if re.fullmatch(r"\([^()]*\)", text):
            text = text[1:-1].strip()
    return re.sub(r"^[(\[]\s*\+\s*", "+(", text.rstrip(" \t\r\n.,;:"))


def _without_excel(text: str) -> str:
    """Returns the digits of 79250000001.0, 79,250,000,001 and 7,9250000001E+10; else the text.

    Raises InvalidMessage if an exponent says that there were more digits.
    """
    if found := EXPONENT.fullmatch(text):
        whole, fraction, places = found[1], found[2] or "", int(found[3])
        if len(fraction) < places or fraction[places:].strip("0"):
            raise _refusal(CUT)
        return whole + fraction[:places]
    if found := DECIMALS.fullmatch(text):
        text = found[1] or found[2]
    return text.replace(",", "") if THOUSANDS.fullmatch(text) else text


def _without_brackets(text: str) -> str:
    """Returns the text without brackets around its beginning: a country or area code."""
    for _ in range(2):
        found = re.fullmatch(r"([^(\[]*)[(\[]([0-9 ]+)[)\]](.*)", text, re.S)
        if found and len(re.findall("[0-9]", found[3])) >= 5:
            text = f"{found[1]} {found[2]} {found[3]}".replace("+ ", "+").strip()
    return text
