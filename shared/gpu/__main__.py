"""`python -m shared.gpu`: this host's GPUs, for who can't risk asking NVML: a driver may hang.

The protocol is that of `shared.findings`: one finding; its fact `hardware` is a `Hardware` as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from shared.findings import Finding, Step, look, ok
from shared.gpu.inventory import inventory

FIX = "see what `nvidia-smi` says; after an update of the driver restart the machine"


def _hardware() -> Iterator[Finding]:
    hardware = inventory()
    text = f"{len(hardware.gpus)} GPUs" if hardware.gpus else hardware.reason
    yield ok("hardware", text, hardware=hardware.model_dump_json())


if __name__ == "__main__":
    sys.exit(look((Step("hardware", _hardware, FIX),), sys.argv[1:]))
