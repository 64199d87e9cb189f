"""ops/kubernetes: the programs, settings and image of docker-compose.yml. No cluster ran them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.test_compose import (
    IMAGE,
    PROGRAMS,
    ROOT,
    SERVICES,
    WORKERS,
    bytes_of,
    known_variables,
)
from viber_courier.schemas.settings import Settings

PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
OBJECTS: list[dict[str, Any]] = [
    each
    for path in sorted((ROOT / "ops/kubernetes").glob("*.yaml"))
    for each in yaml.safe_load_all(path.read_text("utf-8"))
]
DEPLOYMENTS = {
    each["metadata"]["name"].removeprefix("courier-"): each["spec"]
    for each in OBJECTS
    if each["kind"] == "Deployment"
}


DEPLOYED = (*PROGRAMS, "console", "gateway")
NO_LOGIN = ("console", "exporter", "gateway")
"""They ask the provider nothing, so they have no login of it."""


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = DEPLOYMENTS[name]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    found: dict[str, Any] = only
    return found


def variables(name: str) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(name).get("env", [])}


@pytest.mark.parametrize("name", DEPLOYED)
def test_each_program_is_that_of_docker_compose(name: str) -> None:
    assert DEPLOYMENTS.keys() == {*DEPLOYED}
    ours, theirs = container(name), SERVICES[name]
    assert (ours["command"], ours["image"]) == (theirs["command"], IMAGE)
    limit = ours["resources"]["limits"]["memory"]
    assert bytes_of(limit.removesuffix("i").lower()) == bytes_of(theirs["mem_limit"])
    grace = theirs.get("stop_grace_period", "30s").removesuffix("s")
    assert pod(name).get("terminationGracePeriodSeconds", 30) == int(grace)


@pytest.mark.parametrize("name", DEPLOYED)
def test_settings_are_known_and_secrets_are_files(name: str) -> None:
    (settings,) = (each["data"] for each in OBJECTS if each["kind"] == "ConfigMap")
    given = settings | variables(name)
    assert {key for key in given if key.startswith("COURIER_")} <= known_variables()
    assert Settings.from_env(
        given, provider=name not in NO_LOGIN, read=lambda path: "any-file-s-secret"
    )
    mounts = {each["mountPath"]: each["name"] for each in container(name)["volumeMounts"]}
    volumes = {each["name"]: each for each in pod(name)["volumes"]}
    files = {v for key, v in variables(name).items() if key.endswith(("_FILE", "_TOKENS"))}
    assert bool(files) == (name != "exporter")
    assert {file.rpartition("/")[2] for file in files} == {*SERVICES[name]["secrets"]}
    for file in files:
        folder, _, secret = file.rpartition("/")
        volume = volumes[mounts[folder]]
        made = volume.get("projected") or volume["secret"]
        assert made["defaultMode"] == 0o440
        given = [each["secret"]["name"] for each in made.get("sources", ())] or [made["secretName"]]
        # And the page makes each in one of the Secrets that are there
        (line,) = (each for each in PAGE.splitlines() if f"--from-file=secrets/{secret}" in each)
        assert line.split("create secret generic ")[1].split()[0] in given
    assert not [each for each in OBJECTS if each["kind"] == "Secret"]


@pytest.mark.parametrize("name", DEPLOYED)
def test_each_pod_may_do_little(name: str) -> None:
    assert pod(name)["automountServiceAccountToken"] is False
    assert pod(name)["enableServiceLinks"] is False  # FLOWER_PORT would be an address
    assert pod(name)["shareProcessNamespace"] is True  # the program is not process 1
    context = pod(name)["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] == context["fsGroup"] == 10001
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    tmp = next(each for each in pod(name)["volumes"] if each["name"] == "tmp")
    assert tmp["emptyDir"] == {"sizeLimit": "256Mi" if name == "console" else "64Mi"}


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_asked_by_its_own_name_and_not_restarted_for_redis(name: str) -> None:
    ask = f'courier live --worker "{name}@$(hostname)"'
    probes = {kind: container(name)[f"{kind}Probe"] for kind in ("liveness", "readiness")}
    assert probes["readiness"]["exec"]["command"] == ["sh", "-c", ask]
    assert probes["liveness"]["exec"]["command"] == ["sh", "-c", f"{ask} || [ $? -eq 3 ]"]
    for probe in probes.values():
        assert probe["timeoutSeconds"] > 10  # what `courier live` waits by itself


def test_a_rollout_of_beat_ends_when_the_whole_system_works() -> None:
    assert container("beat")["readinessProbe"]["exec"]["command"] == ["courier", "ready"]


@pytest.mark.parametrize("name", WORKERS)
def test_a_drain_leaves_a_worker_of_each_kind(name: str) -> None:
    (budget,) = (
        each["spec"]
        for each in OBJECTS
        if each["kind"] == "PodDisruptionBudget" and each["metadata"]["name"] == f"courier-{name}"
    )
    assert budget["maxUnavailable"] < DEPLOYMENTS[name]["replicas"]
    labels = DEPLOYMENTS[name]["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"] == labels


def test_services_lead_to_ports_that_are_there() -> None:
    for each in (each for each in OBJECTS if each["kind"] == "Service"):
        name = each["spec"]["selector"]["app.kubernetes.io/component"]
        labels = DEPLOYMENTS[name]["template"]["metadata"]["labels"]
        assert each["spec"]["selector"] == labels
        (port,), (opened,) = each["spec"]["ports"], container(name)["ports"]
        assert (port["targetPort"], port["port"]) == (opened["name"], opened["containerPort"])
