"""Processes that want sessions: `python -m tests.sessions.crowd URL FOLDER CAPACITY [hold]`.

Each of four has two threads that hold a session again and again, opened with a driver that has as
many as are allowed; one more at any instant is refused. Prints how many were served and refused.
With `hold` it is one process that says so when it has a session, and keeps it.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path

from shared.errors import EngineBusyError
from shared.guard import Guard
from shared.leases import Leases
from shared.redisdb import connect
from shared.sessions import SessionKind, SessionNeed, Sessions
from shared.settings import Settings
from tests.sessions.driver import GPU, Driver

PROCESSES, THREADS, ROUNDS = 4, 2, 12


class Client:
    """What one worker has."""

    def __init__(self, url: str, folder: Path, capacity: int, name: str, lease_s: float) -> None:
        chosen = {"state_dir": folder, "nvenc_sessions": capacity, "lease_s": lease_s}
        settings = Settings.model_validate({**chosen, "slot_wait_s": 60})
        leases = Leases(connect(url), lease_s)
        self.sessions = Sessions(leases, settings, name, Guard(), lambda _: True)
        self.need = SessionNeed(SessionKind.NVENC, GPU, self.close)
        self._driver = Driver(folder / "driver", capacity)
        self._open: int | None = None

    def use(self) -> None:
        """To be called while the right is held."""
        if self._open is None:
            self._open = self._driver.open()

    def close(self) -> None:
        """Of the session, if it is open."""
        opened, self._open = self._open, None
        if opened is not None:
            self._driver.close(opened)


def work(client: Client, number: int, served: list[bool]) -> None:
    """Hold a session ROUNDS times, and note whether the driver gave it."""
    chance = random.Random(number)
    for _ in range(ROUNDS):
        try:
            with client.sessions.hold(client.need, "j"):
                client.use()
                time.sleep(chance.uniform(0, 0.004))
            served.append(True)
        except EngineBusyError:
            served.append(False)
    client.sessions.close()


def be_many(url: str, folder: Path, capacity: int, process: int) -> list[bool]:
    """One of the processes; what became of its threads."""
    served: list[bool] = []
    threads = []
    for thread in range(THREADS):
        number = THREADS * process + thread
        client = Client(url, folder, capacity, f"w{number}", 30)
        threads.append(threading.Thread(target=work, args=(client, number, served)))
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return served


def main(url: str, folder: Path, capacity: int) -> None:
    """All of them."""
    pipes = []
    for process in range(PROCESSES):
        reader, writer = os.pipe()
        if os.fork() == 0:
            served = be_many(url, folder, capacity, process)
            os.write(writer, f"{served.count(True)} {served.count(False)}".encode())
            os._exit(0)
        os.close(writer)
        pipes.append(reader)
    totals = [os.read(pipe, 100).decode().split() for pipe in pipes]
    for _ in pipes:
        os.wait()
    print(sum(int(each[0]) for each in totals), sum(int(each[1]) for each in totals))


def hold(url: str, folder: Path, capacity: int) -> None:
    """Hold one until killed."""
    client = Client(url, folder, capacity, "holder", 30)
    with client.sessions.hold(client.need, "j"):
        client.use()
        print("holds", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    arguments = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if sys.argv[4:] == ["hold"]:
        hold(*arguments)
    else:
        main(*arguments)
