"""What compose.yaml promises of its services, and that its parts agree with each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from shared.arena.files import KEEP_FREE_BYTES
from shared.health.__main__ import PATIENCE_S
from shared.settings import MIB, Settings, SourceLimits
from shared.settings.catalogue import catalogue
from tests.conftest import PROJECT
from tests.deploy.composed import (
    COMPOSE,
    EXAMPLE,
    OTHER_STORE,
    VARIABLE,
    Service,
    example,
    interpolated,
    parsed,
    prepare,
    read_env,
    services,
)

PASSWORDS = {"REDIS_PASSWORD": "r" * 32, "FLOWER_PASSWORD": "f" * 24}
ONCE = {"prepare", "bucket"}
STAGES = {"decode", "infer", "compose", "encode"}
PUBLISHED = {"api", "objects", "flower", "grafana"}
UNITS = {"m": 1 << 20, "g": 1 << 30}


def all_services(*more: Path, **variables: str) -> dict[str, Service]:
    given = {**example(), **PASSWORDS, **variables}
    return services("cpu", given, *more) | services("gpu", given, *more)


def bytes_of(size: str) -> int:
    return int(size[:-1]) * UNITS[size[-1]]


def limits(service: Service) -> dict[str, str]:
    found: dict[str, str] = service["deploy"]["resources"]["limits"]
    return found


def outside(found: Mapping[str, Service]) -> set[str]:
    """Who has a way out."""
    return {name for name, each in found.items() if "outside" in each.get("networks", [])}


def test_both_are_valid_compose_files() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    files = [str(COMPOSE), str(OTHER_STORE)]
    command = [str(checker), "--builtin-schema", "vendor.compose-spec", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_variable_of_a_process_is_a_setting_and_its_value_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {name for setting in catalogue().values() for name in setting.variables}
    for name, service in all_services().items():
        variables = {k: str(v) for k, v in service.get("environment", {}).items()}
        ours = {key: value for key, value in variables.items() if key.startswith("DUALFACE_")}
        assert ours.keys() <= known, name
        with monkeypatch.context() as patch:
            for key, value in ours.items():
                patch.setenv(key, value)
            Settings.load()
            SourceLimits.load()


def test_what_an_operator_decides_reaches_who_goes_by_it_and_changes_nothing_by_default() -> None:
    decided = {
        "SOURCE_NETWORKS": '["10.1.0.0/16"]',
        "S3_BUCKETS": '["films"]',
        "WEBHOOK_SECRET": "w" * 32,
        "SUBMIT_QUEUES": '["videos"]',
        "RESULT_LINKS": "false",
        "KEEP_SOURCES": "true",
    }
    asked = {"WEBHOOK_SECRET": ["coordinator"]}
    plain = all_services()
    for name, value in decided.items():
        found = services("cpu", {**example(), **PASSWORDS, name: value})
        for process in asked.get(name, ["api", "coordinator", "decode"]):
            assert found[process]["environment"][f"DUALFACE_{name}"] == value
            kept = plain[process]["environment"][f"DUALFACE_{name}"]
            field = Settings.model_fields[name.lower()].default
            shown = field.get_secret_value() if isinstance(field, SecretStr) else field
            assert (json.loads(kept) if kept else kept) == (
                list(shown) if isinstance(shown, tuple) else shown
            )
        assert f"`{name}`" in (PROJECT / "docs" / "deploy.md").read_text()


def test_every_variable_of_the_example_is_used_and_none_that_must_be_set_is_missing() -> None:
    text = COMPOSE.read_text()
    used = {found["name"]: found["kind"] for found in VARIABLE.finditer(text) if found["name"]}
    assert example().keys() - used.keys() == {"COMPOSE_PROFILES"}
    must = {name for name, kind in used.items() if kind == ":?"}
    assert must == PASSWORDS.keys()
    assert must <= example().keys()


def test_defaults_of_the_example_and_of_the_file_are_the_same() -> None:
    for found in VARIABLE.finditer(COMPOSE.read_text()):
        if found["kind"] == ":-" and found["name"] in example():
            assert found["rest"] == example()[found["name"]], found["name"]


def test_no_service_can_do_more_than_it_has_to() -> None:
    for name, service in all_services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), name
        assert "privileged" not in service, name


def test_every_service_is_bounded_and_watched_and_comes_back() -> None:
    for name, service in all_services().items():
        assert bytes_of(limits(service)["memory"]) > 0, name
        assert int(limits(service)["pids"]) > 0, name
        assert service["logging"]["options"]["max-size"], name
        health = service["healthcheck"]
        if name in ONCE:
            assert health == {"disable": True}
            assert service["restart"] != "unless-stopped"
        else:
            assert health["test"][0] in ("CMD", "CMD-SHELL"), name
            assert service["restart"] == "unless-stopped", name


def test_a_check_has_the_time_that_its_command_takes_and_costs_those_that_start_little() -> None:
    for name, service in all_services().items():
        if name not in ONCE:
            health = service["healthcheck"]
            assert int(health["timeout"].removesuffix("s")) >= 2 * PATIENCE_S, name
            assert int(health["start_interval"].removesuffix("s")) >= 5, name
    # As an image that is run without Compose.
    ours = all_services()["coordinator"]["healthcheck"]
    text = (PROJECT / "deploy/docker/Dockerfile").read_text()
    options = re.findall(r"^HEALTHCHECK (.*) \\$", text, re.MULTILINE)
    assert options == [
        f"--interval={ours['interval']} --timeout={ours['timeout']} "
        f"--start-period={ours['start_period']} --retries={ours['retries']}"
    ] * len(re.findall("^HEALTHCHECK", text, re.MULTILINE))


def test_images_are_pinned_and_ours_have_the_version_of_the_project() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    for name, service in all_services().items():
        image = service["image"]
        assert re.search(r":v?\d+\.\d+", image), image
        if "build" in service:
            assert image == f"dualface:{version}-{service['build']['target']}", name
        assert image.startswith("dualface:") == (service.get("pull_policy") == "never"), name
    text = (PROJECT / "deploy/docker/Dockerfile").read_text()
    assert set(re.findall(r"^ARG VERSION=(.*)$", text, re.MULTILINE)) == {version}
    for base in re.findall(r"^ARG \w+_IMAGE=(.*)$", text, re.MULTILINE):
        assert re.search(r":\d+\.\d+\.\d+-", base), base


@pytest.mark.parametrize("more", [(), (OTHER_STORE,)], ids=["alone", "another store"])
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_of_our_images_is_built_by_one_service_that_is_there_with_whoever_runs_it(
    profile: str, more: tuple[Path, ...]
) -> None:
    given = {**example(), **PASSWORDS, "S3_ENDPOINT": "https://s3.example.com"}
    found = services(profile, given, *more).values()
    images = {each["image"] for each in found if each["image"].startswith("dualface:")}
    assert len(images) == {"cpu": 1, "gpu": 2}[profile]
    assert sorted(each["image"] for each in found if "build" in each) == sorted(images)


def test_what_the_build_is_given_is_what_the_dockerfile_asks_for() -> None:
    text = (PROJECT / "deploy/docker/Dockerfile").read_text()
    plain, other = all_services(), all_services(MODELS="centerface")
    for name in ("host", "arena-gpu"):
        build = plain[name]["build"]
        assert f'ARG MODELS="{build["args"]["MODELS"]}"' in text
        assert other[name]["build"]["args"]["MODELS"] == "centerface"
        assert set(build["secrets"]) == set(re.findall(r"type=secret,id=(\w+)", text))
    # A file that says nothing to pip, unless an operator names another.
    given = {**example(), **PASSWORDS}
    (file,) = interpolated(parsed()["secrets"]["pip"], given).values()
    config = ConfigParser()
    assert config.read(PROJECT / file) == [str(PROJECT / file)]
    assert config.sections() == []


def test_only_what_people_use_is_published_and_on_the_loopback() -> None:
    found = all_services()
    assert {name for name, each in found.items() if "ports" in each} == PUBLISHED
    for name in PUBLISHED:
        assert all(port.startswith("127.0.0.1:") for port in found[name]["ports"])
    assert parsed()["networks"]["inside"] == {"internal": True}
    # Beside what is published: who fetches sources, and who calls webhooks.
    assert outside(found) - PUBLISHED == {"decode", "decode-gpu", "coordinator"}


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_with_another_object_store_who_uses_it_reaches_it_and_ours_is_not_there(
    profile: str,
) -> None:
    given = {**example(), **PASSWORDS, "S3_ENDPOINT": "https://s3.example.com"}
    found = services(profile, given, OTHER_STORE)
    assert services(profile, given).keys() - found.keys() == {"objects", "prepare"}
    users = {name for name, each in found.items() if "s3_access_key" in each.get("secrets", [])}
    assert len(users) == len({"bucket", "coordinator", "api"}) + len(STAGES)
    assert users <= outside(found)
    assert outside(found) - users == {"grafana", "flower"}  # as they are published
    for name, each in found.items():
        if name in users:
            assert each["environment"]["DUALFACE_S3_ENDPOINT"] == "https://s3.example.com"
        # Compose goes without a service that is needed only if it is there.
        needs = each.get("depends_on", {}).items()
        assert {other for other, need in needs if need.get("required", True)} <= found.keys()
    with pytest.raises(KeyError, match="S3_ENDPOINT"):
        services(profile, {**example(), **PASSWORDS}, OTHER_STORE)


def test_processes_of_an_arena_share_process_ids_shared_memory_and_host_name() -> None:
    found = all_services()
    joined = {"coordinator", "arena", "arena-gpu", *STAGES, *(f"{s}-gpu" for s in STAGES)}
    assert {name for name, each in found.items() if "pid" in each} == joined
    for name in joined:
        service = found[name]
        assert (service["pid"], service["ipc"]) == ("service:host", "service:host")
        assert service["hostname"] == found["coordinator"]["hostname"]
        assert "state:/var/lib/dualface" in service["volumes"]
        assert service["depends_on"]["host"]["condition"] == "service_healthy"
        assert "init" not in service
    assert found["host"]["ipc"] == "shareable"
    assert found["host"]["init"] is True


def test_the_gpu_profile_does_what_the_cpu_profile_does_with_a_gpu_at_hand() -> None:
    found = all_services()
    for name in ("arena", *STAGES):
        cpu, gpu = found[name], found[f"{name}-gpu"]
        (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
        assert gpu["command"] == cpu["command"]
        assert name == "infer" or limits(gpu) == limits(cpu)
        own = {"image", "build", "profiles", "environment", "depends_on", "deploy"}
        assert {k: v for k, v in gpu.items() if k not in own} == {
            k: v for k, v in cpu.items() if k not in own
        }
        differing = dict(gpu["environment"].items() - cpu["environment"].items())
        assert differing == {"DUALFACE_ARENA": "gpu0", "DUALFACE_GPU_DEVICE": "0"}


def test_a_worker_has_the_time_to_drain() -> None:
    needed = Settings.model_fields["drain_s"].default
    for name in STAGES:
        period = all_services()[name]["stop_grace_period"]
        assert int(period.removesuffix("s")) > needed


def test_the_arena_fits_into_shared_memory_and_its_owner() -> None:
    found = all_services()
    slab = int(found["arena"]["environment"]["DUALFACE_ARENA_MIB"]) * MIB
    # Workers still hold the one before when a new one begins.
    assert bytes_of(found["host"]["shm_size"]) >= 2 * slab + KEEP_FREE_BYTES
    assert bytes_of(limits(found["arena"])["memory"]) >= slab + 128 * MIB


def test_a_source_that_takes_what_it_may_does_not_end_its_worker() -> None:
    found = all_services()
    decode = found["decode"]["environment"]
    source = int(decode["DUALFACE_SOURCE_MAX_MEMORY_MIB"]) * MIB
    at_once = int(decode["DUALFACE_DECODE_WORKERS"]) + 1  # another one is split meanwhile
    assert bytes_of(limits(found["decode"])["memory"]) >= at_once * source + 512 * MIB
    assert bytes_of(limits(found["encode"])["memory"]) >= source + 512 * MIB


def test_what_is_mounted_from_the_project_is_there() -> None:
    mounts = [
        mount
        for service in all_services().values()
        for mount in service.get("volumes", [])
        if isinstance(mount, str) and mount.startswith("./")
    ]
    assert mounts
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (PROJECT / source).exists(), mount
        assert mode == "ro", mount


def test_prometheus_asks_where_the_coordinator_answers() -> None:
    config = yaml.safe_load((PROJECT / "deploy/monitoring/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    (target,) = jobs["dualface"]["static_configs"][0]["targets"]
    coordinator = all_services()["coordinator"]["environment"]
    assert target == f"coordinator:{coordinator['DUALFACE_HTTP_PORT']}"
    assert coordinator["DUALFACE_HTTP_HOST"] == "0.0.0.0"


def test_setup_makes_secrets_once_and_for_their_owner_only(tmp_path: Path) -> None:
    prepare(tmp_path)
    secrets = tmp_path / "deploy" / "docker" / "secrets"
    first = {path.name: path.read_text() for path in secrets.iterdir()}
    env = (tmp_path / ".env").read_text()
    files = {name: Path(each["file"]).name for name, each in parsed()["secrets"].items()}
    assert {file for name, file in files.items() if name != "pip"} == first.keys()
    assert all(len(secret) >= 20 for secret in first.values())
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    made = read_env(tmp_path / ".env")
    assert made | dict.fromkeys(PASSWORDS, "") == read_env(EXAMPLE)
    assert all(len(made[name]) == len(value) for name, value in PASSWORDS.items())

    prepare(tmp_path)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == first
    assert (tmp_path / ".env").read_text() == env
