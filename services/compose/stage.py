"""The order of steps of compose: track when it is the batch's turn, then render from the plan."""

from __future__ import annotations

from collections.abc import Sequence

from services.compose.engines import renderers
from services.compose.engines.base import Renderer
from services.compose.engines.opencv import use_one_thread
from services.compose.identities import place_changes
from services.compose.marks import marks_of
from services.compose.persons import PersonSettings
from services.compose.plan import ComposeSettings, ComposeState, plan_batch
from shared.engines import Chains, Work, first_able, from_due
from shared.errors import DeferredError, ErrorCode
from shared.faces import BatchFaces
from shared.ledger import Facts
from shared.media.layout import FrameLayout, Plane
from shared.messages import BatchMessage, SlotRef
from shared.metrics.catalogue import PLACE_CHANGES
from shared.runtime import Runtime, slot_ref
from shared.tracks import BatchPlan


class ComposeStage:
    """Keeps the renderers of this process, best first, and their scratch memory."""

    def __init__(self) -> None:
        self._chains = Chains(renderers)

    def warm_up(self, _: Runtime) -> None:
        """Before the first task, in the child."""
        use_one_thread()

    def run(self, runtime: Runtime, message: BatchMessage) -> None:
        """A batch that comes early is parked; its predecessor sends it on. Idempotent."""
        chain = self._chains.of(runtime, runtime.memory_of(message.slot))
        compose_batch(runtime, message, chain)


def compose_batch(runtime: Runtime, message: BatchMessage, chain: Sequence[Renderer]) -> None:
    """Track if it is the batch's turn, render, hand on, give the decoded slot back.

    `chain`: renderers for where its frames lie, best first.
    """
    ledger = runtime.ledger
    tries = ledger.enter(message, "compose", runtime.worker)
    if not tries:
        return
    facts = ledger.facts(message.job)
    plan = _plan(runtime, message, facts)
    if plan is None:
        return
    decoded = runtime.slot(message.slot)
    if decoded is None:
        runtime.forget(message)
        return
    chain, instead = from_due(chain, tries, runtime.settings.attempts)
    ref = _composed_slot(runtime, message)
    if ref is None:
        return
    try:
        claimed = runtime.claim(ref)
        if claimed is None:
            raise DeferredError(ErrorCode.BUSY, "The arena was replaced while composing.", 0.5)
        composed, claim = claimed
        with claim:
            layout = first_able(
                runtime,
                Work("compose", message.job, facts.spec.priority, instead),
                chain,
                lambda each, _: _render(runtime, each, message, facts, plan, decoded, composed),
                name=lambda each: each.name,
            )
        if not runtime.still_holds(message.slot):
            # Somebody may have written into the slot while it was read: not to be trusted.
            _give_back(runtime, message, ref)
            runtime.forget(message)
            return
    except BaseException:
        _give_back(runtime, message, ref)
        raise
    made = message.model_copy(update={"layout": layout, "slot": ref})
    if runtime.hand_on(made, "encode") != "theirs":
        runtime.release(message.slot)


def _give_back(runtime: Runtime, message: BatchMessage, ref: SlotRef) -> None:
    """The slot that was to be rendered into; not when another worker took the batch up, since this
    one seemed dead: that one has it by the same lease."""
    if runtime.ledger.has(message, runtime.worker):
        runtime.release(ref)


def _plan(runtime: Runtime, message: BatchMessage, facts: Facts) -> BatchPlan | None:
    """The batch's plan, made now if it is its turn; None when parked or stale."""
    turn = runtime.ledger.turn(message, runtime.worker)
    if turn.plan is not None:
        return BatchPlan.read_kept(turn.plan)
    if turn.faces is None:
        return None
    state = ComposeState.model_validate_json(turn.tracker) if turn.tracker else ComposeState()
    faces = BatchFaces.read_kept(turn.faces)
    before = state
    state, plan = plan_batch(
        before, faces, message.pts, facts.source, facts.output, _settings(runtime)
    )
    for kind, times in place_changes(before, plan).items():
        runtime.meter.count(PLACE_CHANGES, times, kind=kind)
    parked = runtime.ledger.planned(
        message, plan.model_dump_json(), state.model_dump_json(), state.people
    )
    if parked is not None:
        runtime.send_batch(parked, "compose")
    return plan


def _composed_slot(runtime: Runtime, message: BatchMessage) -> SlotRef | None:
    """A slot to render into; None when the job ended meanwhile."""
    arena = runtime.arenas.current(message.slot.arena)
    lease = runtime.leases.acquire(
        arena.descriptor.thing("composed"),
        f"{message.job}/{message.name}",
        wait_s=runtime.settings.slot_wait_s,
        give_up=lambda: _gives_up(runtime, message.job),
    )
    if lease is not None:
        return slot_ref(arena.descriptor.name, arena.descriptor.generation, "composed", lease)
    if not runtime.ledger.is_live(message.job):
        runtime.release(message.slot)
        return None
    raise DeferredError(ErrorCode.BUSY, "No composed slot came free in time.", 0.1)


def _gives_up(runtime: Runtime, job: str) -> bool:
    """Asked now and then while waiting."""
    runtime.guard.feed()
    return runtime.guard.is_draining() or not runtime.ledger.is_live(job)


def _render(
    runtime: Runtime,
    renderer: Renderer,
    message: BatchMessage,
    facts: Facts,
    plan: BatchPlan,
    decoded: Plane,
    composed: Plane,
) -> FrameLayout:
    """Draw every frame of the batch; the layout of what was drawn."""
    target = FrameLayout(
        width=facts.output.width, height=facts.output.height, format=message.layout.format
    )
    marks = marks_of(plan, facts.output) if facts.spec.annotate else [()] * len(plan.views)
    for index, views in enumerate(plan.views):
        runtime.checkpoint(message.job)
        source = message.layout.planes(decoded, index)
        canvas = target.planes(composed, index)
        renderer.render(source, message.layout, views, facts.output, canvas, marks[index])
    return target


def _settings(runtime: Runtime) -> ComposeSettings:
    """What a person may choose, in the plan's terms; dwell is counted at 30 frames/s."""
    chosen = runtime.settings
    return ComposeSettings(
        persons=PersonSettings(
            swap_dwell_s=chosen.swap_dwell_frames / 30, swap_margin=chosen.swap_margin
        )
    )
