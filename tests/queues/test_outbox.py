"""Facts about sending messages."""

from __future__ import annotations

import pytest

from shared.errors import TemporaryError
from shared.messages import SplitMessage
from shared.queues import CeleryOutbox, make_app
from shared.queues.app import SEND_RETRIES
from tests.servers import free_port


def test_a_broker_that_is_away_is_an_error_that_may_pass_and_every_try_is_told_of() -> None:
    app, said = make_app(f"redis://127.0.0.1:{free_port()}/0"), list[str]()
    app.conf.task_publish_retry_policy |= {"interval_max": 0}
    outbox = CeleryOutbox(app, on_wait=lambda: said.append("waits"))
    with pytest.raises(TemporaryError, match="refused"):
        outbox.send("decode.split", SplitMessage(job="j"), "split")
    assert len(said) > SEND_RETRIES
    app.close()
