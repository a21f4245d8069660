"""The page as a person meets it, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from services.coordinator.api import page as page_module
from services.coordinator.api.page import TYPES
from shared.errors import ErrorCode
from shared.jobs import JobState
from shared.names import source_key
from tests.api.conftest import Served
from tests.page.conftest import Visitor
from tests.page.driving import Driver
from tests.page.screens import first_picture
from tests.videos import VideoSpec, make_video

HOSTILE = "<img src=x onerror=alert(1)> & \"'\u202e.mp4"
NAMELESS = """() => [...document.querySelectorAll("a, button, input, select, summary, [role]")]
    .filter((e) => e.checkVisibility())
    .filter((e) => !(e.ariaLabel || e.getAttribute("aria-labelledby") || e.textContent.trim()
        || [...(e.labels ?? [])].some((label) => label.textContent.trim())))
    .map((e) => e.outerHTML)"""
PALE = """() => {
    const parts = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const style = getComputedStyle(e);
            const [r, g, b, a = 1] = parts(style.backgroundColor);
            if (style.backgroundColor.startsWith("rgb") && a === 1) return [r, g, b];
        }
        return parts(getComputedStyle(document.documentElement).backgroundColor);
    };
    return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
        && !e.closest(".unseen, :disabled, svg, video")
        && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
        .map((e) => {
            const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 90)];
        }).filter(([ratio]) => ratio < 4.5);
}"""
"""Texts whose contrast is below WCAG's AA."""


def wide(page: Page) -> int:
    """Pixels that the page is wider than its window."""
    return int(page.evaluate("() => document.documentElement.scrollWidth - innerWidth"))


def choose(page: Page, *paths: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose videos").click()
    chooser.value.set_files(list(paths))


def live_jobs(api: Served) -> list[str]:
    return api.service.ledger.live()


# --- signing in ---------------------------------------------------------------------------------


def test_the_printed_address_signs_in_and_its_key_does_not_stay_anywhere(visitor: Visitor) -> None:
    page = visitor.page()
    expect(page.get_by_text("will appear here")).to_be_visible()
    assert page.url == f"{visitor.api.url}/"
    assert "df_" not in page.evaluate("() => document.cookie + JSON.stringify(localStorage)")
    page.reload()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_a_key_signs_in_by_the_form_and_signing_out_ends_the_session(visitor: Visitor) -> None:
    visitor.forgiven = ["401"]
    page = visitor.page(owner=None)
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill("df_mistyped")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This key opens nothing. Is it complete?")
    field.fill(visitor.key())
    page.keyboard.press("Enter")
    expect(page.get_by_text("will appear here")).to_be_visible()
    cookie = visitor.context.cookies()[0]
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert visitor.api.service.keys.of_session(str(cookie.get("value"))) is None
    assert visitor.context.cookies() == []


def test_a_session_that_ended_asks_for_a_key_and_says_why(visitor: Visitor) -> None:
    visitor.forgiven = ["401"]
    page = visitor.page()
    visitor.context.clear_cookies()
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("alert")).to_contain_text("Your session has ended")


# --- sending ------------------------------------------------------------------------------------


def test_an_upload_shows_how_far_it_is_and_becomes_a_job(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page()
    session = visitor.context.new_cdp_session(page)
    session.send("Network.enable")
    # Fifteen seconds, as long as nobody has seen how far it is.
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100_000}
    session.send("Network.emulateNetworkConditions", slow)
    path = tmp_path / "talk.mp4"
    path.write_bytes(bytes(1_500_000))
    choose(page, path)
    meter = page.get_by_role("progressbar", name="Upload of talk.mp4")
    expect(meter).to_have_attribute("aria-valuenow", re.compile("^[1-9][0-9]?$"))
    expect(page.get_by_text("of 1.5 MB")).to_contain_text("/s")
    session.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    expect(page.get_by_role("heading", name="talk.mp4")).to_be_visible()
    expect(page.locator(".pill")).to_have_text("Waiting")
    (job,) = live_jobs(visitor.api)
    assert visitor.api.service.store.size(source_key(job, ".mp4")) == 1_500_000
    assert page.url.endswith(f"#/jobs/{job}")


