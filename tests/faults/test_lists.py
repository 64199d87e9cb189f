"""Lists at length: the grammars of test_lists.py and test_phone.py, and a long list's memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import openpyxl
import phonenumbers
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.spellings import COUNTRIES, numbers, tables
from tests.test_lists import check_table
from tests.test_phone import check_quick, check_spelling

AT_LENGTH = {"deadline": None, "suppress_health_check": list(HealthCheck)}
MEASURED = """
import re, sys
from viber_courier.ops.cli import main
try:
    main()
finally:  # not ru_maxrss: a process inherits it from the one that started it
    print(re.search(r"VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


@settings(max_examples=20_000, **AT_LENGTH)  # type: ignore[arg-type]
@given(st.data(), numbers())
def test_any_spelling_is_its_number_or_refused(
    data: st.DataObject, number: tuple[str, str]
) -> None:
    check_spelling(data, *number)


@settings(max_examples=2_000, **AT_LENGTH)  # type: ignore[arg-type]
@given(tables())
def test_any_table_has_its_rows(
    tmp_path: Path, table: tuple[bytes, str, list[dict[str, str]]]
) -> None:
    check_table(*table, tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_the_quick_way_says_what_phonenumbers_says_of_any_number(seed: int) -> None:
    chance, found = random.Random(seed), 0
    for _ in range(10_000):
        code = str(chance.choice([7, 7, 7, *phonenumbers.COUNTRY_CODE_TO_REGION_CODE]))
        digits = code + "".join(chance.choices("0123456789", k=chance.choice([8, 9, 10, 10, 11])))
        if chance.random() < 0.3:
            digits = "8" + digits[1:]
        found += check_quick(digits, chance.choice([None, "RU", "KZ", chance.choice(COUNTRIES)]))
    assert found > 150


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_a_long_list_streams(tmp_path: Path, kind: str) -> None:
    # Given a short list and a long one
    (tmp_path / "common.json").write_text(
        '{"subject": "Shop", "priority": "low", "contentType": "text"}'
    )
    used = []
    for count in (20_000, 300_000 if kind == "csv" else 100_000):
        file = tmp_path / f"{count}.{kind}"
        rows = ([f"7925{n:07}", "Скидки до воскресенья", str(n)] for n in range(count))
        header = ["address", "content.text", "metadata.n"]
        if kind == "csv":
            with file.open("w") as out:
                out.writelines(";".join(row) + "\n" for row in (header, *rows))
        else:
            book = openpyxl.Workbook(write_only=True)
            sheet = book.create_sheet()
            for row in (header, *rows):
                sheet.append(row)
            book.save(file)
        # When it is looked at
        command = [sys.executable, "-c", MEASURED, "bulk", str(file), "--dry-run", "--json"]
        command += ["--common", str(tmp_path / "common.json")]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(run.stdout)["messages"] == count
        used.append(int(run.stderr.split()[-1]) // 1024)
    # Then it takes the memory of its numbers, and of a workbook's cells: MiB
    assert used[1] - used[0] < 50, used
