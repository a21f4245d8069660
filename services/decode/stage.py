"""The order of steps of decode: split a source; turn a segment into batches in slots."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from services.decode.engines import decoders
from services.decode.engines.base import DecodedFrame, DecodeReport, SegmentDecoder
from services.decode.missing import missing_batches, shown_times
from services.decode.plan import batch_frames, batch_length, keeps
from services.decode.split import split
from shared.arena.base import Claim
from shared.cuda.memory import on_device
from shared.engines import Chains, Check, Work, first_able, from_due
from shared.errors import (
    ArenaAwayError,
    DeferredError,
    ErrorCode,
    PermanentError,
    SpentError,
    TemporaryError,
)
from shared.giving_up import give_up, where
from shared.jobs import Segment
from shared.ledger import Facts, Losses
from shared.logs import Log
from shared.media.canvas import plan_output
from shared.media.layout import FrameLayout, Plane, Planes
from shared.media.probe import probe
from shared.messages import BatchMessage, SegmentMessage, SplitMessage
from shared.metrics.catalogue import BATCH_FILL, GIVEN_UP, IMPAIRED, SOURCES_FAILED
from shared.names import segment_key, source_of
from shared.runtime import Runtime, slot_ref


def split_job(runtime: Runtime, message: SplitMessage) -> None:
    """Have the source here, probe it, store its segments one by one, each ready for dispatch at
    once."""
    ledger, job = runtime.ledger, message.job
    if not ledger.take(job, message.item, runtime.worker):
        return
    spec = ledger.spec(job)
    source_key = source_of(job, spec.source)
    if source_key != spec.source and not runtime.store.exists(source_key):
        # An HTTP client: 0.1 s that only a source elsewhere is worth.
        from services.decode.fetch import fetch_source

        fetch_source(runtime, job, spec.source, source_key)
    with runtime.store.local(source_key) as path, runtime.store.scratch() as folder:
        source = probe(path, spec.container, name=spec.name)  # its own in the store nobody knows
        output = plan_output(spec, source)
        slot_bytes = runtime.arenas.smallest_slot_bytes()
        layouts = (
            FrameLayout(width=source.width, height=source.height),
            FrameLayout(width=output.width, height=output.height),
        )
        most = runtime.settings.batch_frames
        frames = min(batch_frames(slot_bytes, layout, most) for layout in layouts)
        needed = frames * max(layout.frame_bytes for layout in layouts)
        ledger.put_facts(job, source, output, frames, needed)
        segments, total = 0, 0
        for segment, file in split(path, source, folder, runtime.settings.segment_target_s):
            key = segment_key(job, file.name)
            runtime.checkpoint(job)
            # Nothing may come between these two: who stores an object learns here that it is late.
            runtime.store.put(key, file)
            if not ledger.add_segment(job, segment.model_copy(update={"key": key})):
                runtime.store.delete(key)  # the job ended meanwhile, and was cleaned up after
                return
            segments, total = segments + 1, total + segment.frames
    ledger.split_done(job, segments, total)
    ledger.let_go(job, message.item, runtime.worker)


class DecodeStage:
    """Keeps the decoders of this process, and with them what they keep open between segments."""

    def __init__(self) -> None:
        self._chains = Chains(decoders)

    def run(self, runtime: Runtime, message: SegmentMessage) -> None:
        """See `decode_segment`."""
        decode_segment(runtime, message, lambda: self._chain(runtime))

    def _chain(self, runtime: Runtime) -> Sequence[SegmentDecoder]:
        arena = runtime.arenas.current(runtime.settings.arena)
        return self._chains.of(runtime, arena.descriptor.memory)


def decode_segment(
    runtime: Runtime, message: SegmentMessage, decoders_here: Callable[[], Sequence[SegmentDecoder]]
) -> None:
    """Decode a segment; every wanted batch goes to infer. A repeat makes only what is missing.

    `decoders_here`: those for this process's arena, best first; asked once there is work for them.
    """
    ledger, job, segment = runtime.ledger, message.job, message.segment
    if not ledger.segment_is_current(job, segment.index, message.attempt):
        return
    facts = ledger.facts(job)
    try:
        tries = ledger.take(job, message.item, runtime.worker)
    except SpentError as error:
        _give_up_rest(runtime, message, facts, error)
        _check_source(runtime, message, facts, error)
        return
    if not tries:
        return
    try:
        chain, instead = from_due(decoders_here(), tries, runtime.settings.attempts)
        work = Work("decode", job, facts.spec.priority, instead)
        with runtime.store.local(segment.key) as path:
            report, batches = first_able(
                runtime,
                work,
                chain,
                partial(_decoded, runtime, message, facts, path),
                name=lambda decoder: decoder.name,
                session=lambda decoder: decoder.session,
            )
    except (_GaveBackError, ArenaAwayError):
        # Without this arena the coordinator sends it to another one, or waits for one.
        ledger.return_segment(job, segment.index, message.attempt, gave_back=True)
        return
    except PermanentError as error:
        _lose(runtime, message, facts, error)
        return
    losses = Losses(report.lost, report.repaired, batches.dropped, report.concealed)
    for kind in ("lost", "repaired", "concealed"):
        runtime.meter.count(IMPAIRED, getattr(losses, kind), kind=kind)
    parked = ledger.segment_done(job, segment.index, message.attempt, batches.count, losses)
    if parked is not None:
        runtime.send_batch(parked, "compose")


def _decoded(
    runtime: Runtime,
    message: SegmentMessage,
    facts: Facts,
    path: Path,
    decoder: SegmentDecoder,
    check: Check,
) -> tuple[DecodeReport, _Batches]:
    """All batches of the segment by one decoder; those that another one got done are left out."""
    segment = message.segment
    batches = _Batches(runtime, message, facts)
    try:
        with closing(decoder.decode(path, segment, facts.source)) as frames:
            for frame in _kept(frames, segment, facts, batches):
                check()
                batches.add(frame, decoder)
        batches.close()
    finally:
        batches.abandon()
    return decoder.report, batches


def _lose(runtime: Runtime, message: SegmentMessage, facts: Facts, error: PermanentError) -> None:
    """A segment of which nothing decodes: the rest of the video is made all the same, unless that
    is too little of it. Then the job ends with `error`, which says more than a share."""
    if error.code is not ErrorCode.TOO_DAMAGED:
        raise error
    try:
        _give_up_rest(runtime, message, facts, SpentError(error.code, error.message))
    except PermanentError:
        raise error from None


def _check_source(
    runtime: Runtime, message: SegmentMessage, facts: Facts, error: SpentError
) -> None:
    """Raises PermanentError FRAMES_FAILED when that was one segment too many of this source."""
    ledger, job, most = runtime.ledger, message.job, runtime.settings.failed_segments
    count = ledger.mark(job, "undecodable", str(message.segment.index))
    if 0 < most <= count:
        runtime.meter.count(SOURCES_FAILED)
        raise PermanentError(
            ErrorCode.FRAMES_FAILED,
            f"No decoder gets through {count} segments of the source: "
            f"{where(ledger.replaced(job), facts.source)}. {error.message}",
        )


def _give_up_rest(
    runtime: Runtime, message: SegmentMessage, facts: Facts, error: SpentError
) -> None:
    """What is missing of a segment that no decoder gets through is replaced."""
    runtime.meter.count(GIVEN_UP, stage="decode")
    ledger, job, segment = runtime.ledger, message.job, message.segment
    with runtime.store.local(segment.key) as path:
        times = shown_times(path, segment, facts.source)
    limit, previous, kept = facts.spec.fps_limit, segment.previous_pts, list[int]()
    for pts in times:
        if keeps(pts, previous, facts.source.tick_s, limit):
            kept.append(pts)
        previous = pts
    known = ledger.known_times(job, segment.index)
    lengths = partial(batch_length, segment.frames, message.batch_frames)
    missing = missing_batches(kept, known, lengths)
    for batch, pts_of_batch in missing.items():
        give_up(runtime, job, segment.index, batch, pts_of_batch, error)
    batches = max([*known, *missing], default=-1) + 1
    losses = Losses(0, 0, len(times) - len(kept), 0)
    parked = ledger.segment_done(job, segment.index, message.attempt, batches, losses)
    if parked is not None:
        runtime.send_batch(parked, "compose")


def _kept(
    frames: Iterator[DecodedFrame], segment: Segment, facts: Facts, batches: _Batches
) -> Iterator[DecodedFrame]:
    """The frames that the job's frame-rate limit lets through."""
    limit, tick_s = facts.spec.fps_limit, facts.source.tick_s
    previous = segment.previous_pts
    for frame in frames:
        if limit is None or keeps(frame.pts, previous, tick_s, limit):
            yield frame
        else:
            batches.dropped += 1
        previous = frame.pts


