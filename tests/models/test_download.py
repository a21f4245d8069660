"""Models from addresses, with real servers and real TLS."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import ErrorCode, PermanentError
from shared.models import cache, download, locate, pull
from shared.models.added import save
from shared.models.download import PIECE_BYTES
from shared.models.draft import draft
from tests.models.test_added import entry
from tests.websites import Asked, Website, Wire, make_authority, website

DATA = bytes(range(256)) * 8192 + b"!"


@pytest.fixture
def site(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Website]:
    """A server whose authority this process trusts; its model lies at /model."""
    authority = make_authority(tmp_path_factory.mktemp("tls"))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    monkeypatch.setenv("no_proxy", "*")
    with website(authority) as made:
        made.scripts["/model"] = lambda _, wire: wire.answer("200 OK", DATA)
        yield made


def address(site: Website, path: str = "/model") -> str:
    return f"https://127.0.0.1:{site.port}{path}"


def fetched(url: str) -> bytes:
    return b"".join(download.download(url, "do without"))


def refusal(url: str) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        fetched(url)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_file_comes_in_pieces(site: Website) -> None:
    pieces = list(download.download(address(site), "do without"))
    assert b"".join(pieces) == DATA
    assert max(map(len, pieces)) <= PIECE_BYTES < len(DATA)


def test_only_https_is_asked_and_followed(site: Website) -> None:
    there = address(site, "/there")
    site.scripts["/moved"] = lambda _, wire: wire.answer("302 Found", location="/model")
    site.scripts["/http"] = lambda _, wire: wire.answer(
        "302 Found", location=address(site).replace("https", "http")
    )
    site.scripts["/file"] = lambda _, wire: wire.answer("302 Found", location="file:///etc/passwd")
    assert fetched(address(site, "/moved")) == DATA
    for path in ("/http", "/file"):
        error = refusal(address(site, path))
        assert error.code is ErrorCode.MODEL_MISSING
    assert [asked.path for asked in site.asked].count("/model") == 1
    for url in (there.replace("https", "http"), "file:///etc/passwd", "ftp://127.0.0.1/model"):
        assert refusal(url).code is ErrorCode.BAD_OPTION


@pytest.mark.parametrize("told", [True, False])
def test_what_is_too_large_is_not_fetched_to_its_end(
    site: Website, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    def endless(_: Asked, wire: Wire) -> None:
        length = {"content_length": str(1 << 40)} if told else {}
        wire.head("200 OK", **length)
        wire.trickle(b"x" * 4096)

    site.scripts["/endless"] = endless
    monkeypatch.setattr("shared.models.draft.MODEL_BYTES_MAX", 1 << 14)
    monkeypatch.setattr(download, "PIECE_BYTES", 1 << 12)
    with pytest.raises(PermanentError) as caught, draft(tmp_path) as file:
        file.write(download.download(address(site, "/endless"), "do without"))
    assert caught.value.code is ErrorCode.TOO_LARGE
    assert list(tmp_path.iterdir()) == []


def test_whatever_goes_wrong_is_one_sentence_with_the_address(site: Website) -> None:
    def cut_off(_: Asked, wire: Wire) -> None:
        wire.head("200 OK", content_length="1000")
        wire.send(b"x" * 10)

    site.scripts |= {"/cut": cut_off, "/nothing": lambda *_: None}
    site.scripts["/odd"] = lambda _, wire: wire.send("HELO\r\n")
    for path in ("/cut", "/nothing", "/odd", "/missing"):
        error = refusal(address(site, path))
        assert error.code is ErrorCode.MODEL_MISSING
        assert error.message.startswith(address(site, path))
        assert error.message.endswith("; do without")
    assert refusal("https://127.0.0.1:9/model").code is ErrorCode.MODEL_MISSING


def test_a_server_that_nobody_vouches_for_is_not_believed(
    site: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert re.search("certificate", refusal(address(site)).message)


def test_an_added_model_is_pulled_again_from_its_address_if_it_is_still_the_same(
    site: Website, tmp_path: Path
) -> None:
    made = entry("mine", DATA, address(site))
    with draft(tmp_path) as file:
        file.write([DATA])
        path = save(made, file)
    path.write_bytes(b"damaged")
    assert pull("mine", tmp_path) == path == locate("mine", tmp_path)
    assert path.read_bytes() == DATA
    path.unlink()
    site.scripts["/model"] = lambda _, wire: wire.answer("200 OK", b"another")
    with pytest.raises(PermanentError) as caught:
        pull("mine", tmp_path)
    assert caught.value.code is ErrorCode.MODEL_DAMAGED
    assert not path.exists()


def test_a_built_in_model_comes_from_its_address_with_a_receipt(
    site: Website, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = cache.FromUrl(url=address(site))
    built_in = entry("toy", DATA).model_copy(update={"origin": origin})
    monkeypatch.setattr(cache, "entry_of", lambda *_: built_in)
    assert pull("toy", tmp_path).read_bytes() == DATA
    receipt = cache.Receipt.model_validate_json((tmp_path / "toy.onnx.json").read_text())
    assert receipt.source_sha256 == receipt.file_sha256 == hashlib.sha256(DATA).hexdigest()
    assert {path.name for path in tmp_path.iterdir()} == {
        "toy.onnx",
        "toy.onnx.json",
        ".toy.onnx.lock",
    }
