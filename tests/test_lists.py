"""Lists as programs write them: the same rows from each, and a name for what is no list."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings

from tests.spellings import SENTENCE, tables
from viber_courier.ops.lists.columns import Refusal, Row
from viber_courier.ops.lists.files import NotAList
from viber_courier.ops.lists.recipients import Survey, read_recipient
from viber_courier.ops.lists.storing import RefusedRows
from viber_courier.ops.lists.tables import Reading, Table

CASES = Path(__file__).parent / "cases"
ANY = Reading({})
ERROR = (
    "comment holds an error, as #N/A, or a formula that was never calculated: mend it, and save it"
    " in Excel"
)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file: bytes, or a text in UTF-8, or the rows of a workbook's sheets."""

    def file(content: Any, name: str = "list") -> Path:
        path = tmp_path / name
        if isinstance(content, dict):
            book = openpyxl.Workbook()
            book.remove(book.active)
            for title, rows in content.items():
                sheet = book.create_sheet(title.strip("."))
                sheet.sheet_state = "hidden" if title.startswith(".") else "visible"
                for row in rows:
                    sheet.append(row)
            book.save(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return file


def rows(path: Path, reading: Reading = ANY) -> list[dict[str, Any]]:
    """The jobs of a list; a refused row is its reason."""
    table = Table(path, reading)
    found = []
    for row in table.rows():
        try:
            found.append(table.columns.job(row.cells))
        except Refusal as wrong:
            found.append({"refused": str(wrong)})
    return found


def fault(path: Path, reading: Reading = ANY) -> str:
    """Why a file is no list."""
    with pytest.raises(NotAList) as caught:
        Survey().add(Table(path, reading).rows(), Table(path, reading).columns, None)
    return str(caught.value)


def check_table(data: bytes, encoding: str, right: list[dict[str, str]], folder: Path) -> None:
    """A table in any form has its rows; refused, they come out in the same form each time."""
    path, reading = folder / "list.csv", ANY
    path.write_bytes(data)
    try:
        Table(path, ANY)
    except NotAList as wrong:  # letters that make no words
        assert "whose encoding can't be told" in str(wrong) and encoding in (
            "cp1251",
            "koi8-r",
            "cp866",
        )
        reading = Reading({}, encoding)
    found = rows(path, reading)
    for job in found:
        for outer in ("content", "metadata"):
            job.update({f"{outer}.{name}": text for name, text in job.pop(outer, {}).items()})
    assert found == right
    first, again = folder / "refused.csv", folder / "again.csv"
    refuse_all(path, first, reading)
    refuse_all(first, again, reading)
    assert first.read_bytes() == again.read_bytes()
    before, after = Table(path, reading), Table(first, reading)
    assert before.form == after.form
    assert [row.cells for row in before.rows()] == [row.cells for row in after.rows()]


def refuse_all(path: Path, into: Path, reading: Reading = ANY) -> None:
    table = Table(path, reading)
    with ExitStack() as stack:
        refused = RefusedRows(into, table, max(len(row.cells) for row in table.rows()), stack)
        for row in table.rows():
            refused.add(row, "address is wrong, said so")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tables())
def test_a_table_in_any_form_has_its_rows(
    tmp_path: Path, table: tuple[bytes, str, list[dict[str, str]]]
) -> None:
    check_table(*table, tmp_path)


