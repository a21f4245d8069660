"""A double of PyNvVideoCodec for machines without a GPU: what our engines use of its public API.

Pictures are decoded and encoded by FFmpeg's software, out of and into the device memory of the
double of CuPy. As in the real one, memory of a frame is written over by the next Decode, pictures
of another size are scaled to the first one's unless the decoder was told, a decoder has surfaces
for the first stream of a size and no more for the next, encoders give packets late, and errors are
told by numbers in texts, but for CreateDecoder, which ends the process where CUDA does not work.

Set from outside, beside what `cupy/_driver.py` says:
  DOUBLE_NVDEC_SESSIONS   decoders that one process may have open at a time (32)
  DOUBLE_NVENC_SESSIONS   encoders, likewise (8)
  DOUBLE_NVDEC_ENGINES, DOUBLE_NVENC_ENGINES  engines of the GPU (1)
  DOUBLE_NVDEC_CODECS     what can be decoded (H264,HEVC,VP9,AV1)
  DOUBLE_NO_NVENC         1: a GPU without an encoder
  DOUBLE_NVENC_GOES_ON    after a flush: 1 it does, 0 it gives nothing any more, error
  DOUBLE_FAULTS           `nvdec=N`, `nvenc=N`: the N-th frame of the process fails;
                          `nvdec-lost=N`, `nvenc-lost=N`: and takes the context with it
"""

# ruff: noqa: N999

from __future__ import annotations

from PyNvVideoCodec._decoder import (
    CreateDecoder,
    DecodedFrame,
    DisplayDecodeLatencyType,
    GetDecoderCaps,
    OutputColorType,
    PacketData,
    Pixel_Format,
    PyNvDecoder,
    VideoPacketFlag,
    cudaVideoChromaFormat,
    cudaVideoCodec,
)
from PyNvVideoCodec._encoder import (
    CreateEncoder,
    GetEncoderCaps,
    PyNvEncoder,
)
from PyNvVideoCodec._faults import PyNvVCException, PyNvVCExceptionUnsupported, need_driver

__version__ = "2.2.4"
__all__ = [
    "CreateDecoder",
    "CreateEncoder",
    "DecodedFrame",
    "DisplayDecodeLatencyType",
    "GetDecoderCaps",
    "GetEncoderCaps",
    "OutputColorType",
    "PacketData",
    "Pixel_Format",
    "PyNvDecoder",
    "PyNvEncoder",
    "PyNvVCException",
    "PyNvVCExceptionUnsupported",
    "VideoPacketFlag",
    "cudaVideoChromaFormat",
    "cudaVideoCodec",
]

need_driver()
