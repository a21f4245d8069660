"""Facts about encoders that need a session: who waits, who takes over, what the chunks are like."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.encode.engines.base import ChunkInfo, Frame
from services.encode.engines.pyav import PyAvEncoder
from services.encode.plan import QUALITY, RateControl, RateMode
from services.encode.stage import encode_batch
from shared.errors import DeferredError, EngineError
from shared.jobs import OutputPlan
from shared.media.layout import FrameLayout
from shared.messages import BatchMessage
from shared.metrics import Meter
from shared.metrics.catalogue import ENGINE_USES, FALLBACKS
from shared.queues import CeleryOutbox, make_app
from shared.redisdb import Connection
from tests.conftest import PROJECT
from tests.encode.jobs import Bench, bench
from tests.metrics.notes import Notes
from tests.sessions.driver import Driver, HardwareEncoder
from tests.sessions.stage import ASKED, QUEUE, REFUSALS
from tests.waiting import wait_until

ATTEMPTS = 2


@pytest.fixture
def made(redis: Connection, tmp_path: Path) -> Iterator[Bench]:
    with bench(redis, tmp_path, attempts=ATTEMPTS, busy_patience_s=60) as it:
        yield it


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path / "driver", 1)


def encoded(made: Bench, message: BatchMessage, encoder: HardwareEncoder) -> bool:
    """Once more what a worker does; False when the batch was given back."""
    try:
        encode_batch(made.runtime, message, [encoder, PyAvEncoder()])
    except DeferredError:
        made.runtime.ledger.let_go(message.job, message.item, "me", untried=True)
        return False
    return True


def engine(made: Bench, job: str = "j") -> str:
    view = made.runtime.ledger.view(job)
    assert view is not None
    return view.engines["encode"]


def frames_done(made: Bench) -> int:
    view = made.runtime.ledger.view("j")
    assert view is not None
    return view.done[3]


def test_chunks_are_encoded_in_one_session_that_stays_open(made: Bench, driver: Driver) -> None:
    made.begin()
    encoder = HardwareEncoder(driver)
    for batch in range(3):
        assert encoded(made, made.composed(batch), encoder)
    assert (encoder.opened, driver.free()) == (1, 0)
    assert engine(made) == "hardware-h264"
    made.runtime.sessions.close()
    assert driver.free() == 1


def test_a_busy_driver_uses_up_no_try_and_is_asked_again(made: Bench, driver: Driver) -> None:
    made.begin()
    message, encoder, others = made.composed(), HardwareEncoder(driver), driver.open()
    given_back = [encoded(made, message, encoder) for _ in range(ATTEMPTS + 2)]
    assert not any(given_back)
    driver.close(others)
    assert encoded(made, message, encoder)
    assert engine(made) == "hardware-h264"
    assert made.runtime.ledger.counter("j", "busy_encode") == 0


def test_a_driver_that_stays_busy_is_passed_over_and_counted(
    redis: Connection, tmp_path: Path, driver: Driver
) -> None:
    with bench(redis, tmp_path, attempts=ATTEMPTS, busy_patience_s=0.3) as made:
        made.begin()
        driver.open()
        encoder, first, second = HardwareEncoder(driver), made.composed(0), made.composed(1)
        assert not encoded(made, first, encoder)
        wait_until(lambda: encoded(made, first, encoder), "its patience is at an end")
        assert encoded(made, second, encoder), "the next ones do not wait again"
        assert engine(made) == "pyav-libx264"
        assert made.runtime.ledger.counter("j", "busy_encode") == 2
        assert frames_done(made) == 8


def test_a_gpu_without_sessions_is_no_failure_and_said_once(
    redis: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the probe sets it where there is no NVENC."""
    notes, driver = Notes(), Driver(tmp_path / "driver", 1)
    with bench(redis, tmp_path, nvenc_sessions=0) as plain:
        made = Bench(replace(plain.runtime, meter=Meter("encode", notes)))
        made.begin()
        encoder = HardwareEncoder(driver)
        for batch in range(3):
            assert encoded(made, made.composed(batch), encoder)
    assert encoder.opened == 0
    assert engine(made) == "pyav-libx264"
    assert made.runtime.ledger.counter("j", "busy_encode") == 0
    assert notes.sum(ENGINE_USES, "encode", "pyav-libx264") == 3
    assert FALLBACKS.name not in {name for name, _ in notes.sums}
    said = [record for record in caplog.records if record.message == "engine passed over"]
    assert len(said) == 1