@pytest.mark.parametrize("name", ["excel_trailing.csv", "blank_tail.csv", "utf8.csv"])
def test_what_excel_saved_is_read(name: str) -> None:
    found = rows(CASES / name)
    assert {each["content"]["text"] for each in found} <= {"Привет", "Скидки"}
    assert [each["address"] for each in found[:2]] == ["79250000000", "79250000001"][
        : len(found)
    ] or (found[0]["address"] == "79250000001")
    assert len(found) == {"excel_trailing.csv": 24}.get(name, 1)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [(each, SENTENCE) for each in ("cp1251", "koi8-r", "cp866", "utf-8", "utf-16", "utf-16-le")]
    + [("utf-16-be", SENTENCE), ("utf-8-sig", SENTENCE), ("utf-32", SENTENCE)]
    + [
        ("cp1251", "ПРИВЕТ"),
        ("koi8-r", "Скидки"),
        ("cp1251", "Фёдор, ёлки"),
        ("cp1251", "Вітаємо!"),
    ]
    + [("cp1252", "Müller, das Paket ist da"), ("latin-1", "José, votre café")]
    + [("cp1252", "Schöne Grüße, 5 €"), ("cp1252", "Olá, sua promoção está aqui")]
    + [("koi8-u", "Вітаємо, ваше замовлення їде"), ("iso8859-5", "Привет, ваш заказ готов")]
    + [("mac-cyrillic", "Привет, Анна, скидки для вас"), ("cp1251", "Эдуард, «Шура» № 5 — 5 €")],
)
def test_encodings_are_found_out(write: Write, encoding: str, text: str) -> None:
    path = write(f'address,content.text\n79250000001,"{text}"\n'.encode(encoding))
    assert rows(path) == [{"address": "79250000001", "content": {"text": text}}]


@pytest.mark.parametrize(
    ("data", "encoding", "words"),
    [
        ("address,comment\n1,Привет\n", "cp1251", "the file is utf-8, not cp1251"),
        ("\ufeffaddress\n1\n", "cp1251", "the file is utf-8, not cp1251"),
        ("address,comment\n1,Привет\n".encode("utf-16"), "utf-8", "the file is utf-16-le, not"),
        ("address,comment\n1,Привет\n".encode("cp1251"), "utf-8", "line 2 is not utf-8"),
        ("address,comment\n1,Привет\n".encode("cp1251"), "ascii", "line 2 is not ascii"),
        ("address,comment\n1,Привет\n2,".encode() + b"\xff\n", None, "line 3 is not utf-8: mend"),
        ("address,comment\n1,Привет\n2,".encode() + b"\xff\n", "cp1251", "line 3 is not utf-8"),
        ("address,comment\n1,Zażółć gęślą jaźń\n".encode("cp1250"), None, "name it with --enc"),
        ("address,comment\n1,Я\n".encode("koi8-r"), None, "line 2 has letters whose encoding"),
        ("address\n1\n", "klingon", "no such encoding"),
        ("address\n1\n", "hex", "no such encoding"),
        ("address\n1\n", "idna", "no such encoding"),
        *[
            (f"address,comment\n1,{text}\n".encode(encoding), None, "whose encoding can't be told")
            for encoding, text in (
                ("cp1254", "Değerli müşterimiz, çok güzel ürünler"),
                ("cp1250", "Dobrý den, vaše objednávka je připravena"),
                ("cp1250", "Dzień dobry, paczka czeka"),
                ("cp1250", "Szép napot, csomagja megérkezett, őszintén"),
                ("cp1250", "Bună ziua, comanda este gata"),
                ("cp1257", "Sveiki, jūsų užsakymas paruoštas"),
                ("cp1253", "Γειά σας, η παραγγελία"),
                ("kz1048", "Сәлеметсіз бе, тапсырыс дайын"),
                ("cp855", "Привет"),
                ("cp850", "Guten Tag, schöne Grüße"),
                ("cp1252", "5 €"),
            )
        ],
    ],
)
def test_an_encoding_in_doubt_is_refused(
    write: Write, data: Any, encoding: str | None, words: str
) -> None:
    assert words in fault(write(data), Reading({}, encoding))


