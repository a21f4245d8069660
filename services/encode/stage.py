"""The order of steps of encode: a batch to a chunk; all chunks and the sound to the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from services.encode.byproducts import (
    make_thumbnail,
    put_all_tracks,
    put_report,
    put_thumbnail,
    put_tracks,
    remove_byproducts,
)
from services.encode.chunks import picture_of
from services.encode.engines import encoders
from services.encode.engines.base import ChunkEncoder, ChunkInfo, Frame
from services.encode.fade import ALL, Still, faded, mixer_of
from services.encode.mux import mux
from services.encode.plan import QUALITY, RateControl, fade, missing_notes, rate_control
from shared.cuda.memory import Memory, on_device
from shared.engines import Chains, Check, Work, first_able, from_due
from shared.giving_up import where
from shared.jobs import JobState, OutputPlan
from shared.ledger import ChunkRecord, Facts, JobResult, Neighbours
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes
from shared.messages import BatchMessage, MuxMessage, ReplaceMessage
from shared.metrics.catalogue import IMPAIRED
from shared.names import chunk_key, report_key, result_key, source_of, tracks_key
from shared.runtime import Runtime
from shared.sessions import SessionNeed

GREY = 128

SLOW_DISK_BYTES_PER_S = 8 << 20
"""What a disk reaches at least."""


class EncodeStage:
    """Keeps the encoders of this process, and with them what they keep open between chunks."""

    def __init__(self) -> None:
        self._chains = Chains(encoders)

    def run(self, runtime: Runtime, message: BatchMessage) -> None:
        """See `encode_batch`."""
        chain = self._chains.of(runtime, runtime.memory_of(message.slot))
        encode_batch(runtime, message, chain)

    def replace(self, runtime: Runtime, message: ReplaceMessage) -> None:
        """See `replace_batch`."""
        memory: Memory = "device" if runtime.settings.gpu_device else "host"
        replace_batch(runtime, message, self._chains.of(runtime, memory))


def encode_batch(runtime: Runtime, message: BatchMessage, chain: Sequence[ChunkEncoder]) -> None:
    """The batch's frames become a chunk in the store, its slot is given back. Idempotent.

    `chain`: encoders for where its frames lie, best first.
    """
    ledger = runtime.ledger
    tries = ledger.enter(message, "encode", runtime.worker)
    if not tries:
        return
    slot = runtime.slot(message.slot)
    if slot is None:
        runtime.forget(message)
        return
    facts = ledger.facts(message.job)
    plan = ledger.plan(message)
    first = on_host(runtime, message.layout.planes(slot))
    picture = make_thumbnail(message, facts, message.layout, first)
    chain, instead = from_due(chain, tries, runtime.settings.attempts)
    with runtime.store.scratch() as folder:
        path = folder / "chunk.nut"
        order = _Order(message.job, facts, message.layout, chain, instead)
        info = _chunk(runtime, order, path, lambda *how: _frames(runtime, message, slot, *how))
        if not runtime.still_holds(message.slot):
            # Somebody may have written into the slot while it was read.
            runtime.forget(message)
            return
        put_tracks(runtime, message, facts, plan)
        put_thumbnail(runtime, message, picture)
        key = chunk_key(message.job, message.segment, message.batch)
        runtime.store.put(key, path)
    record = ChunkRecord(key=key, pts=message.pts, size_bytes=info.size_bytes)
    if not ledger.chunk_done(message, record):
        runtime.store.delete(key)  # the job ended meanwhile, and was cleaned up after
        remove_byproducts(runtime, message)
    else:
        runtime.meter.batch_stored(len(message.pts), message.decoded_ns)
    runtime.release(message.slot)


@dataclass(frozen=True)
class _Order:
    """What is to be encoded by the first of `chain` that can. `instead`: why that does not begin
    with the best encoder there is, "" if it does."""

    job: str
    facts: Facts
    layout: FrameLayout
    chain: Sequence[ChunkEncoder]
    instead: str


def _chunk(
    runtime: Runtime,
    order: _Order,
    path: Path,
    frames: Callable[[ChunkEncoder, Check], Iterator[Frame]],
) -> ChunkInfo:
    """Encode what `frames` gives for an encoder, anew for each that is tried.

    Raises DeferredError while there is hope for a session of the hardware: the work is given back.
    """
    job, facts = order.job, order.facts

    def encode(encoder: ChunkEncoder, check: Check) -> ChunkInfo:
        rate = _rate(runtime, job, facts, encoder.session)
        return encoder.encode(frames(encoder, check), order.layout, facts.output, path, rate)

    return first_able(
        runtime,
        Work("encode", job, facts.spec.priority, order.instead),
        order.chain,
        encode,
        name=lambda encoder: encoder.name_for(facts.output.codec),
        session=lambda encoder: encoder.session,
        refusal=lambda encoder: encoder.refusal(facts.output),
    )


def _rate(runtime: Runtime, job: str, facts: Facts, need: SessionNeed | None = None) -> RateControl:
    """The rate of all chunks of the job, decided when the first is encoded: as many chunks may be
    at work at a time, by whoever writes it into the ledger first."""
    kbps = facts.spec.bitrate_kbps
    if kbps is None:
        return QUALITY
    frames, rate = runtime.ledger.batch_frames(job), facts.output.frame_rate
    sessions = 0 if need is None else runtime.sessions.in_use(need)
    proposed = rate_control(
        kbps, frames * rate[1] / rate[0], sessions, runtime.settings.vbr_from_sessions
    )
    agreed = runtime.ledger.agree(job, "rate", proposed.model_dump_json())
    return RateControl.model_validate_json(agreed)


def replace_batch(runtime: Runtime, message: ReplaceMessage, chain: Sequence[ChunkEncoder]) -> None:
    """A chunk of a batch that could not be made: the frame before it, again and again, which fades
    into the one after it. Idempotent. `chain`: the encoders of this process, best first.

    Nothing is done while the chunks it stands between are not there; the coordinator asks again.
    At the beginning of a video the next good frame is shown, grey where there is none at all.
    """
    ledger, job = runtime.ledger, message.job
    around = ledger.neighbours(message)
    if around is None or not (tries := ledger.take(job, message.item, runtime.worker)):
        return
    facts = ledger.facts(job)
    format_ = PixelFormat.NV12 if runtime.settings.gpu_device else PixelFormat.I420
    layout = FrameLayout(width=facts.output.width, height=facts.output.height, format=format_)
    still = _still(runtime, message, around, layout, facts.output)
    key = chunk_key(job, message.segment, message.batch)
    chain, instead = from_due(chain, tries, runtime.settings.attempts)

    def frames(encoder: ChunkEncoder, check: Check) -> Iterator[Frame]:
        for frame in faded(mixer_of(encoder.memory, runtime.device), still, layout, message.pts):
            runtime.checkpoint(job)
            check()
            yield frame

    with runtime.store.scratch() as folder:
        path = folder / "chunk.nut"
        info = _chunk(runtime, _Order(job, facts, layout, chain, instead), path, frames)
        put_tracks(runtime, message, facts, None)
        picture = layout.planes(still.first)
        put_thumbnail(runtime, message, make_thumbnail(message, facts, layout, picture))
        runtime.store.put(key, path)
    record = ChunkRecord(key=key, pts=message.pts, size_bytes=info.size_bytes, replaced=True)
    if not ledger.chunk_done(message, record):
        runtime.store.delete(key)
        remove_byproducts(runtime, message)
    else:
        runtime.meter.count(IMPAIRED, len(message.pts), kind="replaced")
    ledger.let_go(job, message.item, runtime.worker)


def _still(
    runtime: Runtime,
    message: ReplaceMessage,
    around: Neighbours,
    layout: FrameLayout,
    output: OutputPlan,
) -> Still:
    """What is shown instead of the frames of `message`."""

    def picture(chunk: ChunkRecord, *, last: bool) -> Plane:
        with runtime.store.local(chunk.key) as path:
            return picture_of(path, layout, last=last)

    before, after = around.before, around.after
    if before is not None and after is not None and around.near:
        tick = Fraction(*output.time_base)
        weights = fade(message.pts, before.pts[-1], after.pts[0], tick, ALL)
        return Still(picture(before, last=True), picture(after, last=False), weights)
    if before is not None:
        shown = picture(before, last=True)
    elif after is not None:
        shown = picture(after, last=False)
    else:
        shown = np.full(layout.frame_bytes, GREY, np.uint8)
    return Still(shown, shown, (0,) * len(message.pts))


def _replaced_notes(
    runtime: Runtime, job: str, facts: Facts, chunks: Sequence[ChunkRecord]
) -> tuple[str, ...]:
    times = {chunk.pts for chunk in chunks if chunk.replaced}
    given_up = [each for each in runtime.ledger.replaced(job) if each.pts in times]
    notes = []
    if given_up:
        places = where(given_up, facts.source)
        notes.append(f"Frames that could not be made show those around them: {places}.")
    unseen = runtime.ledger.counter(job, "frames_unseen")
    if unseen:
        notes.append(f"In {unseen} frames no faces could be looked for; the views stay there.")
    return tuple(notes)


def _frames(
    runtime: Runtime, message: BatchMessage, slot: Plane, encoder: ChunkEncoder, check: Check
) -> Iterator[Frame]:
    """The batch's frames, where the encoder wants them."""
    for index, pts in enumerate(message.pts):
        runtime.checkpoint(message.job)
        check()
        planes = message.layout.planes(slot, index)
        yield pts, on_host(runtime, planes) if encoder.memory == "host" else planes


