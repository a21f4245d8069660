"""A source opens nothing but itself, whatever it or its name points to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from struct import pack

import av
import pytest

from benchmarks.mutations import examine
from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.media.probe import open_source, probe
from tests.hostile.baits import Bait, bait
from tests.hostile.files import Mp4
from tests.videos import CLOSED_GOP_X264, make_video
from tests.waiting import wait_until

CLIP = replace(CLOSED_GOP_X264, frames=12, bframes=0)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Bait]:
    with bait(tmp_path / "bait.ts") as made:
        yield made


def _hls(target: str) -> bytes:
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXT-X-MEDIA-SEQUENCE:0\n"
    return f"{head}#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n".encode()


def _hls_key(target: str) -> bytes:
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n'.encode()
    return _hls("other.ts").replace(b"#EXTINF", key + b"#EXTINF")


def _hls_master(target: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n".encode()


def _concat(target: str) -> bytes:
    return f"ffconcat version 1.0\nfile '{target}'\n".encode()


def _sdp(target: str) -> bytes:
    port = target.split(":")[-1].split("/")[0] if "://" in target else "9"
    here = "IN IP4 127.0.0.1"
    return f"v=0\r\no=- 0 0 {here}\r\nc={here}\r\nm=video {port} TCP/RTP/AVP 33\r\n".encode()


def _dash(target: str) -> bytes:
    return (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT5S"><Period><AdaptationSet mimeType="video/mp4">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    ).encode()


def _rtsp_redirect(target: str) -> bytes:
    return f"RTSPtext\r\n{target}\r\n".encode()


def _asx(target: str) -> bytes:
    return f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>'.encode()


SCRIPTS: dict[str, Callable[[str], bytes]] = {
    "hls": _hls,
    "hls key": _hls_key,
    "hls master": _hls_master,
    "concat": _concat,
    "sdp": _sdp,
    "dash": _dash,
    "rtsp": _rtsp_redirect,
    "asx": _asx,
}
NAMES = ("input.m3u8", "input.mp4", "input.ts", "input.ffconcat", "input.mpd", "input")
PREFIXES = {"plain": b"", "mark": b"\xef\xbb\xbf", "space": b"\n \t\r\n", "zeros": b"\0\0"}


def refused_untouched(path: Path, trap: Bait) -> PermanentError:
    """Refused in so many words, and nothing was reached for."""
    with pytest.raises(PermanentError) as caught:
        probe(path)
    assert trap.taken() == set()
    return caught.value


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_playlist_opens_nothing_under_any_name(
    kind: str, prefix: str, tmp_path: Path, trap: Bait, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target in (str(trap.pipe), trap.url, f"file:{trap.pipe}", f"tcp://127.0.0.1:{trap.port}"):
        for name in NAMES:
            path = tmp_path / name
            path.write_bytes(PREFIXES[prefix] + SCRIPTS[kind](target))
            error = refused_untouched(path, trap)
            assert error.code is ErrorCode.NOT_A_VIDEO
            if prefix != "zeros":
                assert "is a playlist that points to other files" in error.message
            # Behind the look at the first bytes stands FFmpeg's own list of containers.
            with monkeypatch.context() as patched:
                patched.setattr("shared.media.probe.refuse_obvious", lambda *_: None)
                refused_untouched(path, trap)


@pytest.mark.parametrize("confined", [True, False])
def test_a_pattern_of_image_names_opens_none_of_them(confined: bool, tmp_path: Path) -> None:
    """FFmpeg, unconfined, takes a name that looks like a pattern for one, and looks for frames."""
    path = tmp_path / "img%03d.jpg"
    path.write_bytes(b"\0\1\2\3" * 64)
    with bait(tmp_path / "img001.jpg") as trap:
        if confined:
            refused_untouched(path, trap)
        else:
            _unconfined(str(path), {})
            wait_until(lambda: trap.taken() == {"pipe"}, "the first image was opened")


def _unconfined(name: str, options: dict[str, str]) -> None:
    # It fails at the end of the bait; that it went there is the point.
    with suppress(av.FFmpegError), av.open(name, container_options=options, timeout=5.0):
        return


@pytest.mark.parametrize(("kind", "name"), [("hls", "input.m3u8"), ("concat", "input.ffconcat")])
def test_without_confinement_the_pipe_is_opened(
    kind: str, name: str, tmp_path: Path, trap: Bait
) -> None:
    """The witness works: the same files take FFmpeg to the bait when nothing holds it."""
    path = tmp_path / name
    path.write_bytes(SCRIPTS[kind](trap.pipe.name))
    _unconfined(str(path), {})
    wait_until(lambda: trap.taken() == {"pipe"}, "the pipe was opened")


def test_without_confinement_the_port_is_called(tmp_path: Path, trap: Bait) -> None:
    path = tmp_path / "input.ffconcat"
    path.write_bytes(_concat(f"tcp://127.0.0.1:{trap.port}"))
    allowed = {"safe": "0", "protocol_whitelist": "file,tcp"}
    caller = threading.Thread(target=_unconfined, args=(str(path), allowed))
    caller.start()
    wait_until(lambda: "port" in trap.taken(), "the port was called")
    caller.join()


def _url(target: str) -> bytes:
    """A data reference to somewhere else (ISO/IEC 14496-12, 8.7.2)."""
    body = bytes(4) + target.encode() + b"\0"
    return pack(">I4s", 8 + len(body), b"url ") + body


def _alias(target: str) -> bytes:
    """QuickTime's: an alias record with the path as its tag 18."""
    path = target.encode()
    record = bytes(10) + bytes(28) + bytes(12) + bytes(64) + bytes(16) + bytes(4) + bytes(16)
    tags = pack(">HH", 2, len(path)) + path + bytes(len(path) % 2)
    tags += pack(">HH", 18, len(path)) + path + bytes(len(path) % 2) + pack(">HH", 0xFFFF, 0)
    body = bytes(4) + record + tags
    return pack(">I4s", 8 + len(body), b"alis") + body


