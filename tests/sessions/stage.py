"""An encode worker whose driver refuses its first sessions: `python -m tests.sessions.stage`."""

from __future__ import annotations

import sys

from services.encode.stage import encode_batch
from shared.errors import EngineBusyError, ErrorCode
from shared.messages import BatchMessage
from shared.queues import StageWorker
from shared.runtime import Runtime
from shared.settings import Settings
from tests.sessions.driver import Driver, HardwareEncoder

REFUSALS = 2
ASKED = "test:asked"
QUEUE = "probe"


class Busy(Driver):
    """A driver whose sessions others have at first."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime.settings.state_dir / "driver", 1)
        self._runtime = runtime

    def open(self) -> int:
        """See Driver."""
        if int(self._runtime.redis.incr(ASKED)) <= REFUSALS:
            raise EngineBusyError(ErrorCode.BUSY, "Others have them all.")
        return super().open()


def main(settings: Settings) -> int:
    """The worker's exit code."""
    worker = StageWorker("encode", settings, concurrency=1)
    chain: list[HardwareEncoder] = []

    def work(runtime: Runtime, message: BatchMessage) -> None:
        if not chain:
            chain.append(HardwareEncoder(Busy(runtime)))
        encode_batch(runtime, message, chain)

    worker.task("encode.batch", BatchMessage, QUEUE, work)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main(Settings()))
