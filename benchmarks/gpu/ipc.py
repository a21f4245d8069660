"""What handing a batch to another process costs, against copying it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.children import Channel, Crew
from benchmarks.gpu.results import Figure, Outcome, figure
from shared.arena.base import ArenaDescriptor, Pool
from shared.arena.cuda import SMALLEST_SLOT_BYTES, CudaArena, CudaArenaOwner
from shared.cuda.own import OwnDevice
from shared.media.layout import FrameLayout, PixelFormat
from shared.messages import BatchMessage, SlotRef
from shared.metrics import Meter
from shared.redisdb import Connection, connect
from shared.settings import Settings
from tests.servers import redis_server

TITLE = "handing a batch on, against copying it"
PATIENCE_S = 120.0
SLOTS = 2
THERE, BACK = "bench:there", "bench:back"
POP_S = 30


def measure(bench: Bench) -> Outcome:
    """Microseconds of a hand-over, without and with a message; GB/s of the copies it spares."""
    width, height = bench.sizes.picture
    layout = FrameLayout(width=width, height=height, format=PixelFormat.NV12)
    size = bench.sizes.batch * layout.frame_bytes
    folder = bench.folder / "ipc"
    folder.mkdir()
    settings, repeats = bench.settings, bench.sizes.repeats
    with (
        redis_server(folder) as url,
        Crew(_owner, 1, settings, folder, size) as owner,
    ):
        descriptor = owner.hear(0, PATIENCE_S)
        with (
            Crew(_reader, 1, settings, descriptor, url) as reader,
            Crew(_writer, 1, settings, descriptor, url, layout, size, repeats) as writer,
        ):
            reader.ready()
            found = writer.answer(0, PATIENCE_S)
    bench.kept["hand-over s"] = statistics.median(found["ping"])
    return _outcome(found, size)


def _outcome(found: dict[str, list[float]], size: int) -> Outcome:
    us = {name: [1e6 * each for each in values] for name, values in found.items()}
    middle = {name: statistics.median(values) for name, values in us.items()}
    mb = size / 1e6
    figures = [
        figure("opening the arena", "us", us["open"], "once per process"),
        figure("hand-over without message", "us", us["hand"], "claim, release"),
        figure(
            "hand-over with message",
            "us",
            us["ping"],
            "the same, and a batch's message by Redis to another process that maps the slot; half "
            "of there and back; Celery's own work is not in it",
        ),
        figure("device-to-device copy", "us", us["device"], f"of the same {mb:.1f} MB"),
        _rate("device-to-device copy", found["device"], size, "bytes copied, once counted"),
        figure("pinned host copy, down and up", "us", us["host"], "of the same bytes, page-locked"),
        _rate("pinned host copy, down and up", found["host"], 2 * size, "bytes down and up"),
    ]
    for name, word in (("device", "device-to-device copy"), ("host", "host copies")):
        values = [100 * each / middle[name] for each in us["ping"]]
        means = f"hand-over with message, of the {word} of a batch"
        figures.append(figure(f"hand-over to {word}", "%", values, means))
    line = (
        f"a batch of {mb:.0f} MB: {middle['hand']:.0f} us, with message {middle['ping']:.0f} us, "
        f"device copy {middle['device']:.0f} us, host copies {middle['host']:.0f} us"
    )
    return Outcome(line=line, figures=tuple(figures))


def _rate(name: str, seconds: list[float], moved: int, means: str) -> Figure:
    return figure(f"{name}, speed", "GB/s", [moved / each / 1e9 for each in seconds], means)


# --- the processes --------------------------------------------------------------------------------


def _owner(channel: Channel, settings: Settings, folder: Path, size: int) -> None:
    device = OwnDevice(settings, Meter())()
    total = 2 * SLOTS * (max(size, SMALLEST_SLOT_BYTES) + (1 << 20))
    owner = CudaArenaOwner.create("bench", folder, device, total, SLOTS, SLOTS)
    try:
        channel.say(owner.descriptor)
        channel.wait()  # until nobody is there any more
    finally:
        owner.close()


def _reader(channel: Channel, settings: Settings, descriptor: ArenaDescriptor, url: str) -> None:
    arena, redis = CudaArena(descriptor, OwnDevice(settings, Meter())()), connect(url)
    channel.say("ready")
    while (said := redis.blpop([THERE], POP_S)) is not None:
        message = BatchMessage.model_validate_json(said[1])
        arena.slot(message.slot.pool, message.slot.slot)
        redis.rpush(BACK, _handed(arena, "composed", message).model_dump_json())


def _writer(
    channel: Channel,  # noqa: ARG001 - as `Crew` calls it
    settings: Settings,
    descriptor: ArenaDescriptor,
    url: str,
    layout: FrameLayout,
    size: int,
    repeats: int,
) -> dict[str, list[float]]:
    device, redis = OwnDevice(settings, Meter())(), connect(url)
    device.finish()
    opened = []
    for _ in range(3):
        began = time.perf_counter()
        arena = CudaArena(descriptor, device)
        opened.append(time.perf_counter() - began)
        arena.close()
    arena = CudaArena(descriptor, device)
    message = _message(descriptor, layout, size // layout.frame_bytes)
    one, two = arena.slot("decoded", 0)[:size], arena.slot("decoded", 1)[:size]
    host = device.pinned(size)

    def by_device() -> None:
        device.copy(one, two)
        device.finish()

    def by_host() -> None:
        device.download(one, host)
        device.upload(host, two)

    hand = _times(lambda: _handed(arena, "decoded", message), repeats)
    found = {"open": opened, "hand": hand, "ping": [], "device": [], "host": []}
    for _ in range(repeats):  # taking turns
        found["ping"] += [each / 2 for each in _times(lambda: _ping(arena, redis, message), 1)]
        found["device"] += _times(by_device, 1)
        found["host"] += _times(by_host, 1)
    return {
        name: values if name == "open" else values[1:] or values for name, values in found.items()
    }


def _handed(arena: CudaArena, pool: Pool, message: BatchMessage) -> BatchMessage:
    """What a stage does with a slot that it has written, but for its lease."""
    claim = arena.claim(pool, 0)
    if claim is None:
        raise RuntimeError("somebody else writes there")
    claim.release()
    return message


def _ping(arena: CudaArena, redis: Connection, message: BatchMessage) -> None:
    redis.rpush(THERE, _handed(arena, "decoded", message).model_dump_json())
    said = redis.blpop([BACK], POP_S)
    if said is None:
        raise RuntimeError("the other process does not answer")
    BatchMessage.model_validate_json(said[1])


def _message(descriptor: ArenaDescriptor, layout: FrameLayout, frames: int) -> BatchMessage:
    slot = SlotRef(
        arena=descriptor.name,
        generation=descriptor.generation,
        pool="decoded",
        slot=0,
        token=1,
        holder="bench",
    )
    pts = tuple(range(0, 512 * frames, 512))
    return BatchMessage(job="0" * 32, segment=0, batch=0, layout=layout, pts=pts, slot=slot)


def _times(do: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        do()
        times.append(time.perf_counter() - began)
    return times
