"""What our GPU packages need of driver and GPU, each with where that is said.

Only lower bounds: newer drivers run what older ones did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """A lower bound, as people write it. `part`: who needs it; `source`: where that is said."""

    part: str
    text: str
    why: str
    source: str

    @property
    def least(self) -> Version:
        """The bound, to compare with."""
        return version_of(self.text)


DRIVER = (
    Need(
        "CUDA 13 (CuPy, ONNX Runtime, TensorRT for CUDA 13)",
        "580.65.06",
        "CUDA 13.x runs on drivers from 580 on; 580.65.06 came with 13.0",
        # Table 1 there says >= 580; the exact one is in the 13.0 release notes, table 3.
        "https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html",
    ),
    Need(
        "NVENC by PyAV",
        "570.0",
        "its FFmpeg was built for Video Codec SDK 13.0, and says so when it meets an older driver",
        # The sentence and the number are inside libavcodec 62.28 of PyAV 18.1; the headers':
        "https://github.com/FFmpeg/nv-codec-headers",
    ),
    Need(
        "TensorRT 11",
        "535",
        "r535 for its CUDA 12 builds; those for CUDA 13 need what CUDA 13 needs",
        "https://docs.nvidia.com/deeplearning/tensorrt/11.2.1/installing-tensorrt/prerequisites.html",
    ),
    # PyNvVideoCodec 2.2: not known. Its wheel brings a build for Video Codec SDK 12.1 and one for
    # 13.0 and asks the driver which to load, so what the SDKs need (530, 570) is below CUDA 13's.
)

COMPUTE = (
    Need(
        "CUDA 13",
        "7.5",
        "it dropped Maxwell, Pascal and Volta: Turing (GTX 16, RTX 20, T4) is the oldest",
        "https://docs.nvidia.com/cuda/archive/13.0.1/cuda-toolkit-release-notes/index.html",
    ),
    Need(
        "TensorRT 11",
        "7.5",
        "Turing or later",
        "https://docs.nvidia.com/deeplearning/tensorrt/11.2.1/installing-tensorrt/prerequisites.html",
    ),
    # CuPy 14 itself asks for 3.0 (https://docs.cupy.dev/en/stable/install.html); CUDA 13 decides.
)


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the extra `gpu`: what it is called in the index, and why this version."""

    distribution: str
    module: str
    least: Version
    why: str
    install: str


PACKAGES = (
    Package(
        "nvidia-ml-py", "pynvml", (13,), "NVML's names of drivers from 580 on",
        "pip install 'nvidia-ml-py>=13'",
    ),
    Package(
        "cupy-cuda13x", "cupy", (14, 2), "memory, copies and kernels; of CUDA 13.x, as all others",
        # The wheel has no NVRTC: it takes the toolkit's, or what the extra `ctk` installs.
        "pip install 'cupy-cuda13x[ctk]>=14.2'",
    ),
    Package(
        "PyNvVideoCodec", "PyNvVideoCodec", (2, 2, 4),
        "NVDEC and NVENC without copies; before 2.2.4 odd strides of 16-bit frames",
        "pip install 'PyNvVideoCodec>=2.2.4'",
    ),
    Package(
        # onnxruntime/capi/build_and_package_info.py inside its wheel; its extras name cuDNN's.
        "onnxruntime-gpu", "onnxruntime", (1, 31), "built for CUDA 13.0 and cuDNN 9",
        "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]>=1.31'",
    ),
    Package(
        "tensorrt", "tensorrt", (10, 10), "optional: detection by TensorRT",
        # Its installer fetches it from NVIDIA.
        "pip install 'tensorrt-cu13>=11'",
    ),
)  # fmt: skip

NO_NVENC = re.compile(r"\b(A100|A800|A30|H100|H800|H200|H20|GH200|B100|B200|B300|GB200|GB300)\b")
"""GPUs without an encoder, by name: https://developer.nvidia.com/video-encode-decode-support-matrix.
NVML's encoder capacity is documented as a percentage only, not what it says where there is none."""


def version_of(text: str) -> Version:
    """The numbers at the beginning: "580.65.06" is (580, 65, 6); () for what has none."""
    found = re.match(r"\d+(\.\d+)*", text.strip())
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def unmet(needs: tuple[Need, ...], have: Version) -> list[Need]:
    """Of `needs`, those that `have` is too old for."""
    return [need for need in needs if have < need.least]


def package(distribution: str) -> Package:
    """The package of that name. Raises KeyError."""
    return {each.distribution: each for each in PACKAGES}[distribution]
