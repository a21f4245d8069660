"""The room of the sample video: what stands still. Drawn once, from nothing but a seed."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
_Float = npt.NDArray[np.float32]
_Colour = tuple[float, float, float]

TABLE_TOP = 0.83
"""Where the table begins, as a fraction of the picture's height."""


def draw_room(width: int, height: int, seed: int) -> Image:
    """BGR (height, width, 3): wall, window, shelf, picture frame; a little out of focus."""
    rng = np.random.default_rng((seed, 1))
    room = _wall(width, height, rng)
    unit = min(width / 16, height / 9)
    _window(room, (0.37 * width, 0.08 * height), (0.17 * width, 0.42 * height), unit, rng)
    _shelf(room, (0.015 * width, 0.12 * height), (0.15 * width, 0.5 * height), unit, rng)
    _painting(room, (0.84 * width, 0.12 * height), (0.13 * width, 0.27 * height), unit, rng)
    _socle(room, unit)
    blurred = cv2.GaussianBlur(room, (0, 0), unit / 22)
    grain = _smooth_noise(width, height, 1.2, rng)[..., None] * 1.5
    return np.asarray(np.clip(blurred + grain, 0, 255), dtype=np.uint8)


def draw_table(width: int, rows: int, seed: int) -> Image:
    """BGR (rows, width, 3): a wooden table as seen from before it, with a mug on it."""
    rng = np.random.default_rng((seed, 2))
    raw = rng.normal(0, 1, (rows, width)).astype(np.float32)
    streaks = cv2.GaussianBlur(raw, (0, 0), sigmaX=width / 14, sigmaY=1.0)
    grain = streaks / max(float(np.std(streaks)), 1e-6)
    depth = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    side = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    light = 1.12 - 0.32 * depth - 0.12 * side**2 + 0.05 * grain
    table = np.array((62, 92, 138), dtype=np.float32) * light[..., None]
    edge = max(2, rows // 28)
    table[:edge] *= 1.35
    table[edge : 2 * edge] *= 0.8
    _mug(table, (0.52 * width, 0.13 * rows), rows * 0.3)
    return np.asarray(np.clip(table, 0, 255), dtype=np.uint8)


def _smooth_noise(width: int, height: int, sigma_px: float, rng: np.random.Generator) -> _Float:
    """(height, width) with standard deviation 1."""
    noise = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), sigma_px)
    return np.asarray(noise / max(float(noise.std()), 1e-6), dtype=np.float32)


def _wall(width: int, height: int, rng: np.random.Generator) -> _Float:
    """Plaster, brightest beside the window."""
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    light = 1.06 - 0.22 * y - 0.55 * (x - 0.45) ** 2
    light = light + 0.018 * _smooth_noise(width, height, max(2.0, width / 50), rng)
    return np.asarray(np.array((158, 176, 184), dtype=np.float32) * light[..., None])


def _fill(room: _Float, x: float, y: float, w: float, h: float, colour: _Colour) -> None:
    cv2.rectangle(
        room, (round(x), round(y)), (round(x + w) - 1, round(y + h) - 1), colour, cv2.FILLED
    )


def _window(
    room: _Float,
    at: tuple[float, float],
    size: tuple[float, float],
    unit: float,
    rng: np.random.Generator,
) -> None:
    """Sky and far trees behind a white frame with a cross."""
    (x, y), (w, h) = at, size
    left, top, cols, rows = round(x), round(y), round(w), round(h)
    fade = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    high, low = np.array((246, 226, 200), np.float32), np.array((236, 238, 232), np.float32)
    view = np.repeat(high * (1 - fade) + low * fade, cols, axis=1)
    leaves = _smooth_noise(cols, rows, max(1.5, unit / 14), rng)
    horizon = 0.62 + 0.05 * _smooth_noise(cols, 1, max(1.5, cols / 12), rng)[0]
    trees = np.linspace(0, 1, rows)[:, None] > horizon[None, :]
    green = np.array((112, 158, 128), np.float32) + 16 * leaves[..., None]
    view[trees] = green[trees]
    room[top : top + rows, left : left + cols] = view[: room.shape[0] - top, : room.shape[1] - left]
    frame = (214.0, 222.0, 226.0)
    bar = 0.13 * unit
    _fill(room, x + w / 2 - bar / 2, y, bar, h, frame)
    _fill(room, x, y + 0.4 * h, w, bar, frame)
    for rect in ((x - bar, y - bar, w + 2 * bar, bar), (x - bar, y + h, w + 2 * bar, bar)):
        _fill(room, *rect, frame)
    for edge in (x - bar, x + w):
        _fill(room, edge, y, bar, h, frame)
    _fill(room, x - 3 * bar, y + h + bar, w + 6 * bar, 1.2 * bar, (196.0, 206.0, 212.0))


