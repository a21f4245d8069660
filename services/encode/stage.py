"""The order of steps of encode: a batch to a chunk; all chunks and the sound to the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np

from services.encode.chunks import last_picture
from services.encode.engines.base import ChunkEncoder, Frame
from services.encode.engines.pyav import PyAvEncoder
from services.encode.mux import mux
from services.encode.plan import missing_notes
from shared.giving_up import engine_of, where
from shared.jobs import JobState
from shared.ledger import ChunkRecord, Facts, JobResult
from shared.media.layout import FrameLayout, Plane
from shared.messages import BatchMessage, MuxMessage, ReplaceMessage
from shared.names import chunk_key, result_key
from shared.runtime import Runtime

GREY = 128

SLOW_DISK_BYTES_PER_S = 8 << 20
"""What a disk reaches at least."""


def encode_batch(runtime: Runtime, message: BatchMessage) -> None:
    """The batch's frames become a chunk in the store, its slot is given back. Idempotent."""
    ledger = runtime.ledger
    tries = ledger.enter(message, "encode", runtime.worker)
    if not tries:
        return
    slot = runtime.slot(message.slot)
    if slot is None:
        runtime.forget(message)
        return
    facts = ledger.facts(message.job)
    encoder = engine_of(_encoders(runtime), tries, runtime.settings.attempts)
    ledger.note_engine(message.job, "encode", encoder.name_for(facts.output.codec))
    frames = _frames(runtime, message, slot)
    with runtime.store.scratch() as folder:
        path = folder / "chunk.nut"
        info = encoder.encode(frames, message.layout, facts.output, path)
        if not runtime.still_holds(message.slot):
            # Somebody may have written into the slot while it was read.
            runtime.forget(message)
            return
        key = chunk_key(message.job, message.segment, message.batch)
        runtime.store.put(key, path)
    record = ChunkRecord(key=key, pts=message.pts, size_bytes=info.size_bytes)
    if not ledger.chunk_done(message, record):
        runtime.store.delete(key)  # the job ended meanwhile, and was cleaned up after
    runtime.release(message.slot)


def _encoders(runtime: Runtime) -> tuple[ChunkEncoder, ...]:
    """Best first."""
    threads = runtime.settings.encode_threads
    return PyAvEncoder(threads), PyAvEncoder(threads, vector_code=False)


def replace_batch(runtime: Runtime, message: ReplaceMessage) -> None:
    """A chunk of a batch that could not be made: the frame before it, again and again. Idempotent.

    Nothing is done while the chunk before it is not there; the coordinator asks again. Before the
    first frame of a video there is none to show: then it is grey.
    """
    ledger, job = runtime.ledger, message.job
    facts = ledger.facts(job)
    layout = FrameLayout(width=facts.output.width, height=facts.output.height)
    try:
        before = ledger.chunk_before(job, message.segment, message.batch)
        if before is None:
            return
    except LookupError:
        before = None
    if not ledger.take(job, message.item, runtime.worker):
        return
    picture = np.full(layout.frame_bytes, GREY, np.uint8)
    if before is not None:
        with runtime.store.local(before.key) as path:
            picture = last_picture(path, layout)
    planes = layout.planes(picture, 0)
    frames = ((pts, planes) for pts in message.pts)
    key = chunk_key(job, message.segment, message.batch)
    with runtime.store.scratch() as folder:
        path = folder / "chunk.nut"
        info = PyAvEncoder(runtime.settings.encode_threads).encode(
            frames, layout, facts.output, path
        )
        runtime.store.put(key, path)
    record = ChunkRecord(key=key, pts=message.pts, size_bytes=info.size_bytes, replaced=True)
    if not ledger.chunk_done(message, record):
        runtime.store.delete(key)
    ledger.let_go(job, message.item, runtime.worker)


def _replaced_notes(
    runtime: Runtime, job: str, facts: Facts, chunks: Sequence[ChunkRecord]
) -> tuple[str, ...]:
    times = {chunk.pts for chunk in chunks if chunk.replaced}
    given_up = [each for each in runtime.ledger.replaced(job) if each.pts in times]
    notes = []
    if given_up:
        places = where(given_up, facts.source)
        notes.append(f"Frames that could not be made show the one before: {places}.")
    unseen = runtime.ledger.counter(job, "frames_unseen")
    if unseen:
        notes.append(f"In {unseen} frames no faces could be looked for; the views stay there.")
    return tuple(notes)


def _frames(runtime: Runtime, message: BatchMessage, slot: Plane) -> Iterator[Frame]:
    for index, pts in enumerate(message.pts):
        runtime.checkpoint(message.job)
        yield pts, message.layout.planes(slot, index)


def mux_job(runtime: Runtime, message: MuxMessage) -> None:
    """Join, check, store the result; the job has succeeded."""
    ledger, job = runtime.ledger, message.job
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
        source = stack.enter_context(runtime.store.local(facts.spec.source))
        paths = [stack.enter_context(runtime.store.local(chunk.key)) for chunk in chunks]
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
    if not ledger.finish(job, result) and ledger.state(job) is not JobState.SUCCEEDED:
        runtime.store.delete(key)  # cancelled meanwhile; a late twin's result is the first one's
