"""The order of steps of infer: look at some frames of a batch, keep the faces, hand on."""

from __future__ import annotations

from collections.abc import Sequence

from services.infer.engines import Detectors, LazyDetector
from services.infer.engines.base import Detector, Downloaded
from services.infer.engines.none import NoDetector
from services.infer.engines.onnx_cpu import use_one_thread
from services.infer.plan import frames_to_detect, interval
from services.infer.portions import Portions
from shared.cuda.memory import on_device, where
from shared.engines import Check, Work, first_able, from_due
from shared.faces import BatchFaces, Face
from shared.media.layout import Planes
from shared.messages import BatchMessage
from shared.metrics.catalogue import IMPAIRED
from shared.runtime import Runtime


class InferStage:
    """Keeps the detectors of this process, by model, and how much each can take at once."""

    def __init__(self) -> None:
        self._detectors = Detectors()
        self._portions: dict[str, Portions] = {}

    def warm_up(self, runtime: Runtime) -> None:
        """Before the first task, in the child: load the default model, where one is there."""
        use_one_thread()
        self._detectors.warm_up(runtime)

    def run(self, runtime: Runtime, message: BatchMessage) -> None:
        """Faces of the batch go to the ledger, the batch to compose. Idempotent."""
        ledger = runtime.ledger
        tries = ledger.enter(message, "infer", runtime.worker)
        if not tries:
            return
        slot = runtime.slot(message.slot)
        if slot is None:
            runtime.forget(message)
            return
        spec = ledger.spec(message.job)
        chain = self._detectors.of(runtime, spec.detector, where(slot))
        chain, instead = from_due(chain, tries, runtime.settings.attempts)
        # Short of memory, the next one may do; but blind only after every try with open eyes.
        chain = chain[:-1] or chain
        every = spec.detect_every or runtime.settings.detect_every
        beginning = message.segment == message.batch == 0
        frames = frames_to_detect(len(message.pts), interval(every, beginning))
        runtime.checkpoint(message.job)
        planes = [message.layout.planes(slot, index) for index in frames]

        def detect(lazy: LazyDetector, _: Check) -> tuple[Detector, list[tuple[Face, ...]]]:
            detector = lazy.get()
            limit = self._portions.setdefault(detector.name, Portions())
            seen = self._where(runtime, detector, planes)
            return detector, limit.detect(detector, seen, message.layout)

        work = Work("infer", message.job, spec.priority, instead)
        detector, faces = first_able(runtime, work, chain, detect, name=lambda each: each.name)
        found = BatchFaces(frames=frames, faces=tuple(faces), engine=detector.name)
        ledger.put_faces(message, found.model_dump_json())
        if detector.name == NoDetector.name:
            ledger.add(message.job, frames_unseen=len(message.pts))
            runtime.meter.count(IMPAIRED, len(message.pts), kind="unseen")
        runtime.hand_on(message, "compose")

    def _where(
        self, runtime: Runtime, detector: Detector, planes: Sequence[Planes]
    ) -> Sequence[Planes]:
        """The frames where the detector can see them."""
        if detector.memory == "device" or not on_device(planes[0]):
            return planes
        return Downloaded(planes, runtime.device.staging())