def test_several_videos_are_sent_one_after_the_other_with_the_chosen_options(
    visitor: Visitor, tmp_path: Path
) -> None:
    page = visitor.page()
    page.get_by_text("CRF 23").wait_for()
    page.get_by_text("Options").click()
    page.get_by_label("Stacked").check()
    page.get_by_label("Size", exact=True).select_option("1080x1920")
    page.get_by_label("Priority").fill("12")
    paths = [tmp_path / name for name in ("a.mp4", "b.mp4")]
    for path in paths:
        path.write_bytes(b"some bytes")
    choose(page, *paths)
    expect(page.get_by_label("Priority")).to_be_focused()
    assert live_jobs(visitor.api) == []
    page.get_by_label("Priority").fill("8")
    page.get_by_label("Marks around faces").select_option("Boxes")
    page.get_by_label("Container").select_option("mov")
    page.get_by_label("Codec").select_option("AV1")  # which no .mov can hold
    expect(page.get_by_label("Container")).to_have_value("mp4")
    choose(page, *paths)
    expect(page.locator(".jobs .name")).to_have_text(["b.mp4", "a.mp4"])
    specs = [visitor.api.service.ledger.spec(job) for job in live_jobs(visitor.api)]
    chosen = {(spec.layout.value, spec.size, spec.priority, spec.annotate) for spec in specs}
    assert chosen == {("stacked", (1080, 1920), 8, True)}
    assert {(spec.codec.value, spec.container) for spec in specs} == {("av1", "mp4")}


