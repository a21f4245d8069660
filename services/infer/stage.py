"""The order of steps of infer: look at some frames of a batch, keep the faces, hand on."""

from __future__ import annotations

from services.infer.engines.base import Detector
from services.infer.engines.onnx_cpu import OnnxCpuDetector, use_one_thread
from services.infer.plan import frames_to_detect, interval
from shared.faces import BatchFaces
from shared.messages import BatchMessage
from shared.models import choose, is_here, locate
from shared.runtime import Runtime


class InferStage:
    """Keeps the detectors of this process, by model name; bounded by the number of models."""

    def __init__(self) -> None:
        self._detectors: dict[str, Detector] = {}

    def warm_up(self, runtime: Runtime) -> None:
        """Before the first task, in the child: load the default model, where one is there."""
        use_one_thread()
        cache, folders = runtime.settings.cache_dir / "models", runtime.settings.model_folders
        if is_here(choose("auto", cache, folders).name, cache, folders):
            self._detector(runtime, "auto")

    def run(self, runtime: Runtime, message: BatchMessage) -> None:
        """Faces of the batch go to the ledger, the batch to compose. Idempotent."""
        ledger = runtime.ledger
        if not ledger.enter(message, "infer", runtime.worker):
            return
        slot = runtime.slot(message.slot)
        if slot is None:
            runtime.forget(message)
            return
        spec = ledger.spec(message.job)
        detector = self._detector(runtime, spec.detector)
        ledger.note_engine(message.job, "infer", detector.name)
        every = spec.detect_every or runtime.settings.detect_every
        beginning = message.segment == message.batch == 0
        frames = frames_to_detect(len(message.pts), interval(every, beginning))
        planes = [message.layout.planes(slot, index) for index in frames]
        faces = detector.detect(planes, message.layout)
        found = BatchFaces(frames=frames, faces=tuple(faces), engine=detector.name)
        ledger.put_faces(message, found.model_dump_json())
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
