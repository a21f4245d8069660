"""Pictures of the page in all its states: `python -m tests.page.screens FOLDER [VIDEO]`.

`VIDEO` is shown as source and result; without it a drawn one is. Needs Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from playwright.sync_api import Browser, FilePayload, Page, Route

from services.coordinator.api.app import make_service
from shared.errors import ErrorCode
from shared.settings import Settings
from tests.api.conftest import EVERYTHING, Served, served
from tests.browser import chromium
from tests.page.driving import Driver
from tests.servers import redis_server
from tests.videos import VideoSpec, make_video

DESK = (1280, 860)
PHONE = (360, 740)
NAMES = ("harbour interview", "panel, second day", "podcast 41", "Łódź, wywiad", "talk at noon")


@dataclass
class Studio:
    """Where pictures are taken."""

    api: Served
    browser: Browser
    folder: Path
    key: str
    video: bytes
    picture: bytes

    def shoot(
        self,
        name: str,
        prepare: Callable[[Page], None],
        *,
        path: str = "",
        size: tuple[int, int] = DESK,
        dark: bool = False,
        signed_in: bool = True,
    ) -> None:
        """One picture of the whole page as it is after `prepare`."""
        context = self.browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        page = context.new_page()
        if signed_in:
            page.goto(f"{self.api.url}/#key={self.key}")
            page.get_by_role("button", name="Sign out").wait_for()
        page.goto(f"{self.api.url}/{path}")
        prepare(page)
        page.screenshot(path=self.folder / f"{name}.png", full_page=True)
        context.close()


def main(folder: Path, video: Path | None) -> None:
    """Take them all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, redis_server(Path(scratch)) as url:
        settings = Settings(redis_url=url, state_dir=Path(scratch))
        source = video or make_video(
            Path(scratch, "drawn.mp4"), VideoSpec(size=(640, 360), frames=100, audio="aac")
        )
        with served(make_service(settings)) as api, chromium() as browser:
            _, key = api.service.keys.add("ann", EVERYTHING)
            body, picture = source.read_bytes(), first_picture(source)
            take_all(Studio(api, browser, folder, key, body, picture))


def take_all(studio: Studio) -> None:
    """From an empty service to a busy one."""
    api, shoot = studio.api, studio.shoot
    shoot("sign-in", lambda page: page.get_by_label("API key").wait_for(), signed_in=False)
    shoot("sign-in-wrong", wrong_key, signed_in=False, size=PHONE)
    shoot("empty", lambda page: page.get_by_text("will appear here").wait_for())
    shoot("options", open_options)
    shoot("options-phone", open_options, size=PHONE)
    shoot("uploading", uploading)
    shoot("uploading-phone-dark", uploading, size=PHONE, dark=True)
    shoot("upload-refused", upload_refused)
    running = half_done(studio)
    Driver(api, "waiting", name="waiting.mov")
    shoot("queued", lambda page: page.get_by_text("as soon as a worker").wait_for(),
          path="#/jobs/waiting")  # fmt: skip
    for name, size, dark in (("", DESK, False), ("-phone", PHONE, False), ("-dark", DESK, True)):
        shoot(f"running{name}", pictures, path=f"#/jobs/{running}", size=size, dark=dark)
    shoot("question", question, path=f"#/jobs/{running}", size=PHONE)
    failed = Driver(api, "failed", name="tape 7.mp4")
    failed.split()
    api.service.ledger.fail(
        "failed",
        ErrorCode.TOO_DAMAGED,
        "More than half of the video could not be decoded; the file seems to be cut short.",
    )
    shoot(
        "failed", lambda page: page.get_by_text("cut short").last.wait_for(), path="#/jobs/failed"
    )
    Driver(api, "cancelled", name="wrong file.mp4")
    api.service.ledger.cancel("cancelled", "Cancelled by ann.")
    shoot("cancelled", lambda page: page.get_by_text("start anew").wait_for(),
          path="#/jobs/cancelled", dark=True)  # fmt: skip
    Driver(api, "done", name="interview.mp4").finish(studio.video, studio.picture, studio.video)
    Driver(api, "lossy", name="old tape.mp4").finish(
        studio.video, studio.picture, frames_lost=12, frames_concealed=31, sounds_encoded=1,
        warnings=["One person only from 0:04 on; the second half shows the same one."],
    )  # fmt: skip
    for name, size, dark in (("", DESK, False), ("-phone", PHONE, False), ("-dark", DESK, True)):
        shoot(f"done{name}", playing, path="#/jobs/done", size=size, dark=dark)
    shoot("lossy", lambda page: page.get_by_text("Choose it to compare").wait_for(),
          path="#/jobs/lossy")  # fmt: skip
    for number in range(24):
        driver = Driver(api, f"many{number}", name=f"{NAMES[number % len(NAMES)]} {number}.mp4")
        if number % 5:
            driver.finish(studio.video, studio.picture)
    for name, size, dark in (("", DESK, False), ("-phone", PHONE, False), ("-dark", DESK, True)):
        shoot(f"many{name}", many, size=size, dark=dark)
    shoot("lost", lost)


