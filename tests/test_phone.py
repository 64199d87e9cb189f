"""Phone numbers as people write them: the number that was meant, or a refusal, never another."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.spellings import COUNTRIES, numbers, spellings
from viber_courier import InvalidMessage, Producer, normalize_address
from viber_courier.ops.lists.phone import Number, read_number, read_quickly, read_slowly

CASES = Path(__file__).parent / "cases"


def cells(name: str) -> list[str]:
    """The first column of one of the lists in ``cases``."""
    with (CASES / name).open(encoding="utf-8-sig", newline="") as file:
        return [row[0] for row in csv.reader(file, delimiter=";")][1:]


def read(text: str, country: str | None = None) -> str:
    """The number, or what is wrong."""
    try:
        return normalize_address(text, country)
    except InvalidMessage as error:
        (fault,) = error.errors["address"]
        return fault


def test_the_usual_spellings_are_understood() -> None:
    found = [read(text, "RU") for text in cells("forms.csv")]
    right = [f"792500000{n:02}" for n in range(1, 15)] + ["491791112233"]
    assert "Excel has cut this number's digits" in found[7]
    assert found[:7] + found[8:] == right[:7] + right[8:]
    # Without a country all but the two that are Russia's own
    plain = [read(text) for text in cells("forms.csv")]
    assert [n for n, (a, b) in enumerate(zip(found, plain, strict=True)) if a != b] == [1, 14]
    assert "not plainly international" in plain[1] and "--country RU" in plain[14]


def test_national_numbers_are_no_other_country_s() -> None:
    right = ["79250000001", "79250000001", "79031112233", "74951234567"]
    assert [read(text, "RU") for text in cells("national.csv")] == right
    assert all("not plainly international" in read(text) for text in cells("national.csv"))


@pytest.mark.parametrize(
    ("country", "text", "number"),
    [
        ("DE", "0179 111 22 33", "491791112233"),
        ("DE", "1791112233", "491791112233"),
        ("UA", "050 123-45-67", "380501234567"),
        ("UA", "501234567", "380501234567"),
        ("KZ", "8 701 123 45 67", "77011234567"),
        ("BY", "8 029 123-45-67", "375291234567"),
        ("GB", "07911 123456", "447911123456"),
        ("FR", "06 12 34 56 78", "33612345678"),
        ("TR", "532 123 45 67", "905321234567"),
        ("US", "(212) 555-0123", "12125550123"),
        ("CN", "150 1234 5678", "8615012345678"),  # +1 501 234 5678 is Arkansas
        ("VN", "084 912 3456", "84849123456"),
        ("US", "011 44 7911 123456", "447911123456"),
        ("UZ", "90 123 45 67", "998901234567"),
    ],
)
def test_national_forms_are_read_with_their_country_only(
    country: str, text: str, number: str
) -> None:
    assert read(text, country) == number
    assert not read(text).isdigit()
    # In a list of that country its numbers may be written internationally all the same
    assert read("+" + number, country) == read(number, country) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[("79250000001", "79250000001"), ("380501234567", "380501234567")],
        *[("00 49 179 1112233", "491791112233"), ("491791112233", "491791112233")],
        *[("+38 (050) 123-45-67", "380501234567"), ("+49 (0)179 1112233", "491791112233")],
        *[("(+7 925) 000-00-01", "79250000001"), ("+49 30/1234567", "49301234567")],
        *[("79,250,000,000", "79250000000"), ("79.250.000.001,0", "79250000001")],
        *[("49 (0)179 1112233", "491791112233"), ("+7 8 925 000 00 01", "79250000001")],
        *[("0011 49 179 1112233", "491791112233"), ("009 49 179 1112233", "491791112233")],
        # 003 and a Hungarian landline, were 003 what anyone dials
        *[("00 33 6 12 34 56 78", "33612345678"), ("0049 151 23456789", "4915123456789")],
        *[("0086 138 0013 8000", "8613800138000"), ("+84951234567", "84951234567")],
        *[("т. +79250000001", "79250000001"), ("м.+79250000001", "79250000001")],
        *[("7925\u31640000001", "79250000001"), ("\ufe0f79250000001\u2800", "79250000001")],
        *[("7,9250000001E+010", "79250000001")],
        *[("=+79250000001", "79250000001"), ("79,250,000,001", "79250000001")],
        *[
            ("79\u00a0250\u00a0000\u00a0001,00", "79250000001"),
            ("＋７９２５０００００01", "79250000001"),
        ],
    ],
)
def test_what_is_plainly_international_is_read(text: str, number: str) -> None:
    assert read(text) == number


@pytest.mark.parametrize(
    ("text", "country", "words"),
    [
        ("+79250000001, +79260000001", None, "more than one"),
        ("79250000001/79260000001", None, "more than one"),
        ("79250000001\n79260000001", None, "more than one"),
        ("+79250000001 +79260000001", None, "more than one"),
        ("+79250000001 доб. 12", None, "without an extension"),
        ("tel:+79250000001;ext=3", None, "without an extension"),
        ("+7 925 000-00-0O", None, "without letters"),
        ("Анна +79250000001", None, "without letters"),
        ("7925000000¹", None, "without letters"),  # a footnote is no digit
        ("+49 30 123456 (12)", None, "other signs"),
        ("8 495 123-45-6/7", "RU", "other signs"),
        ("2026-01-02", "DE", "phone number"),
        ("", None, "is empty"),
        ("\u200b ", None, "is empty"),
        ("12", None, "no such numbers"),
        ("+8 (495) 123-45-67", None, "no such numbers"),  # not Viet Nam's +84 951 234 567
        ("+7 925 000-00-0", None, "no such numbers"),
        ("8 800 555-35-35", "RU", "toll-free"),
        ("+79250000001" + " " * 500, None, "phone number"),
        ("9250000001", "FR", "plainly international"),
        ("15012345678", "RU", "plainly international"),  # China's, Germany's or Arkansas's
        ("7.925E+10", "RU", "Excel has cut"),
        ("3525550123", None, "not plainly international"),  # Luxembourg's or Florida's
        (
            "0011 501 622-0000",
            "BZ",
            "a national or an international",
        ),  # Belize's from Australia, or Arkansas's
        ("011 248 2 510 000", "SC", "a national or an international"),  # 01 and 1, or 011 and 248
        ("119 376 310 000", None, "not plainly international"),  # Andorra's, dialled in Cuba
        ("009 1 268 464 0000", None, "a national or an international"),
        ("5,016,220", "FR", "plainly international"),
        ("+84951234567", "RU", "a national number with +8 for its 8"),  # 8 495, or Viet Nam
        ("1. 9252345678", None, "more than one"),  # the first of a list, or California
        ("№ 1 9252345678", None, "without letters"),
        ("+007 925 000-00-01", None, "no such numbers"),
        ("7,925E+010", None, "Excel has cut"),
        ("7,925 Е+10", None, "Excel has cut"),  # a Cyrillic letter
        ("☎ +79250000001", None, "without letters and other signs"),
        ("6030000", "GA", "national or an international"),  # or 06 03 00 00, without its 0
        ("5321234567", None, "not plainly international"),  # Cuba's or Turkey's
    ],
)
def test_what_is_in_doubt_is_refused_without_repeating_it(
    text: str, country: str | None, words: str
) -> None:
    fault = read(text, country)
    assert words in fault and fault.isascii()
    assert len(text) < 2 or text not in fault


def test_a_landline_is_known_and_where_a_number_is() -> None:
    assert read_number("+7 495 123-45-67") == Number("74951234567", "RU", True)
    assert read_number("+923001234567") == Number("923001234567", "PK", False)


def test_wrong_arguments_are_named() -> None:
    for country in ("ru", "RUS", "XX", ""):
        with pytest.raises(ValueError, match="two capital letters, as RU"):
            normalize_address("+79250000001", country)
    with pytest.raises(InvalidMessage, match="must be a string"):
        normalize_address(79250000001)  # type: ignore[arg-type]


def test_producer_stays_strict(producer: Producer) -> None:
    job = {"subject": "Shop", "priority": "low", "contentType": "text", "content": {"text": "t"}}
    with pytest.raises(InvalidMessage, match="address: must be an international number"):
        producer.enqueue({**job, "address": "+7 925 000-00-01"})
    producer.enqueue({**job, "address": normalize_address("+7 925 000-00-01")})


def test_without_its_extra_it_names_it() -> None:
    code = """import sys; sys.modules["phonenumbers"] = None