def test_dropped_files_are_sent_too(visitor: Visitor) -> None:
    page = visitor.page()
    data = page.evaluate_handle(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["bytes"], "dropped.mp4"));
            return data;
        }"""
    )
    page.dispatch_event(".drop", "dragenter", {"dataTransfer": data})
    expect(page.locator("body")).to_have_class("dropping")
    page.dispatch_event(".drop", "drop", {"dataTransfer": data})
    expect(page.get_by_role("heading", name="dropped.mp4")).to_be_visible()
    expect(page.locator("body")).not_to_have_class("dropping")


def test_an_upload_that_fails_says_why_and_can_be_sent_again(
    visitor: Visitor, tmp_path: Path
) -> None:
    visitor.forgiven = ["429", "ERR_FAILED"]
    page = visitor.page()
    path = tmp_path / "talk.mp4"
    path.write_bytes(b"some bytes")

    def cut(route: Route) -> None:
        route.abort()

    page.route("**/content", cut)
    choose(page, path)
    expect(page.get_by_role("alert")).to_contain_text("No connection to the service.")
    page.unroute("**/content")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="talk.mp4")).to_be_visible()


def test_from_load_to_submit_by_keyboard_alone(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page()
    path = tmp_path / "talk.mp4"
    path.write_bytes(b"some bytes")
    page.on("filechooser", lambda chooser: chooser.set_files(path))
    focused = page.locator(":focus")
    passed = []
    while "Choose videos" not in passed:
        page.keyboard.press("Tab")
        passed.append(focused.text_content())
        assert len(passed) < 9, passed
    outline = focused.evaluate("(e) => getComputedStyle(e).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    heading = page.get_by_role("heading", name="talk.mp4")
    expect(heading).to_be_focused()


# --- watching -----------------------------------------------------------------------------------


def test_a_running_job_gets_on_before_ones_eyes(visitor: Visitor, video: Path) -> None:
    driver = Driver(visitor.api, "a")
    page = visitor.page("#/jobs/a")
    pill, meter = page.locator(".pill"), page.get_by_role("progressbar", name="Progress")
    expect(pill).to_have_text("Waiting")
    driver.split(frames=100)
    expect(pill).to_have_text("Working")
    expect(meter).to_have_attribute("aria-valuenow", "0")
    picture = first_picture(video)
    driver.chunk(0, picture)
    driver.batch(1, "infer")
    expect(meter).to_have_attribute("aria-valuenow", "50")
    expect(page.get_by_text("50 of 100 frames")).to_be_visible()
    steps = page.get_by_role("list", name="Stages").get_by_role("listitem")
    expect(steps.filter(has_text="Decode")).to_contain_text("100")
    expect(steps.filter(has_text="Encode")).to_contain_text("50")
    expect(page.get_by_role("list", name="1 picture of the result")).to_be_visible()
    driver.finish(video.read_bytes(), picture)
    expect(pill).to_have_text("Done")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_a_lost_connection_is_said_and_the_page_catches_up_by_itself(visitor: Visitor) -> None:
    visitor.forgiven = ["ERR_FAILED"]
    driver = Driver(visitor.api, "a")
    page = visitor.page()

    def cut(route: Route) -> None:
        route.abort()

    page.route("**/v1/**", cut)
    page.goto(f"{visitor.api.url}/#/jobs/a")
    expect(page.get_by_role("status")).to_contain_text("No connection")
    driver.split(frames=100)
    page.unroute("**/v1/**")
    expect(page.locator(".pill")).to_have_text("Working")
    expect(page.get_by_role("status")).to_be_hidden()


def test_an_event_stream_that_breaks_goes_on_after_the_last_event(visitor: Visitor) -> None:
    driver = Driver(visitor.api, "a")
    page = visitor.page()
    asked: list[str | None] = []

    def broken(route: Route) -> None:
        asked.append(route.request.headers.get("last-event-id"))
        if len(asked) == 1:
            event = 'id: 7-0\nevent: state\ndata: {"state": "queued", "at": "x"}\n\nid: 8'
            route.fulfill(body=event, content_type="text/event-stream")
        else:
            route.continue_()

    page.route("**/events", broken)
    with page.expect_event("request", lambda request: "last-event-id" in request.headers):
        page.goto(f"{visitor.api.url}/#/jobs/a")
    driver.split(frames=100)
    expect(page.locator(".pill")).to_have_text("Working")
    assert asked[:2] == [None, "7-0"]


def test_a_job_that_nobody_else_may_watch_is_looked_at(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.coordinator.api.bell.MOST", 0)
    visitor.forgiven.append("503")
    driver = Driver(visitor.api, "a")
    page = visitor.page("#/jobs/a")
    expect(page.locator(".pill")).to_have_text("Waiting")
    driver.split()
    expect(page.locator(".pill")).to_have_text("Working")
    expect(page.get_by_role("status")).to_be_hidden()


def test_a_job_is_cancelled_after_a_question(visitor: Visitor) -> None:
    Driver(visitor.api, "a").split()
    page = visitor.page("#/jobs/a")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Keep it").click()
    assert visitor.api.service.ledger.state("a") is JobState.RUNNING
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".sentence")).to_have_text("Cancelled by ann.")
    assert visitor.api.service.ledger.state("a") is JobState.CANCELLED


def test_a_failed_job_says_its_sentence_and_can_be_tried_again(visitor: Visitor) -> None:
    Driver(visitor.api, "a").split()
    visitor.api.service.store.write(source_key("a", ".mp4"), [b"video"])
    ledger = visitor.api.service.ledger
    ledger.fail("a", ErrorCode.TOO_DAMAGED, "Half of the video can't be decoded.")
    ledger.cleaned("a")
    page = visitor.page("#/jobs/a")
    expect(page.get_by_text("Half of the video can't be decoded.")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".pill")).to_have_text("Waiting")
    assert ledger.state("a") is JobState.QUEUED


def test_what_the_service_refuses_is_said_in_its_own_words(visitor: Visitor) -> None:
    visitor.forgiven = ["404", "409"]
    page = visitor.page("#/jobs/nowhere")
    expect(page.get_by_role("alert")).to_have_text("There is no such job, or it is not yours.")
    Driver(visitor.api, "a")
    visitor.api.service.ledger.fail("a", ErrorCode.NOT_A_VIDEO, "Not a video.")
    visitor.api.service.ledger.cleaned("a")
    page.goto(f"{visitor.api.url}/#/jobs/a")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_contain_text("Its source is not kept any more")


# --- what came of it ----------------------------------------------------------------------------


def test_source_and_result_play_and_stop_and_jump_together(
    visitor: Visitor, video: Path, tmp_path: Path
) -> None:
    # Long: on a busy machine it would else be at its end before the click that pauses it.
    spec = VideoSpec(frames=150, rate=Fraction(5), audio="aac")
    body = make_video(tmp_path / "long.mp4", spec).read_bytes()
    Driver(visitor.api, "a").finish(body, first_picture(video), source=body)
    page = visitor.page("#/jobs/a")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].filter(v => v.currentTime > 0.1).length == 2"
    )
    page.get_by_role("button", name="Pause").click()
    videos = page.locator("video")
    assert videos.evaluate_all("(all) => all.map((v) => v.paused)") == [True, True]
    assert videos.evaluate_all("(all) => all.map((v) => v.muted)") == [True, False]
    page.get_by_label("Position").fill("1.5")
    page.get_by_role("button", name="One frame back").click()
    page.wait_for_function("() => [...document.querySelectorAll('video')].every(v => !v.seeking)")
    source, result = videos.evaluate_all("(all) => all.map((v) => v.currentTime)")
    assert source == result == pytest.approx(1.46)


def test_a_source_that_is_not_kept_can_be_chosen_from_the_disk(
    visitor: Visitor, video: Path
) -> None:
    Driver(visitor.api, "a").finish(video.read_bytes(), first_picture(video))
    page = visitor.page("#/jobs/a")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose it to compare").click()
    chooser.value.set_files(video)
    page.wait_for_function("() => document.querySelector('video').readyState > 1")


def test_the_result_is_downloaded_under_the_name_of_its_source(
    visitor: Visitor, video: Path
) -> None:
    Driver(visitor.api, "a", name="talk.mov").finish(video.read_bytes(), first_picture(video))
    page = visitor.page("#/jobs/a")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "talk-split.mp4"
    assert Path(download.value.path()).read_bytes() == video.read_bytes()


def test_the_report_says_what_was_lost_and_warns(visitor: Visitor, video: Path) -> None:
    Driver(visitor.api, "a").finish(
        video.read_bytes(), first_picture(video), frames_lost=12, warnings=["One face only."]
    )
    report = visitor.page("#/jobs/a").get_by_role("region", name="Report")
    expect(report.get_by_text("One face only.")).to_be_visible()
    expect(report.get_by_text("0:04 to 0:08: 12 frames not decodable")).to_be_visible()
    expect(report.locator("dl div", has_text="People found")).to_contain_text("2")
    expect(report.get_by_role("row", name="Encode")).to_contain_text("libx264")
    expect(report.get_by_text("Every frame of the source")).to_have_count(0)


# --- the list -----------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_by_page_and_state_and_only_ones_own(visitor: Visitor) -> None:
    for number in range(23):
        Driver(visitor.api, f"j{number:02}", name=f"{number:02}.mp4")
    Driver(visitor.api, "other", owner="bob")
    visitor.api.service.ledger.fail("j07", ErrorCode.NOT_A_VIDEO, "Not a video.")
    page = visitor.page()
    names = page.locator(".jobs .name")
    expect(names).to_have_text([f"{number:02}.mp4" for number in range(22, 2, -1)])
    page.get_by_role("button", name="Older").click()
    expect(names).to_have_text(["02.mp4", "01.mp4", "00.mp4"])
    page.get_by_role("button", name="Failed").click()
    expect(names).to_have_text(["07.mp4"])
    expect(page.get_by_text("Not a video.")).to_be_visible()
    page.get_by_role("button", name="Try 07.mp4 again").wait_for()
    page.get_by_role("link", name="07.mp4").click()
    expect(page.get_by_role("heading", name="07.mp4")).to_be_focused()


def test_the_list_follows_its_jobs_and_cancels_one(visitor: Visitor) -> None:
    driver = Driver(visitor.api, "a", name="talk.mp4")
    page = visitor.page()
    row = page.locator(".jobs li")
    expect(row).to_contain_text("Waiting")
    driver.split(frames=100)
    driver.chunk(0)
    expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    row.get_by_role("button", name="Cancel talk.mp4").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(row).to_contain_text("Cancelled by ann.")


# --- everywhere ---------------------------------------------------------------------------------


def test_names_of_files_are_text_wherever_they_are_shown(visitor: Visitor, video: Path) -> None:
    Driver(visitor.api, "a", name=HOSTILE).split()
    done = Driver(visitor.api, "b", name=HOSTILE)
    done.finish(video.read_bytes(), first_picture(video), warnings=[HOSTILE])
    page = visitor.page()
    expect(page.locator(".jobs .name")).to_have_text([HOSTILE, HOSTILE])
    for job in ("a", "b"):
        page.goto(f"{visitor.api.url}/#/jobs/{job}")
        expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(page.get_by_role("list", name="Warnings")).to_have_text(HOSTILE)
    assert page.locator("[src='x']").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_a_phone_names_its_controls_and_can_be_read(
    visit: Callable[..., Visitor], video: Path, scheme: str
) -> None:
    visitor = visit(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    long = f"{'a-very-long-name-without-any-space' * 3}.mp4"
    Driver(visitor.api, "running", name=long).split()
    body = video.read_bytes()
    Driver(visitor.api, "done", name=long).finish(body, first_picture(video), frames_lost=3)
    Driver(visitor.api, "failed", name=long)
    visitor.api.service.ledger.fail("failed", ErrorCode.NOT_A_VIDEO, f"Not a video: {long}")
    page = visitor.page(owner=None)
    expect(page.get_by_label("API key")).to_be_visible()
    seen = [(wide(page), page.evaluate(NAMELESS), page.evaluate(PALE))]
    page.goto(f"{visitor.api.url}/#key={visitor.key()}")
    page.get_by_text("CRF 23").wait_for()
    page.get_by_text("Options").click()
    page.mouse.move(359, 739)  # what is hovered has other colours
    for path, there in (
        ("", ".jobs li"),
        ("#/jobs/running", ".flow"),
        ("#/jobs/done", ".report"),
        ("#/jobs/failed", ".verdict"),
    ):
        if path:
            page.goto(f"{visitor.api.url}/{path}")
        page.locator(there).first.wait_for()
        seen.append((wide(page), page.evaluate(NAMELESS), page.evaluate(PALE)))
    assert seen == [(0, [], [])] * 5
    paper = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
    red, green, blue = (int(part) for part in re.findall(r"\d+", paper))
    assert (red + green + blue > 3 * 128) == (scheme == "light")


def test_all_parts_of_the_page_are_served_and_nothing_else(api: Served) -> None:
    client = api.with_key(None)
    folder = Path(page_module.__file__).with_name("static")
    assert {path.name for path in folder.iterdir()} == set(TYPES)
    for name, media_type in TYPES.items():
        answer = client.get(f"/page/{name}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    for name in ("..%2Fapp.py", "nothing.js"):
        assert client.get(f"/page/{name}").status_code == 404
    markup = client.get("/").text
    assert "style=" not in markup
    assert re.findall('<script(?! type="module" src=)', markup) == []