def first_picture(video: Path) -> bytes:
    """A JPEG of the first frame, 320 px wide."""
    with av.open(video) as container:
        frame = next(container.decode(video=0)).reformat(320, 180, "yuvj420p")
    encoder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 320, 180, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def half_done(studio: Studio) -> str:
    """A job in the middle of it."""
    driver = Driver(studio.api, "running", name="interview.mp4")
    driver.split(1800)
    for number in range(14):
        driver.chunk(number, studio.picture)
    for number, stage in ((14, "encode"), (15, "encode"), (16, "compose"), (17, "infer")):
        driver.batch(number, stage)
    return driver.job


def payload(name: str, size: int) -> FilePayload:
    return {"name": f"{name}.mp4", "mimeType": "video/mp4", "buffer": bytes(size)}


def wrong_key(page: Page) -> None:
    page.get_by_label("API key").fill("df_mistyped")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()


def open_options(page: Page) -> None:
    page.get_by_text("CRF 23").wait_for()
    page.get_by_text("Options").click()
    page.get_by_label("Codec").wait_for()


def uploading(page: Page) -> None:
    """Three files, the first of which stays on its way."""
    page.evaluate(
        """XMLHttpRequest.prototype.send = function (body) {
            this.upload.onprogress({ loaded: body.size * 0.21 });
            setTimeout(() => this.upload.onprogress({ loaded: body.size * 0.64 }), 300);
        }; null"""
    )
    page.locator("input[type=file]").set_input_files(
        [
            payload(name, 7_000_000)
            for name in ("interview with a name that is rather long, take 2", "b-roll", "closing")
        ]
    )
    page.get_by_text("64 %").wait_for()


def upload_refused(page: Page) -> None:
    page.locator("input[type=file]").set_input_files([payload("nothing", 0)])
    page.get_by_role("alert").wait_for()


def pictures(page: Page) -> None:
    page.get_by_label("pictures of the result").wait_for()
    page.wait_for_function("() => [...document.images].filter(i => i.complete).length > 3")


def question(page: Page) -> None:
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").wait_for()


def playing(page: Page) -> None:
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].filter(v => v.readyState > 2).length == 2"
    )
    page.get_by_label("Position").fill("2")
    page.wait_for_function("() => [...document.querySelectorAll('video')].every(v => !v.seeking)")


def many(page: Page) -> None:
    page.get_by_role("button", name="Older").wait_for()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.picture img')].filter(i => i.complete).length > 4"
    )


def lost(page: Page) -> None:
    page.get_by_role("button", name="Older").wait_for()

    def gone(route: Route) -> None:
        route.abort()

    page.route("**/v1/jobs?*", gone)
    page.get_by_role("button", name="Done").click()
    page.get_by_text("Trying again").wait_for()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