def test_a_column_s_name_tells_the_encoding(write: Write) -> None:
    path = write("address,Ъ\n79250000001,x\n".encode("koi8-r"))
    assert rows(path, Reading({"Ъ": "content.text"}))[0]["content"] == {"text": "x"}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('"address";"Content.Text "\n1;a\n', [{"address": "1", "content": {"text": "a"}}]),
        (" ADDRESS \t TTLSEC\n1\t60.0\n", [{"address": "1", "ttlSec": 60}]),
        (
            "address,resendSms,smsText\n1,ИСТИНА, a\n",
            [dict(address="1", resendSms="true", smsText=" a")],
        ),
        ("Sep=|\naddress|comment\n1|a;b,c\n", [{"address": "1", "comment": "a;b,c"}]),
        ("address;;\n1;;\n2\n;;\n\n \u00a0;\u200b\n", [{"address": "1"}, {"address": "2"}]),
        ("address;comment\n1;a;;;\n", [{"address": "1", "comment": "a"}]),
        ("address;comment\n1;a;b\n", [{"refused": "column 3 has a value and no name"}]),
        ("address;;comment\n1;x;a\n", [{"refused": "column 2 has a value and no name"}]),
        ("address;comment\n1;#N/A\n", [{"refused": ERROR}]),
        ("address;comment\n1;#ЗНАЧ!\n", [{"refused": ERROR}]),
        (
            "address\n7,925E+10\n7,9250000007E+10\n",
            [{"address": "7,925E+10"}, {"address": "7,9250000007E+10"}],
        ),
        ("Клиенты;\nна ноябрь;\naddress;comment\n1;a\n", [{"address": "1", "comment": "a"}]),
        (
            "+7 925 000-00-01\n79250000002\n",
            [{"address": "+7 925 000-00-01"}, {"address": "79250000002"}],
        ),
        ("address;comment;Reason\n1;a;address is wrong\n", [{"address": "1", "comment": "a"}]),
        ('address;comment\n1;"a\r\nb"\n', [{"address": "1", "comment": "a\r\nb"}]),
        (
            "address;comment\r1;a\r2;b\r\x1a",
            [dict(address="1", comment="a"), dict(address="2", comment="b")],
        ),
    ],
)
def test_the_form_is_found_out(write: Write, text: str, right: list[dict[str, Any]]) -> None:
    assert rows(write(text)) == right


def archive_of(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w"):
        pass
    return gzip.compress(out.getvalue(), mtime=0)  # the same in each process of a test run


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n \r\n", "is empty"),
        (b"%PDF-1.7\n", "a PDF"),
        (archive_of("word/document.xml"), "a Word document"),
        (archive_of("Index/Document.iwa"), "Apple Numbers"),
        (archive_of("list.csv"), "an archive (zip)"),
        (b"PK\x03\x04 and no more", "a damaged .xlsx"),
        (archive_of("xl/workbook.xml"), "no workbook that can be read"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "no workbook that can be read"),
        (tar(), "gzip"),
        (b"\x89PNG\r\n\x1a\n", "an image"),
        (b"\xff\xd8\xff\xe0", "an image"),
        (b"<!DOCTYPE HTML><table>", "a web page"),
        (b"\r\n<HTML><body>", "a web page"),
        (b"\xef\xbb\xbf<!-- 1C --><style>", "a web page"),
        (b"MIME-Version: 1.0\r\nContent-Type: multipart/related", "a web page or e-mail"),
        (b"address\n" + b"79250000001\n" * 9000 + b"7925\x000000001\n", "line 9002 has a NUL"),
        (b'<?xml version="1.0"?>', "XML"),
        (b'{"address": "79250000001"}', "JSON"),
        (json.dumps([{"address": "1"}] * 9999).encode(), "JSON"),
        (b"BEGIN:VCARD\nFN:Anna\n", "vCard"),
        (bytes(range(256)) * 9, "no text and no workbook"),
    ],
)
def test_what_is_no_list_is_named_for_what_it_is(write: Write, data: bytes, words: str) -> None:
    assert words in fault(write(data))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Анна;79250000001\n", "no column is a field of a job"),
        ("79250000001,x\n", "no column is a field of a job"),
        ("Телефон;Имя\n1;a\n", "--map COLUMN=FIELD"),
        ("address,adress\n", "column 'adress' is not a field"),
        ("address,Anna 79250000001\n", "column number 2 is not a field"),
        ("address,ADDRESS\n", "two columns 'address'"),
        ("subject\n", "no column 'address'"),
        ('address,comment\n1,"x\n2,y\n', "the row that begins on line 2 can't be read"),
    ],
)
def test_a_header_that_is_none_is_refused_without_repeating_a_row(
    write: Write, text: str, words: str
) -> None:
    said = fault(write(text))
    assert words in said and "79250000001" not in said and "Анна" not in said


