"""How many engines a GPU has, as the codecs' library tells."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from shared.cuda import nvcodec
from shared.cuda.counts import decoding_engines, encoding_engines
from shared.cuda.own import pin
from shared.errors import EngineError
from shared.settings import Settings


@pytest.mark.usefixtures("doubles")
def test_engines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (decoding_engines(), encoding_engines()) == (1, 1)
    monkeypatch.setenv("DOUBLE_NVDEC_ENGINES", "7")
    monkeypatch.setenv("DOUBLE_NVENC_ENGINES", "3")
    assert (decoding_engines(), encoding_engines()) == (7, 3)
    monkeypatch.setenv("DOUBLE_NO_NVENC", "1")
    assert encoding_engines() is None


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("told", [{}, {"num_decoder_engines": 0, "num_encoder_engines": 0}])
def test_a_library_that_does_not_count_them_is_no_error(
    told: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvc = nvcodec.library()
    for name in ("GetDecoderCaps", "GetEncoderCaps"):
        monkeypatch.setattr(nvc, name, _answering(told))
    assert (decoding_engines(), encoding_engines()) == (None, None)


def test_without_the_library_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise EngineError("not installed")

    monkeypatch.setattr(nvcodec, "library", missing)
    assert (decoding_engines(), encoding_engines()) == (None, None)


def test_a_process_sees_its_own_gpu_and_counts_as_nvml_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")
    pin(Settings(gpu_device="GPU-1"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def _answering(told: dict[str, int]) -> Callable[..., Any]:
    return lambda *_: told
