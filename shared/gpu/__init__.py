"""What NVML tells of this host's GPUs: which there are, how busy, how full; what our parts need of
them.

Where there is no driver, no GPU or no package, there is nothing to tell, and nothing is wrong. A
figure that a device does not have (MIG, older ones) is None, the others are told all the same.
"""

from shared.gpu.board import GpuBoard, GpuRecord, HostGpus
from shared.gpu.inventory import Gpu, Hardware, MigSlice, devices, inventory
from shared.gpu.load import GpuLoad, Gpus, forget, tell, watch_gpus

__all__ = [
    "Gpu",
    "GpuBoard",
    "GpuLoad",
    "GpuRecord",
    "Gpus",
    "Hardware",
    "HostGpus",
    "MigSlice",
    "devices",
    "forget",
    "inventory",
    "tell",
    "watch_gpus",
]
