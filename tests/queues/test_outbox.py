"""Facts about sending messages."""

from __future__ import annotations

import pytest

from shared.errors import TemporaryError
from shared.messages import SplitMessage
from shared.queues import CeleryOutbox, make_app
from tests.servers import free_port


def test_a_broker_that_is_away_is_an_error_that_may_pass() -> None:
    app = make_app(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(TemporaryError, match="refused"):
        CeleryOutbox(app).send("decode.split", SplitMessage(job="j"), "split")
    app.close()