@pytest.mark.parametrize("entry", [_url, _alias])
def test_a_data_reference_is_not_followed(
    entry: Callable[[str], bytes], tmp_path: Path, trap: Bait
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    path = tmp_path / "input.mov"
    for target in (str(trap.pipe), f"file://{trap.pipe}", trap.url, "/etc/passwd"):
        path.write_bytes(Mp4(reference=entry(target)).build())
        outcome = examine(path, work)
        assert trap.taken() == set()
        # Only the file's own data can have been shown: it has all of it.
        assert outcome.partition(":")[0] in ("ok", "losses", "too_damaged", "not_a_video")


def test_an_alias_is_what_ffmpeg_would_follow_if_it_were_let(tmp_path: Path, trap: Bait) -> None:
    path = tmp_path / "input.mov"
    path.write_bytes(Mp4(reference=_alias(str(trap.pipe))).build())
    _unconfined(str(path), {"enable_drefs": "1", "use_absolute_path": "1"})
    wait_until(lambda: trap.taken() == {"pipe"}, "the pipe was opened")


def test_attachments_and_linked_segments_of_matroska_are_only_data(
    tmp_path: Path, trap: Bait
) -> None:
    """Names with paths, and the ids of a segment before and after, which players look for."""
    good = make_video(tmp_path / "good.mkv", CLIP)
    path = tmp_path / "input.mkv"
    with av.open(str(good)) as given, av.open(str(path), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        made.add_attachment(str(trap.pipe), "application/x-truetype-font", b"\0\1\0\0font")
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                made.mux(packet)
    linked = _linked(path.read_bytes(), str(trap.pipe))
    path.write_bytes(linked)
    work = tmp_path / "work"
    work.mkdir()
    assert examine(path, work) == "ok"
    assert trap.taken() == set()


def _linked(data: bytes, target: str) -> bytes:
    """PrevFilename and NextFilename (RFC 9559, 5.1.2) in place of the writing application."""
    place = data.index(b"\x57\x41")
    size = data[place + 2] & 0x7F
    name = target.encode()[-(size - 1) :]
    element = b"\x3e\x83\xbb" + bytes([0x80 | (size - 1)]) + name.rjust(size - 1, b"/")
    assert len(element) == size + 3
    return data[:place] + element + data[place + size + 3 :]


@pytest.mark.parametrize(
    "name",
    [
        *("%03d.mp4", "img%d.png.mp4", "-i.mp4", "--help", "-", "concat:a|b.mp4", "pipe:0"),
        *(
            "subfile,,start,0,end,9,,:x.mp4",
            "data:video,AAAA",
            "http:..example.mp4",
            "fd:",
            "*.mp4",
        ),
        *("a\nb.mp4", "\x1b[31mred.mp4", "{a,b}.mp4", "a?b#c.mp4", " .mp4", "crypto:x", "cache:x"),
        *("tee:x|y", "\udcff.mp4", "x" * 250, "file:x.mp4", "async:x", "ä\u202e4pm.exe.mp4"),
    ],
)
def test_a_name_is_only_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_video(tmp_path / "made.mp4", CLIP)
    folder = tmp_path / "folder"
    folder.mkdir()
    made.rename(folder / name)
    work = tmp_path / "work"
    work.mkdir()
    assert examine(folder / name, work) == "ok"
    monkeypatch.chdir(folder)
    with open_source(Path(name)) as source:
        assert source.streams.video


@pytest.mark.parametrize("name", ["a\nb.mp4", "\x1b[31mred.mp4", "\udcff.mp4", "a\rb.mp4"])
def test_a_name_does_not_break_the_sentence_about_its_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"This is a text.")
    with pytest.raises(DualfaceError) as caught:
        probe(path)
    assert caught.value.message.isprintable()
    assert "is a text file" in caught.value.message


def test_a_pipe_and_a_device_are_no_files(tmp_path: Path) -> None:
    """Opening either could block for ever, or never end."""
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/proc/self/fd")):
        with pytest.raises(PermanentError, match="is not a file"):
            probe(path)


def test_a_source_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    nothing = {kind: pack(">I4sII", 16, kind, 0, 0) for kind in (b"stts", b"stsc", b"stco")} | {
        b"stsz": pack(">I4sIII", 20, b"stsz", 0, 0, 0)
    }
    path.write_bytes(Mp4(tables=nothing).build())
    with pytest.raises(PermanentError) as caught:
        probe(path)
    assert caught.value.code is ErrorCode.TOO_DAMAGED
