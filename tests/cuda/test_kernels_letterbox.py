"""Pictures for a model, made on the GPU: those that the detector on the CPU makes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from services.infer.engines.letterbox import Letterbox
from services.infer.engines.onnx_cpu import _shrink
from shared.cuda.device import Device
from shared.media.layout import FrameLayout, PixelFormat, Planes
from shared.models import ENTRIES, ModelEntry
from tests.cuda.guarded import Array, fetched, frame_on, sent

# ITU-R BT.601-7, limited range, from its luma coefficients.
KR, KB = 0.299, 0.114
CHANNELS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}


def entry(channels: str = "BGR", scale: float = 1.0, mean: float = 0.0) -> ModelEntry:
    """A model that wants its input like this."""
    first = ENTRIES[0]
    wants = {"channels": channels, "scale": scale, "mean": (mean, mean + 1, mean + 2)}
    return first.model_copy(update=wants)


def frame(layout: FrameLayout, kind: str) -> Planes:
    """Host planes: noise, or soft shapes as of a real picture."""
    rng = np.random.default_rng(layout.width)
    planes = layout.planes(rng.integers(0, 256, layout.frame_bytes, np.uint8))
    if kind == "soft":
        planes = tuple(np.asarray(cv2.GaussianBlur(p, (0, 0), 3), np.uint8) for p in planes)
        planes[0][:, : layout.width // 3] >>= 1
    return planes


def by_the_cpu(planes: Planes, layout: FrameLayout, w: int, h: int, model: ModelEntry) -> Array:
    """(3, h, w): the CPU's small planes, in the model's channels."""
    y, u, v = _shrink(planes, layout, w, h).astype(np.float64)
    y, u, v = (y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224
    red, blue = y + 2 * (1 - KR) * v, y + 2 * (1 - KB) * u
    green = (y - KR * red - KB * blue) / (1 - KR - KB)
    rgb = (red, green, blue)
    picked = np.stack([rgb[i] for i in CHANNELS[model.channels]])
    result: Array = (picked - np.array(model.mean)[:, None, None]) * model.scale
    return result


# Frames, and the picture a model sees of them: halved 0 to 4 times, enlarged, odd, tall.
SIZES = [
    ((640, 360), (320, 180)),
    ((641, 361), (320, 180)),
    ((1280, 720), (320, 180)),
    ((853, 479), (256, 144)),
    ((200, 120), (320, 192)),
    ((360, 640), (180, 320)),
    ((1027, 771), (64, 48)),
    ((67, 45), (32, 21)),
]


@pytest.mark.parametrize("kind", ["noise", "soft"])
@pytest.mark.parametrize(("size", "look"), SIZES)
def test_the_models_input_is_that_of_the_cpu_to_two_of_255(
    device: Device, size: tuple[int, int], look: tuple[int, int], kind: str
) -> None:
    layout = FrameLayout(width=size[0], height=size[1], format=PixelFormat.NV12)
    planes, model, (w, h) = frame(layout, kind), entry(), look
    wide, high = w + 13, h + 5
    batch = sent(device, np.full((3, 3, high, wide), 7777, np.float32))
    Letterbox(device, model).fill(frame_on(device, layout, planes), layout, w, h, batch, 1)
    made = fetched(device, batch)
    assert np.abs(made[1, :, :h, :w] - by_the_cpu(planes, layout, w, h, model)).max() <= 2
    black = -np.array(model.mean, np.float32)[:, None, None]
    assert (made[1, :, h:] == black).all()
    assert (made[1, :, :, w:] == black).all()
    assert (made[[0, 2]] == 7777).all(), "another picture of the batch was written"


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize(("scale", "mean"), [(1.0, 0.0), (1 / 128, 127.5), (1 / 255, 0.0)])
def test_channels_scale_and_mean_are_the_models(
    device: Device, kind: str, channels: str, scale: float, mean: float
) -> None:
    layout = FrameLayout(width=320, height=180, format=PixelFormat.NV12)
    planes, model = frame(layout, "noise"), entry(channels, scale, mean)
    batch = sent(device, np.zeros((1, 3, 96, 160), kind))
    Letterbox(device, model).fill(frame_on(device, layout, planes), layout, 160, 90, batch, 0)
    made = fetched(device, batch).astype(np.float64)[0]
    expected = by_the_cpu(planes, layout, 160, 90, model)
    assert np.abs(made[:, :90] - expected).max() <= 2 * scale
    black = -np.array(model.mean)[:, None, None] * scale
    assert np.abs(made[:, 90:] - black).max() <= 0.13 * scale


def test_planes_layout_and_batch_that_do_not_fit_are_refused(device: Device) -> None:
    layout = FrameLayout(width=64, height=36, format=PixelFormat.NV12)
    planes = layout.planes(device.empty((layout.frame_bytes,)))
    box, batch = Letterbox(device, entry()), device.empty((2, 3, 32, 64), "float32")
    with pytest.raises(ValueError, match="no picture 2"):
        box.fill(planes, layout, 32, 18, batch, 2)
    with pytest.raises(ValueError, match="do not fit"):
        box.fill(planes, layout, 65, 18, batch, 0)
    with pytest.raises(ValueError, match="not NV12"):
        box.fill(planes, FrameLayout(width=66, height=36, format=PixelFormat.NV12), 8, 8, batch, 0)
    with pytest.raises(ValueError, match="float64"):
        box.fill(planes, layout, 32, 18, device.empty((1, 3, 32, 64), "float64"), 0)
