"""Segments that no decoder gets through: a few are replaced, too many of one source end its job."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.decode.stage import DecodeStage, split_job
from shared.arena.posix import PosixArenaOwner
from shared.arena.registry import ArenaRegistry
from shared.errors import ErrorCode, PermanentError
from shared.jobs import JobSpec, JobState
from shared.messages import SegmentMessage, SplitMessage
from shared.names import source_key
from shared.redisdb import Connection
from shared.runtime import Runtime
from tests.runtimes import runtime
from tests.videos import VideoSpec, make_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    return make_video(path, VideoSpec(size=(64, 48), frames=200, gop=10))


def split(redis: Connection, folder: Path, video: Path, **settings: object) -> Runtime:
    """A job whose source has twenty segments."""
    made, _ = runtime(redis, folder, segment_target_s=0.1, replaced_share=1, **settings)
    owner = PosixArenaOwner.create("cpu0", folder, 8 << 20, decoded=2, composed=2)
    ArenaRegistry(redis).publish(owner.descriptor)
    key = source_key("j", ".mp4")
    made.store.adopt(key, video)
    made.ledger.submit("j", JobSpec(source=key))
    split_job(made, SplitMessage(job="j"))
    owner.close()
    return made


def fail(made: Runtime) -> None:
    """Have the next segment be one that ended every process that decoded it."""
    taken = made.ledger.take_segment("j", 100)
    assert taken is not None
    segment, attempt = taken
    message = SegmentMessage(job="j", segment=segment, batch_frames=8, attempt=attempt)
    for number in range(made.settings.attempts):
        made.ledger.take("j", message.item, f"dead{number}")
    for _ in range(2):  # once more, as a twin of the message would
        DecodeStage().run(made, message)


def test_a_source_with_three_segments_that_no_decoder_gets_through_fails(
    redis: Connection, tmp_path: Path, video: Path
) -> None:
    made = split(redis, tmp_path, video)
    fail(made)
    fail(made)
    assert made.ledger.is_live("j")
    with pytest.raises(PermanentError, match=r"3 segments.*from 0\.00 s") as failure:
        fail(made)
    assert failure.value.code is ErrorCode.FRAMES_FAILED


def test_by_setting_any_number_of_them_is_replaced(
    redis: Connection, tmp_path: Path, video: Path
) -> None:
    made = split(redis, tmp_path, video, failed_segments=0)
    for _ in range(5):
        fail(made)
    assert made.ledger.state("j") is JobState.RUNNING
    assert len(made.ledger.replaced("j")) >= 5