BOOK = {
    ".Hidden": [["address"], [79250000009]],
    "List": [
        [None, None],
        [None, "address", "content.text", "metadata.when", "ttlSec"],
        [None, 79250000001, "Привет", date(2026, 1, 2), 60],
        [None, 79250000002.0, None, datetime(2026, 1, 2, 3, 4)],
        [],
        [None, "+7 925 000-00-03", "=1/0"],
        [None, "#N/A", "x"],
        [None, 79250000004, True, 0.5],
    ],
    "Other": [["address"], [79250000008]],
}


def test_a_workbook_s_first_visible_sheet_is_read(write: Write) -> None:
    path = write(BOOK, "list.xlsx")
    assert rows(path) == [
        {
            **{"address": "79250000001", "content": {"text": "Привет"}, "ttlSec": 60},
            "metadata": {"when": "2026-01-02"},
        },
        {"address": "79250000002", "metadata": {"when": "2026-01-02T03:04:00"}},
        # A formula without its value is not an empty cell, in whose place common's text is sent
        {"refused": f"content.text{ERROR[7:]}"},
        {"refused": f"address{ERROR[7:]}"},
        {"address": "79250000004", "content": {"text": "true"}, "metadata": {"when": "0.5"}},
    ]
    assert [row.line for row in Table(path, ANY).rows()] == [3, 4, 6, 7, 8]
    assert Table(path, ANY).notes == ["not read: 1 more sheet; --sheet NAME reads another"]
    assert rows(path, Reading({}, sheet="Other")) == [{"address": "79250000008"}]
    assert rows(path, Reading({}, sheet="Hidden")) == [{"address": "79250000009"}]
    assert "no sheet with the name" in fault(path, Reading({}, sheet="list"))
    assert "no workbook" in fault(write("address\n1\n", "a.csv"), Reading({}, sheet="x"))
    assert "list is empty" in fault(write({"Empty": []}, "b.xlsx"))


def test_old_excel_is_read() -> None:
    right = [
        {"address": "79250000001", "content": {"text": "Привет"}},
        {"address": "+7 925 000-00-02"},
    ]
    assert rows(CASES / "old.xls") == right
    assert "errors and merged cells look empty" in Table(CASES / "old.xls", ANY).notes[-1]


def test_refused_rows_of_a_workbook_are_a_csv_file_that_excel_opens(
    write: Write, tmp_path: Path
) -> None:
    refuse_all(write(BOOK, "list.xlsx"), tmp_path / "refused.csv")
    lines = (tmp_path / "refused.csv").read_bytes().decode("utf-8-sig").split("\r\n")
    assert lines[0] == "address;content.text;metadata.when;ttlSec;reason"
    assert lines[1] == '79250000001;Привет;2026-01-02;60;"address is wrong, said so"'.replace(
        '"', ""
    )
    assert lines[3].startswith("+7 925 000-00-03;#N/A;")


def test_a_list_s_countries_and_repeated_numbers_are_counted() -> None:
    # Given 5,000 numbers, of which three are a neighbour's, and some come twice
    columns = Table(CASES / "utf8.csv", ANY).columns
    survey, lines = Survey(), [f"7925{n:07}" for n in range(4996)]
    lines += ["+923001234567", "923001234568", "+92 300 1234569", "+74951234567"]
    lines += ["8 (925) 000-00-00", "+7 925 0000001", "9250000002", "x"]
    rows = (Row(n, [text, "x"]) for n, text in enumerate(lines, 2))
    # When they are counted
    survey.add(rows, columns, "RU")
    # Then what stands out is told
    assert (survey.rows, survey.refused, survey.repeated) == (5004, 1, 3)
    assert survey.countries == {"RU": 4997, "PK": 3}
    assert list(survey.notes(False, {"PK": "Pakistan"}.__getitem__)) == [
        "3 of 5,000 numbers are in Pakistan",
        "3 rows repeat an earlier row's number: left out (--repeat sends all),"
        " lines 5002, 5003, 5004",
        "1 of 5,000 numbers is a landline, where hardly anybody has Viber",
    ]


def test_a_row_s_fault_repeats_none_of_its_cells() -> None:
    columns = Table(CASES / "utf8.csv", ANY).columns
    for cell in ("Анна", "+7 925 000-00-0", "12 Anna", "", "79250000001 79250000002"):
        with pytest.raises(Refusal) as caught:
            read_recipient(Row(2, [cell, "Привет"]), columns, "RU")
        said = str(caught.value)
        assert said.isascii() and not re.search("Anna|925|12", said)


