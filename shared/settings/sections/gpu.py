"""GPUs: which, how much of their memory, how many sessions."""

from typing import ClassVar, Literal

from pydantic import Field

from shared.settings.section import WEEK_S, Section


class Gpu(Section):
    """GPUs: which, how much of their memory, how many sessions."""

    section: ClassVar[str] = "gpu"
    omitted: ClassVar[str] = "gpu_"

    gpu_devices: Literal["auto", "none"] | tuple[str, ...] = Field(
        default="auto", description="GPUs of this host that are used: auto (all that work, of "
        "those that CUDA_VISIBLE_DEVICES names where it is set), none, or a JSON list of UUIDs of "
        "GPUs or MIG slices, as `nvidia-smi -L` has them."
    )  # fmt: skip
    gpu_device: str = Field(
        default="", description="UUID of the GPU or MIG slice that this one process works on. "
        "Empty: none."
    )  # fmt: skip
    gpu_memory_share: float = Field(
        default=0.875, gt=0, le=1, description="Share of a GPU's memory that we may use at most."
    )
    gpu_engine_margin: float = Field(
        default=0.15, ge=0, lt=1, description="Share of that kept for engines and contexts; the "
        "rest is for frames."
    )  # fmt: skip
    gpu_memory_mib: int | None = Field(
        default=None, ge=1, description="VRAM per GPU that may be used; the metric is a share of "
        "it. Default: all of it."
    )  # fmt: skip
    nvenc_sessions: int = Field(
        default=3, ge=0, description="Encoding sessions of NVENC open at a time. Drivers of "
        "consumer GPUs have allowed 2, 3, 5, 8 and 12 per system, release by release; 3 is safe "
        "with all but the oldest. Workstation and server GPUs have no such limit."
    )  # fmt: skip
    nvenc_scope: Literal["gpu", "host", "cluster"] = Field(
        default="host", description="Where `nvenc_sessions` are counted together."
    )
    nvdec_sessions: int = Field(
        default=8, ge=0, description="Decoding sessions of NVDEC per GPU: no driver limits them, "
        "some 100 MiB of its memory each does."
    )  # fmt: skip
    host: str = Field(
        default="", description="Name of the machine where something is limited per host. Default: "
        "the id of its boot, which all containers on it see."
    )  # fmt: skip
    session_idle_s: float = Field(
        default=10.0, ge=0, le=WEEK_S,
        description="How long a session stays open between two pieces of work "
        "when nobody waits for it: opening one takes 50 to 70 ms."
    )  # fmt: skip
    vbr_from_sessions: int = Field(
        default=3, ge=0, description="With so many encoding sessions open a constant bit rate "
        "becomes a variable one of 70 %. 0: never."
    )  # fmt: skip
