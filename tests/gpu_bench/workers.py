"""What processes do in tests of crews; a module that imports little."""

from __future__ import annotations

import os

from benchmarks.gpu.children import Channel


def says_no(_: Channel, word: str) -> None:
    raise ValueError(word)


def dies(_: Channel) -> None:
    os._exit(7)


def sleeps(channel: Channel) -> None:
    channel.wait()


def adds(channel: Channel, number: int) -> int:
    channel.say("ready")
    total = number
    while (more := channel.wait()) is not None:
        total += more
        channel.say(total)
    return -total