def test_a_sheet_s_formats_mislead_nobody(write: Write, tmp_path: Path) -> None:
    # Given a cell merged over two rows, a hidden row, and a formula whose value is empty
    path = write({"List": [["address", "comment"], [79250000001, "a"], [79250000002]]}, "list.xlsx")
    book = openpyxl.load_workbook(path)
    sheet = book.active
    sheet.merge_cells("B2:B3")
    sheet.append([79250000003, "c"])
    sheet.row_dimensions[4].hidden = True
    sheet.append([79250000004, "=1"])
    book.save(path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            empty = re.sub(
                rb'<c r="B5"[^>]*><f>1</f><v */?>(</v>)?',
                b'<c r="B5" t="str"><f>1</f><v></v>',
                data,
            )
            new.writestr(name, empty)
    # When it is read, the merged value is not the common one, in whose place it is shown
    found = rows(tmp_path / "b.xlsx")
    refused = {"refused": "comment is merged with the row above, and has no value of its own"}
    assert found[1] == refused
    assert found[2:] == [{"address": "79250000003", "comment": "c"}, {"address": "79250000004"}]
    assert Table(path, ANY).notes == ["read all the same: 1 hidden row of the sheet"]
    # And given back, it is refused again
    refuse_all(tmp_path / "b.xlsx", tmp_path / "refused.csv")
    assert rows(tmp_path / "refused.csv")[1] == refused


def test_what_a_sheet_can_t_show_is_named(write: Write) -> None:
    path = write({"Read me": [["Clients"]], "List": [["address"]]}, "list.xlsx")
    assert fault(path).endswith("(not read: 1 more sheet; --sheet NAME reads another)")
    path = write({"List": [["address"], [79250000001]]}, "list.xlsx")
    book = openpyxl.load_workbook(path)
    book.active["A2"].number_format = "[h]:mm"
    book.save(path)
    assert "a number is formatted as a date or a time" in fault(path)


def test_digits_above_the_header_are_a_title(write: Write) -> None:
    path = write("26.11.2026\naddress;comment\n79250000001;a\n")
    assert rows(path) == [{"address": "79250000001", "comment": "a"}]
    assert Table(path, ANY).notes == ["left out: 1 row above the header"]


def test_a_file_that_changes_is_noticed(write: Write) -> None:
    path = write("address;content.text\n79250000001;a\n")
    table = Table(path, ANY)
    table.require_unchanged()
    write("content.text;address\na;79250000001\n")
    with pytest.raises(NotAList, match="the file was changed in the meantime"):
        table.require_unchanged()


BAD = '<c r="B2" t="e"><v>#N/A</v></c>'


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (BAD, ERROR),
        (BAD.replace('"', "'"), ERROR),
        ('<c r="B2"><f>VLOOKUP(1,2,3)</f></c>', ERROR),
        ('<c r="B2" t="str"><f>VLOOKUP(1,2,3)</f></c>', ERROR),
        (
            BAD.replace('r="B2"', ""),
            "mend them, and save it in Excel",
        ),  # some programs leave it out
    ],
)
def test_no_common_text_stands_in_for_an_error(
    write: Write, tmp_path: Path, cell: str, words: str
) -> None:
    path = write({"List": [["address", "comment"], [79250000001, "a"]]}, "list.xlsx")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for name in old.namelist():
            data = re.sub(rb'<c r="B2".*?</c>', cell.encode(), old.read(name))
            new.writestr(name, data)
    if words == ERROR:
        assert rows(tmp_path / "b.xlsx") == [{"refused": ERROR}]
    else:
        assert words in fault(tmp_path / "b.xlsx")


def test_a_chart_is_no_sheet(write: Write) -> None:
    path = write({"List": [["address"], [79250000001]]}, "list.xlsx")
    book = openpyxl.load_workbook(path)
    book.create_chartsheet("Chart", 0)
    book.save(path)
    assert rows(path) == [{"address": "79250000001"}]