def _shelf(
    room: _Float,
    at: tuple[float, float],
    size: tuple[float, float],
    unit: float,
    rng: np.random.Generator,
) -> None:
    """Three boards of books."""
    (x, y), (w, h) = at, size
    _fill(room, x, y, w, h, (52.0, 70.0, 92.0))
    colours = rng.integers(45, 165, (200, 3)).astype(float)
    board, count = 0.1 * unit, 0
    for level in range(3):
        floor, room_above = y + (level + 1) * h / 3 - board, h / 3 - 2 * board
        along = x + board
        while along < x + w - 2.5 * board:
            thick = min(float(rng.uniform(0.1, 0.26)) * unit, x + w - board - along)
            tall = room_above * float(rng.uniform(0.62, 0.94))
            b, g, r = colours[count % len(colours)]
            _fill(room, along, floor - tall, thick - 0.02 * unit, tall, (b, g, r))
            _fill(
                room,
                along,
                floor - 0.8 * tall,
                thick - 0.02 * unit,
                0.05 * tall,
                (b + 50, g + 50, r + 50),
            )
            along, count = along + thick, count + 1
        _fill(room, x, floor, w, board, (74.0, 98.0, 126.0))


def _painting(
    room: _Float,
    at: tuple[float, float],
    size: tuple[float, float],
    unit: float,
    rng: np.random.Generator,
) -> None:
    """An abstract landscape in a dark frame."""
    (x, y), (w, h) = at, size
    _fill(room, x + 0.06 * unit, y + 0.08 * unit, w, h, (120.0, 134.0, 140.0))
    _fill(room, x, y, w, h, (44.0, 52.0, 60.0))
    rim = 0.12 * unit
    left, top, cols, rows = (round(v) for v in (x + rim, y + rim, w - 2 * rim, h - 2 * rim))
    waves = _smooth_noise(cols, rows, max(2.0, cols / 9), rng)
    tone = np.linspace(-1.5, 1.5, rows, dtype=np.float32)[:, None] + 0.7 * waves
    sky, land = np.array((178, 150, 116), np.float32), np.array((70, 120, 168), np.float32)
    mix = (1 / (1 + np.exp(-4 * tone)))[..., None]
    room[top : top + rows, left : left + cols] = sky * (1 - mix) + land * mix


def _socle(room: _Float, unit: float) -> None:
    """Skirting board and floor."""
    height, width = room.shape[:2]
    _fill(room, 0, 0.78 * height, width, 0.12 * unit, (196.0, 206.0, 210.0))
    _fill(room, 0, 0.78 * height + 0.12 * unit, width, height, (84.0, 104.0, 124.0))


def _mug(table: _Float, at: tuple[float, float], tall: float) -> None:
    """A white mug with its shadow on the table."""
    x, y = at
    wide = 0.8 * tall
    shade = np.ones(table.shape[:2], dtype=np.float32)
    centre = (round(x + 0.45 * wide), round(y + tall))
    cv2.ellipse(
        shade, centre, (round(0.95 * wide), round(0.16 * tall)), 0, 0, 360, 0.55, cv2.FILLED
    )
    table *= cv2.GaussianBlur(shade, (0, 0), max(1.0, tall / 14))[..., None]
    across = np.linspace(-1, 1, max(2, round(wide)), dtype=np.float32)
    body = (
        np.array((206, 214, 220), np.float32)
        * (1 - 0.35 * across**2 - 0.12 * across)[None, :, None]
    )
    top, left = round(y), round(x - wide / 2)
    rows = min(round(tall), table.shape[0] - top)
    table[top : top + rows, left : left + body.shape[1]] = body
    axes = (body.shape[1] // 2, round(0.1 * tall))
    cv2.ellipse(table, (round(x), top + rows), axes, 0, 0, 180, (168.0, 178.0, 186.0), cv2.FILLED)
    cv2.ellipse(table, (round(x), top), axes, 0, 0, 360, (60.0, 78.0, 96.0), cv2.FILLED)
    handle = (round(x + 0.55 * wide), round(y + 0.5 * tall))
    ring = (round(0.2 * wide), round(0.28 * tall))
    cv2.ellipse(
        table, handle, ring, 0, -100, 100, (186.0, 194.0, 200.0), max(2, round(0.09 * wide))
    )
