"""The embedded stack, before it is one."""

from __future__ import annotations

import secrets
import socket
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from client import stack
from client.stack import running_stack
from shared.settings import Settings
from shared.storage import open_store


def test_who_is_interrupted_while_the_store_is_tried_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(settings: Settings) -> None:
        entered.append(open_store(settings).scratch())
        entered[0].__enter__()  # and never left: as between its two steps
        assert any(scratch.iterdir())
        raise KeyboardInterrupt

    entered: list[AbstractContextManager[Path]] = []
    scratch = tmp_path / "state" / "store" / ".scratch"
    monkeypatch.setattr(stack, "check_store", interrupted)
    settings = Settings(state_dir=tmp_path / "state", shm_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt), running_stack(settings):
        pass
    assert not scratch.exists() or not any(scratch.iterdir())


def test_a_port_is_none_that_the_kernel_gives_to_anybody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server that is told it binds it seconds later."""

    def chosen(ports: range) -> int:
        assert ports
        assert not {32_768, 60_999} & {*ports}
        return next(found)

    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "32768\t60999\n")
    monkeypatch.setattr(secrets, "choice", chosen)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = iter([taken.getsockname()[1], 0])
        assert stack.free_port() == 0
