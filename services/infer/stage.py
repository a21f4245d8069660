"""The order of steps of infer: look at some frames of a batch, keep the faces, hand on."""

from __future__ import annotations

from services.infer.engines.base import Detector
from services.infer.engines.none import NoDetector
from services.infer.engines.onnx_cpu import OnnxCpuDetector, use_one_thread
from services.infer.plan import frames_to_detect, interval
from services.infer.portions import Portions, detect_by_first_that_fits
from shared.faces import BatchFaces
from shared.giving_up import engine_of
from shared.messages import BatchMessage
from shared.metrics.catalogue import IMPAIRED
from shared.models import choose, is_here, locate
from shared.runtime import Runtime


class InferStage:
    """Keeps the detectors of this process, by model name; bounded by the number of models."""

    def __init__(self) -> None:
        self._detectors: dict[str, Detector] = {}
        self._portions: dict[str, Portions] = {}

    def warm_up(self, runtime: Runtime) -> None:
        """Before the first task, in the child: load the default model, where one is there."""
        use_one_thread()
        cache, folders = runtime.settings.cache_dir / "models", runtime.settings.model_folders
        if is_here(choose("auto", cache, folders).name, cache, folders):
            self._detector(runtime, "auto")

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
        able = [lambda: self._detector(runtime, spec.detector)]
        chain = [*able, NoDetector]
        due = engine_of(chain, tries, runtime.settings.attempts)
        # Short of memory, the next one may do; but blind only after every try with open eyes.
        engines = able[chain.index(due) :] or [due]
        every = spec.detect_every or runtime.settings.detect_every
        beginning = message.segment == message.batch == 0
        frames = frames_to_detect(len(message.pts), interval(every, beginning))
        runtime.checkpoint(message.job)
        planes = [message.layout.planes(slot, index) for index in frames]
        detector, faces = detect_by_first_that_fits(engines, self._portions, planes, message.layout)
        instead = "" if due is chain[0] else "earlier_tries"
        if not instead and detector is not engines[0]():
            instead = "out_of_memory"
        runtime.serve(message.job, "infer", detector.name, instead)
        found = BatchFaces(frames=frames, faces=tuple(faces), engine=detector.name)
        ledger.put_faces(message, found.model_dump_json())
        if detector.name == NoDetector.name:
            ledger.add(message.job, frames_unseen=len(message.pts))
            runtime.meter.count(IMPAIRED, len(message.pts), kind="unseen")
        runtime.hand_on(message, "compose")

    def _detector(self, runtime: Runtime, wanted: str) -> Detector:
        detector = self._detectors.get(wanted)
        if detector is None:
            settings = runtime.settings
            cache = settings.cache_dir / "models"
            entry = choose(wanted, cache, settings.model_folders)
            path = locate(entry.name, cache, settings.model_folders)
            detector = OnnxCpuDetector(entry, path, threads=settings.infer_threads)
            self._detectors[wanted] = detector
        return detector
