"""What may go wrong, each as one function of the cluster and a source of chance."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from chaos.cluster import STAGES, Cluster
from chaos.proxy import Fault as StoreFault
from chaos.proxy import Mode
from shared.messages import VERSION, Message
from shared.queues import CeleryOutbox, make_app
from shared.runtime import queue_of

Fault = Callable[["Attack"], str]
"""Does harm; returns what it did, in words."""

KEPT_MESSAGES = 200


@dataclass
class Attack:
    """What faults work with. `longest_s`: of an outage of the store. `frozen`: processes that
    somebody is about to wake up."""

    cluster: Cluster
    chance: random.Random
    longest_s: float = 20.0
    frozen: list[psutil.Process] = field(default_factory=list)
    seen: list[tuple[str, Message, str]] = field(default_factory=list)

    def freeze(self, process: psutil.Process, seconds: float) -> None:
        """Stop a process; a thread of its own wakes it up, whatever we wait for meanwhile."""
        process.suspend()
        self.frozen.append(process)
        timer = threading.Timer(seconds, self.thaw, args=(process,))
        timer.daemon = True
        timer.start()

    def thaw(self, process: psutil.Process) -> None:
        """Wake it up, if it is still there."""
        with suppress(psutil.Error):
            process.resume()
        with suppress(ValueError):
            self.frozen.remove(process)

    def thaw_all(self) -> None:
        """Wake up everybody now."""
        for process in list(self.frozen):
            self.thaw(process)

    def watch(self) -> None:
        """Take down some of the messages that are on their way, to send them again later."""
        for job in self.cluster.ledger.live()[:5]:
            for flight in list(self.cluster.ledger.flights(job))[:3]:
                queue = queue_of(flight.stage, flight.message.slot.arena)
                self.seen.append((f"{flight.stage}.batch", flight.message, queue))
        del self.seen[:-KEPT_MESSAGES]


def kill_child(attack: Attack) -> str:
    """A process at work, in the middle of it."""
    children = attack.cluster.children()
    if not children:
        return "nobody to kill"
    victim = attack.chance.choice(children)
    victim.kill()
    return f"killed a pool child ({victim.pid})"


def kill_worker(attack: Attack) -> str:
    """A whole worker of a stage."""
    stage = attack.chance.choice(STAGES)
    attack.cluster.home.worker(stage).kill()
    return f"killed the {stage} worker"


def kill_coordinator(attack: Attack) -> str:
    """The one process that sees all jobs."""
    attack.cluster.home.worker("coordinator").kill()
    return "killed the coordinator"


def kill_arena(attack: Attack) -> str:
    """The owner of the frames' memory."""
    attack.cluster.home.worker("arena").kill()
    return "killed the arena's owner"


def kill_redis(attack: Attack) -> str:
    """Broker, ledger and leases; the append-only file stays."""
    attack.cluster.home.server().kill()
    return "killed Redis"


def freeze_redis(attack: Attack) -> str:
    """Unreachable, with all connections open."""
    seconds = attack.chance.uniform(2, 8)
    server = attack.cluster.home.server()
    attack.freeze(server, seconds)
    return f"froze Redis for {seconds:.1f} s"


def kill_api(attack: Attack) -> str:
    """Who takes jobs, perhaps in the middle of taking one."""
    attack.cluster.home.worker("api").kill()
    return "killed the API"


def freeze_api(attack: Attack) -> str:
    """Clients wait, or give up and come again."""
    seconds = attack.chance.uniform(1, 5)
    attack.freeze(attack.cluster.home.worker("api"), seconds)
    return f"froze the API for {seconds:.1f} s"


def store_away(attack: Attack) -> str:
    """The object store refuses connections, answers nothing, or nothing but errors."""
    if attack.cluster.proxy is None:
        return "the store is a folder"
    mode: Mode = attack.chance.choice(("refuse", "hang", "error"))
    seconds = attack.chance.uniform(1, attack.longest_s)
    attack.cluster.proxy.set(StoreFault(mode))
    timer = threading.Timer(seconds, attack.cluster.heal)
    timer.daemon = True
    timer.start()
    return f"the store is away ({mode}) for {seconds:.1f} s"


def store_breaks_off(attack: Attack) -> str:
    """The next few answers of the store end in the middle."""
    if attack.cluster.proxy is None:
        return "the store is a folder"
    attack.cluster.proxy.set(StoreFault("cut", after_bytes=2000, times=attack.chance.randint(1, 5)))
    return "answers of the store break off"


def freeze_child(attack: Attack) -> str:
    """A process that will go on later as if nothing had happened."""
    children = attack.cluster.children()
    if not children:
        return "nobody to freeze"
    seconds = attack.chance.uniform(0.5, 6)
    victim = attack.chance.choice(children)
    attack.freeze(victim, seconds)
    return f"froze a pool child ({victim.pid}) for {seconds:.1f} s"


def freeze_coordinator(attack: Attack) -> str:
    """Nobody dispatches, nobody recovers."""
    seconds = attack.chance.uniform(1, 5)
    victim = attack.cluster.home.worker("coordinator")
    attack.freeze(victim, seconds)
    return f"froze the coordinator for {seconds:.1f} s"


def repeat_messages(attack: Attack) -> str:
    """Messages of before come again: twins, late and out of order."""
    if not attack.seen:
        return "no message to repeat"
    outbox = CeleryOutbox(make_app(_url(attack.cluster)))
    count = attack.chance.randint(1, 6)
    for task, message, queue in attack.chance.choices(attack.seen, k=count):
        outbox.send(task, message, queue)
    return f"sent {count} old messages again"


def garbage(attack: Attack) -> str:
    """Something that nobody can read."""
    outbox = CeleryOutbox(make_app(_url(attack.cluster)))
    stage = attack.chance.choice(STAGES[1:])
    outbox.send_body(f"{stage}.batch", {"v": VERSION, "nonsense": True}, queue_of(stage, "cpu0"))
    return f"sent nonsense to {stage}"


def power_cut(attack: Attack) -> str:
    """Every process at once; then the stack is started again."""
    attack.thaw_all()
    attack.cluster.kill()
    attack.cluster.start()
    return "killed everything, started again"


def _url(cluster: Cluster) -> str:
    arguments = cluster.redis.connection_pool.connection_kwargs
    return f"redis://:{arguments['password']}@127.0.0.1:{arguments['port']}/0"


FAULTS: dict[Fault, int] = {
    kill_child: 6,
    kill_worker: 3,
    kill_coordinator: 3,
    kill_arena: 2,
    kill_redis: 2,
    freeze_redis: 2,
    freeze_child: 5,
    freeze_coordinator: 2,
    repeat_messages: 5,
    garbage: 1,
    kill_api: 3,
    freeze_api: 2,
    store_away: 4,
    store_breaks_off: 3,
    power_cut: 1,
}
"""With the weight of each."""