from viber_courier import *
assert "viber_courier.ops.lists.phone" in sys.modules
normalize_address("+79250000001")"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1].startswith("ImportError: phone numbers are read with")
    assert "pip install 'viber-courier[phone]'" in run.stderr


def check_spelling(data: st.DataObject, country: str, number: str) -> None:
    """A spelling of a number is that number or refused, with its country and without any."""
    text = data.draw(spellings(country, number))
    asked = data.draw(st.sampled_from([None, country]))
    found = read(text, asked)
    assert found == number or not found.isdigit(), (text, asked, found)
    if text.strip().startswith("+") and "E+" not in text:
        assert found == number, (text, asked, found)


@settings(max_examples=80, deadline=None)
@given(st.data(), numbers())
def test_a_spelling_is_its_number_or_refused(data: st.DataObject, number: tuple[str, str]) -> None:
    check_spelling(data, *number)


def check_quick(digits: str, country: str | None) -> bool:
    """The quick way says what phonenumbers says, if it says anything."""
    found = [read_quickly(plus, digits, country) for plus in ("", "+")]
    for plus, quick in zip(("", "+"), found, strict=True):
        assert quick is None or quick == read_slowly(plus, digits, country)
    return any(found)


def test_the_quick_way_says_what_phonenumbers_says() -> None:
    kinds = [*phonenumbers.PhoneNumberType.values()]
    examples = [phonenumbers.example_number_for_type(c, k) for c in COUNTRIES for k in kinds]
    e164 = phonenumbers.PhoneNumberFormat.E164
    found = [phonenumbers.format_number(each, e164)[1:] for each in examples if each]
    assert sum(check_quick(digits, None) for digits in found) > 200
    for digits in ("79250000001", "89250000001", "77011234567", "87011234567", "88005553535"):
        for country in (None, "RU", "KZ", "DE"):
            check_quick(digits, country)
