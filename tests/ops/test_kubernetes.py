"""ops/kubernetes against Kubernetes's own schemas, in several of its versions."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

validator = pytest.importorskip("kubernetes_validate", reason="make test-ops installs it")
FOLDER = Path(__file__).parents[2] / "ops/kubernetes"


@pytest.mark.parametrize("version", ["1.27", "1.31", "1.34"])
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_schema_of_kubernetes_takes_the_manifest(path: Path, version: str) -> None:
    for each in yaml.safe_load_all(path.read_text("utf-8")):
        validator.validate(each, version, strict=True)


def test_the_schema_refuses_what_is_not_in_it() -> None:
    made = yaml.safe_load((FOLDER / "settings.yaml").read_text("utf-8"))
    with pytest.raises(validator.ValidationError):
        validator.validate({**made, "dta": {}}, "1.34", strict=True)
