"""`auto_detected.yaml`: what was probed on this hardware, and whether it is still that hardware."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from shared.settings.contents import REASON, VALUE, VALUES, why_not
from shared.settings.hardware import Derived, GpuFacts, HardwareFacts
from shared.settings.layers import read_layer
from shared.settings.places import DETECTED, config_dir
from shared.settings.writing import only_writer, write_whole

PROBED, FINGERPRINT = "probed", "fingerprint"
HEAD = """\
# What was probed on this hardware, written anew by every probe. To set something yourself, use
# `dualface config set`: manual_config.yaml is stronger. Without this file defaults count.
"""


def host_facts(cores: int, driver: str = "", gpus: tuple[GpuFacts, ...] = ()) -> HardwareFacts:
    """With this release."""
    return HardwareFacts(cores=cores, release=version("dualface"), driver=driver, gpus=gpus)


def write_detected(
    facts: HardwareFacts,
    values: Mapping[str, Derived],
    folder: Path | None = None,
    now: datetime | None = None,
) -> Path:
    """Replace the file by what a probe found; the answer is its path. `values`: by dotted names, as
    from `derive`. `folder`: that of the settings, by default.

    Raises ValueError for a name or value that is no setting's; PermanentError OUTPUT_UNWRITABLE.
    """
    import yaml

    for name, derived in values.items():
        wrong = why_not(name, derived.value)
        if wrong:
            raise ValueError(wrong)
    content = {
        PROBED: (now or datetime.now()).astimezone().isoformat(timespec="seconds"),
        FINGERPRINT: fingerprint(facts),
        VALUES: {
            name: {VALUE: derived.value, REASON: derived.reason} for name, derived in values.items()
        },
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    path = (folder or config_dir()) / DETECTED
    with only_writer(path.parent):
        write_whole(path, HEAD + text)
    return path


def probe_is_stale(facts: HardwareFacts, folder: Path | None = None) -> str:
    """Why the file is not of this hardware, driver and release, in a few words: it has to be probed
    anew. "" while it is."""
    layer = read_layer((folder or config_dir()) / DETECTED)
    told = layer.facts.get(FINGERPRINT) if layer is not None else None
    if not isinstance(told, dict):
        return "nothing was probed yet"
    now = fingerprint(facts)
    for name, what in _WHAT.items():
        if told.get(name) != now[name]:
            before, after = _said(told.get(name)), _said(now[name])
            if before == after:
                return f"{what} are others of the same names"
            return f"{what} changed from {before} to {after}"
    return ""


def fingerprint(facts: HardwareFacts) -> dict[str, object]:
    """What values that were probed go by, as YAML has it."""
    return {
        "driver": facts.driver,
        "gpus": [
            {"uuid": gpu.uuid, "name": gpu.name, "memory_mib": gpu.memory_mib}
            for gpu in sorted(facts.gpus, key=lambda gpu: gpu.uuid)
        ],
        "cores": facts.cores,
        "release": facts.release,
    }


_WHAT = {
    "driver": "the driver",
    "gpus": "the GPUs",
    "cores": "the number of cores",
    "release": "the release",
}


def _said(value: object) -> str:
    if isinstance(value, list):
        names = [str(each.get("name")) if isinstance(each, dict) else str(each) for each in value]
        return ", ".join(names) or "none"
    return str(value) if value not in (None, "") else "none"