class WithoutHardware(HardwareEncoder):
    """Whose driver has no encoder, as it learns when it first asks."""

    known: EngineError | None = None

    def refusal(self, output: OutputPlan) -> EngineError | None:  # noqa: ARG002
        """See ChunkEncoder."""
        return self.known

    def encode(
        self,
        frames: Iterable[Frame],  # noqa: ARG002
        layout: FrameLayout,  # noqa: ARG002
        output: OutputPlan,  # noqa: ARG002
        path: Path,  # noqa: ARG002
        rate: RateControl = QUALITY,  # noqa: ARG002
    ) -> ChunkInfo:
        """See ChunkEncoder."""
        self.known = EngineError("There is no encoder.")
        raise self.known


def test_what_an_encoder_is_known_not_to_do_waits_for_no_session(
    redis: Connection, tmp_path: Path
) -> None:
    with bench(redis, tmp_path, nvenc_sessions=1, host="here", slot_wait_s=0.1) as made:
        made.begin()
        encoder = WithoutHardware(Driver(tmp_path / "driver", 1))
        assert encoded(made, made.composed(0), encoder)
        held = made.runtime.leases.acquire("sessions:nvenc:here", "somebody")
        assert held is not None, "it was given back"
        assert encoded(made, made.composed(1), encoder)
        made.runtime.leases.release(held)
    assert engine(made) == "pyav-libx264"


def test_a_worker_waits_for_a_busy_driver_without_failing(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    with bench(redis, tmp_path, attempts=ATTEMPTS) as made:
        made.begin()
        message = made.composed()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DUALFACE_")}
        environment |= {"DUALFACE_REDIS_URL": redis_url, "DUALFACE_STATE_DIR": str(tmp_path)}
        environment |= {"DUALFACE_ATTEMPTS": str(ATTEMPTS), "DUALFACE_ARENA": "t"}
        with (tmp_path / "log").open("wb") as log:
            command = [sys.executable, "-m", "tests.sessions.stage"]
            worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=PROJECT)
        try:
            CeleryOutbox(make_app(redis_url)).send("encode.batch", message, QUEUE)
            wait_until(lambda: frames_done(made) == 4, "it is encoded")
        finally:
            worker.terminate()
            worker.wait(60)
        assert int(str(redis.get(ASKED))) == REFUSALS + 1
        assert engine(made) == "hardware-h264"
        things = made.runtime.leases.look
        wait_until(lambda: things(thing(redis)).used == 0, "it gave its session back")


def thing(redis: Connection) -> str:
    (meta,) = redis.keys("df:lease:sessions:*:meta")
    return str(meta).removeprefix("df:lease:").removesuffix(":meta")


def test_a_busy_gpu_makes_a_constant_bit_rate_variable_for_the_whole_job(
    redis: Connection, tmp_path: Path
) -> None:
    driver = Driver(tmp_path / "driver", 9)
    with bench(redis, tmp_path, nvenc_sessions=9, host="here") as made:
        encoder, leases = HardwareEncoder(driver), made.runtime.leases
        made.begin("calm", bitrate_kbps=1000)
        encode_batch(made.runtime, made.composed(job="calm"), [encoder])
        others = [leases.acquire("sessions:nvenc:here", name) for name in "ab"]
        made.begin("busy", bitrate_kbps=1000)
        encode_batch(made.runtime, made.composed(job="busy"), [encoder])
        encode_batch(made.runtime, made.composed(1, job="calm"), [encoder])
        for lease in others:
            assert lease is not None
            leases.release(lease)
        encode_batch(made.runtime, made.composed(1, job="busy"), [encoder])
        made.begin("plain")
        encode_batch(made.runtime, made.composed(job="plain"), [encoder])
    told = [(rate.mode, rate.kbps, rate.peak_kbps) for rate in encoder.rates]
    calm, busy = (RateMode.CBR, 1000, 1000), (RateMode.VBR, 700, 1000)
    assert told == [calm, busy, calm, busy, (RateMode.QUALITY, 0, 0)]
