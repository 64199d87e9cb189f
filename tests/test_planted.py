"""The list of planted faults fits the code, the tests and the table that it is about."""

from __future__ import annotations

import pytest

from tests.planted import FAULTS, ROOT, Fault, table


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_each_fault_can_be_planted_and_names_tests_that_exist(fault: Fault) -> None:
    text = (ROOT / fault.path).read_text()
    assert fault.planted(text) != text
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text()


def test_the_page_has_the_table() -> None:
    assert table() in (ROOT / "docs" / "chaos.md").read_text(), "python -m tests.planted table"
