"""The order of steps of encode: a batch to a chunk; all chunks and the sound to the result."""

from __future__ import annotations

from contextlib import ExitStack

from services.encode.engines.pyav import PyAvEncoder
from services.encode.mux import mux
from services.encode.plan import missing_notes
from shared.jobs import JobState
from shared.ledger import ChunkRecord, JobResult
from shared.messages import BatchMessage, MuxMessage
from shared.names import chunk_key, result_key
from shared.runtime import Runtime


def encode_batch(runtime: Runtime, message: BatchMessage) -> None:
    """The batch's frames become a chunk in the store, its slot is given back. Idempotent."""
    ledger = runtime.ledger
    if not ledger.enter(message, "encode", runtime.worker):
        return
    slot = runtime.slot(message.slot)
    if slot is None:
        runtime.forget(message)
        return
    facts = ledger.facts(message.job)
    encoder = PyAvEncoder(threads=runtime.settings.encode_threads)
    ledger.note_engine(message.job, "encode", encoder.name_for(facts.output.codec))
    frames = ((pts, message.layout.planes(slot, index)) for index, pts in enumerate(message.pts))
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


def mux_job(runtime: Runtime, message: MuxMessage) -> None:
    """Join, check, store the result; the job has succeeded."""
    ledger, job = runtime.ledger, message.job
    if not ledger.take(job, message.item, runtime.worker):
        return
    facts = ledger.facts(job)
    chunks = ledger.chunks(job)
    key = result_key(job, facts.spec.container)
    with ExitStack() as stack:
        folder = stack.enter_context(runtime.store.scratch())
        source = stack.enter_context(runtime.store.local(facts.spec.source))
        paths = [stack.enter_context(runtime.store.local(chunk.key)) for chunk in chunks]
        path = folder / f"result.{facts.spec.container}"
        expected = [pts for chunk in chunks for pts in chunk.pts]
        report = mux(
            paths, source, facts.source, facts.output, facts.spec.container, path, expected
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
        warnings=(*report.warnings, *missing_notes(facts.source, expected, losses.dropped)),
    )
    if not ledger.finish(job, result) and ledger.state(job) is not JobState.SUCCEEDED:
        runtime.store.delete(key)  # cancelled meanwhile; a late twin's result is the first one's
