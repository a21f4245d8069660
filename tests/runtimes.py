"""A runtime on a real server, whose outbox writes down instead of sending."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shared.messages import Message
from shared.redisdb import Connection
from shared.runtime import Runtime, make_runtime
from shared.settings import Settings
from shared.storage.directory import DirectoryStore


@dataclass
class Recorder:
    """An outbox that keeps what was sent: (task, item, queue)."""

    sent: list[tuple[str, str, str]] = field(default_factory=list)

    def send(self, task: str, message: Message, queue: str) -> None:
        """Write it down."""
        self.sent.append((task, f"{message.job}/{message.item}", queue))

    def take(self) -> list[tuple[str, str, str]]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent


def runtime(redis: Connection, folder: Path, **settings: object) -> tuple[Runtime, Recorder]:
    """A runtime of worker "me", and its outbox."""
    outbox = Recorder()
    chosen = Settings.model_validate({"state_dir": folder, **settings})
    store = DirectoryStore(chosen.store_path)
    return make_runtime(chosen, redis, store, outbox, "me"), outbox