def on_host(runtime: Runtime, planes: Planes) -> Planes:
    """The planes of one frame, copied if they lie in device memory."""
    return runtime.device.staging().down(planes) if on_device(planes) else planes


def mux_job(runtime: Runtime, message: MuxMessage) -> None:
    """Join, check, store the result, its tracks and report; the job has succeeded."""
    ledger, job = runtime.ledger, message.job
    began_s = time.process_time()
    if not ledger.take(job, message.item, runtime.worker):
        return
    runtime.checkpoint(job)
    facts = ledger.facts(job)
    chunks = ledger.chunks(job)
    # Some steps read or write the whole video: its index moved to the front, the check at the end.
    everything = sum(chunk.size_bytes for chunk in chunks) + facts.source.size_bytes
    runtime.guard.allow(everything / SLOW_DISK_BYTES_PER_S)
    key = result_key(job, facts.spec.container)
    with ExitStack() as stack:
        folder = stack.enter_context(runtime.store.scratch())
        source = stack.enter_context(runtime.store.local(source_of(job, facts.spec.source)))
        paths = stack.enter_context(runtime.store.local_many([chunk.key for chunk in chunks]))
        path = folder / f"result.{facts.spec.container}"
        expected = [pts for chunk in chunks for pts in chunk.pts]
        report = mux(
            paths,
            source,
            facts.source,
            facts.output,
            facts.spec.container,
            path,
            expected,
            on_step=lambda: runtime.checkpoint(job),
        )
        runtime.store.put(key, path)
    losses = ledger.losses(job)
    result = JobResult(
        key=key,
        frames=sum(chunk.frames for chunk in chunks),
        frames_lost=losses.lost,
        times_repaired=losses.repaired,
        frames_dropped=losses.dropped,
        frames_concealed=losses.concealed,
        people=ledger.counter(job, "people"),
        sounds_copied=report.sounds_copied,
        sounds_encoded=report.sounds_encoded,
        frames_replaced=sum(chunk.frames for chunk in chunks if chunk.replaced),
        warnings=(
            *report.warnings,
            *missing_notes(facts.source, expected, losses.dropped),
            *_replaced_notes(runtime, job, facts, chunks),
        ),
    )
    put_all_tracks(runtime, job, facts, chunks)
    view = ledger.view(job)
    if view is not None:
        spent_s = time.process_time() - began_s
        put_report(runtime, view, facts, _rate(runtime, job, facts), result, report, spent_s)
    if not ledger.finish(job, result) and ledger.state(job) is not JobState.SUCCEEDED:
        # Cancelled meanwhile; a late twin's result is the first one's.
        for each in (key, tracks_key(job), report_key(job)):
            runtime.store.delete(each)
