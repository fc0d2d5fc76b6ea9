"""One patch's parameters as arrays of fixed shape, which travel to the device with the patch.

patch      int32 (5,): whether D, H and W are mirrored, then the elastic noise's seed
channels   int32 (C, BOXES + 6 K): the columns below, then K boxes (d0, h0, w0, d1, h1, w1), empty ones last
tables     float32 (C, TABLE_STEPS + 1): each channel's curve, see cpu.curve_table

Seeds are two 32-bit words, low and high, whose bits an int32 holds.
"""

from __future__ import annotations

import numpy as np

from data_loading.hashing import words
from pretraining.genesis.cpu import TABLE_STEPS, curve_table
from pretraining.genesis.sampling import Drawn, DrawnChannel, GenesisSettings

ELASTIC = 3  # column of ``patch``
SHUFFLED, SHUFFLE_SEED, BENT, PAINTED, PAINT_SEED, BOXES = 0, 1, 3, 4, 5, 7  # columns of ``channels``
INSIDE, AROUND = 1, 2  # values of PAINTED: noise in the boxes, or everywhere else


def most_boxes(settings: GenesisSettings) -> int:
    """K, the most blocks that a painting can have."""
    return max(settings.inpaint_blocks, settings.outpaint_blocks)


def pack(drawn: Drawn, settings: GenesisSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(patch, channels, tables), see above."""
    patch = np.zeros(ELASTIC + 2, np.int32)
    patch[list(drawn.flip_axes)] = 1
    patch[ELASTIC:] = _words(drawn.elastic or 0)
    channels = np.zeros((len(drawn.channels), BOXES + 6 * most_boxes(settings)), np.int32)
    tables = np.zeros((len(drawn.channels), TABLE_STEPS + 1), np.float32)
    for row, table, channel in zip(channels, tables, drawn.channels, strict=True):
        _pack_channel(channel, row, table)
    return patch, channels, tables


def _pack_channel(channel: DrawnChannel, row: np.ndarray, table: np.ndarray) -> None:
    if channel.shuffle is not None:
        row[SHUFFLED], row[SHUFFLE_SEED : SHUFFLE_SEED + 2] = 1, _words(channel.shuffle)
    if channel.curve is not None:
        row[BENT], table[:] = 1, curve_table(*channel.curve.control, channel.curve.inverted)
    if channel.painting is not None:
        boxes = np.array(channel.painting.boxes, np.int32).ravel()
        row[PAINTED] = AROUND if channel.painting.show else INSIDE
        row[PAINT_SEED : PAINT_SEED + 2] = _words(channel.painting.seed)
        row[BOXES : BOXES + len(boxes)] = boxes


def _words(seed: int) -> np.ndarray:
    return np.array(words(seed), np.uint32).view(np.int32)
