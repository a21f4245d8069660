"""A real browser that looks at the served API; whatever it complains about fails the test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from tests.api.conftest import EVERYTHING, Served, api, settings
from tests.browser import chromium
from tests.videos import VideoSpec, make_video

__all__ = ["api", "settings"]

expect.set_options(timeout=20_000)

ARRIVAL = "[data-empty]"
"""The list, which is there once somebody is signed in."""


@dataclass
class Visitor:
    """Somebody at a browser. `forgiven`: patterns of complaints that belong to the test."""

    api: Served
    context: BrowserContext
    complaints: list[str] = field(default_factory=list)
    forgiven: list[str] = field(default_factory=list)

    def page(self, path: str = "", owner: str | None = "ann") -> Page:
        """A new page; signed in by the address that `dualface up` prints, if there is an owner."""
        page = self.context.new_page()
        page.on("console", self._heard)
        # From the start: the browser shows its own chooser to who is faster than a later request.
        page.on("filechooser", lambda _: None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        if owner is not None:
            page.goto(f"{self.api.url}/#key={self.key(owner)}")
            expect(page.get_by_role("button", name="Sign out")).to_be_visible()
        if owner is None or path:
            page.goto(f"{self.api.url}/{path}")
        return page

    def key(self, owner: str = "ann") -> str:
        """A new key."""
        return self.api.service.keys.add(owner, EVERYTHING)[1]

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location.get('url')})")

    def check(self) -> None:
        """Nobody complained: no error, no broken security policy, nothing missing."""
        left = [
            complaint
            for complaint in self.complaints
            if not any(re.search(pattern, complaint) for pattern in self.forgiven)
        ]
        assert left == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests here. Not for the session: while it runs, this thread has an event loop,
    which other tests may want to have for themselves."""
    with chromium() as made:
        yield made


@pytest.fixture
def visit(api: Served, browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """Makes visitors, each with a browser profile of its own; options as of `new_context`."""
    visitors: list[Visitor] = []

    def make(**options: object) -> Visitor:
        given = {"reduced_motion": "reduce", **options}
        visitors.append(Visitor(api, browser.new_context(**given)))  # type: ignore[arg-type]
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.context.close()
    for visitor in visitors:
        visitor.check()


@pytest.fixture
def visitor(visit: Callable[..., Visitor]) -> Visitor:
    """One at a desk."""
    return visit()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, with sound, that a browser plays."""
    path = tmp_path_factory.mktemp("video") / "talk.mp4"
    return make_video(path, VideoSpec(frames=50, audio="aac"))