class _GaveBackError(Exception):
    """No slot in time, or nobody wants it from us: the segment goes back to the dispatcher."""


@dataclass
class _Open:
    """A batch being filled; `slot` is None when the batch is not wanted (any more)."""

    message: BatchMessage | None
    slot: Plane | None
    claim: Claim | None = None
    pts: list[int] = field(default_factory=list)


class _Batches:
    """Fills slots with frames, one batch after the other."""

    def __init__(self, runtime: Runtime, message: SegmentMessage, facts: Facts) -> None:
        self._runtime = runtime
        self._message = message
        self._source = facts.source
        self._slot_bytes = runtime.ledger.slot_bytes(message.job)
        self._open: _Open | None = None
        self.count = 0
        self.dropped = 0

    def add(self, frame: DecodedFrame, decoder: SegmentDecoder) -> None:
        """Write the decoder's frame into the open batch; blocks while all slots are taken."""
        self._runtime.checkpoint(self._message.job)
        if self._open is None:
            self._open = self._begin(frame.pts)
        batch = self._open
        if batch.slot is not None and batch.message is not None:
            planes = batch.message.layout.planes(batch.slot, len(batch.pts))
            self._write(frame, decoder, planes)
        batch.pts.append(frame.pts)
        if len(batch.pts) == self._length():
            self.close()

    def _write(self, frame: DecodedFrame, decoder: SegmentDecoder, planes: Planes) -> None:
        if decoder.memory == "device" or not on_device(planes):
            frame.write_to(planes)
            return
        staging = self._runtime.device.staging()
        filled = staging.blank(planes)
        frame.write_to(filled)
        staging.up(filled, planes)

    def _length(self) -> int:
        message = self._message
        return batch_length(message.segment.frames, message.batch_frames, self.count)

    def close(self) -> None:
        """Hand the open batch on, if there is one."""
        batch, self._open = self._open, None
        if batch is None:
            return
        self.count += 1
        if batch.claim is not None:
            batch.claim.release()
        if batch.message is None:
            return
        decoded = {"pts": tuple(batch.pts), "decoded_ns": time.monotonic_ns()}
        message = batch.message.model_copy(update=decoded)
        most = self._message.batch_frames
        self._runtime.meter.observe(BATCH_FILL, len(batch.pts) / most)
        if self._runtime.hand_on(message, "infer") != "go" and not self._is_current():
            raise _GaveBackError
        if self._runtime.guard.is_draining():
            raise _GaveBackError

    def abandon(self) -> None:
        """Give back the slot of a batch that was not finished."""
        batch, self._open = self._open, None
        if batch is None:
            return
        if batch.claim is not None:
            batch.claim.release()
        if batch.message is not None:
            self._runtime.release(batch.message.slot)

    def _begin(self, pts: int) -> _Open:
        runtime, message = self._runtime, self._message
        job, segment = message.job, message.segment.index
        if not runtime.ledger.wanted(job, segment, self.count):
            return _Open(None, None)
        arena = runtime.arenas.current(runtime.settings.arena)
        if arena.descriptor.slot_bytes < self._slot_bytes:
            # Made anew since this was sent here; the coordinator knows another, or says what to do.
            raise _GaveBackError
        lease = runtime.leases.acquire(
            arena.descriptor.thing("decoded"),
            f"{job}/{segment}:{self.count}",
            wait_s=runtime.settings.slot_wait_s,
            # The last slot is for batches that nothing undecoded stands before: a job whose later
            # segments fill all slots would wait for its own earlier one for ever.
            reserve=lambda: 0 if runtime.ledger.in_turn(job, segment) else 1,
            give_up=partial(self._finds_no_slot, arena.descriptor.name),
        )
        if lease is None:
            raise _GaveBackError
        ref = slot_ref(arena.descriptor.name, arena.descriptor.generation, "decoded", lease)
        try:
            claimed = runtime.claim(ref, self._gives_up)
        except TemporaryError:
            runtime.release(ref)
            raise
        if claimed is None:
            runtime.release(ref)
            raise DeferredError(ErrorCode.BUSY, "The arena was replaced while decoding.", 0.5)
        layout = FrameLayout(
            width=self._source.width, height=self._source.height, format=arena.descriptor.format
        )
        opened = BatchMessage(
            job=job, segment=segment, batch=self.count, layout=layout, pts=(pts,), slot=ref
        )
        return _Open(opened, *claimed)

    def _finds_no_slot(self, arena: str) -> bool:
        """Asked every second while all slots are taken; True: waiting is of no use.

        A batch may be lost on its way, after later ones were decoded: these wait for it, in slots.
        Where it was made by this decoder it has to begin again; where it is to be made now, they
        make way, one by one: nobody else would free a slot, and they would wait for ever.
        """
        runtime, job, segment = self._runtime, self._message.job, self._message.segment.index
        if runtime.ledger.lost_behind(job, segment, self.count):
            return True
        parked = runtime.ledger.forget_parked(job, segment, self.count, arena)
        if parked is not None:
            runtime.release(parked.slot)
            Log().warning("parked batch makes way, decoded again", batch=parked.name)
        return self._gives_up()

    def _gives_up(self) -> bool:
        """Asked now and then while waiting: nobody wants the segment from us any more."""
        self._runtime.guard.feed()
        return self._runtime.guard.is_draining() or not self._is_current()

    def _is_current(self) -> bool:
        message = self._message
        return self._runtime.ledger.segment_is_current(
            message.job, message.segment.index, message.attempt
        )
