"""Preprocessing backwards, plainly, to compare with."""

import numpy as np

from data_preprocessing.crop import crop


def uncrop(array, box, shape_dhw, fill=0):
    """Put ``array`` back where ``crop`` took it from, ``fill`` around it."""
    whole = np.full((*array.shape[:-3], *shape_dhw), fill, array.dtype)
    crop(whole, box)[...] = array
    return whole


def unpad(array, before, shape_dhw):
    """The part that ``pad_to`` put zeros around."""
    (d, h, w), (depth, height, width) = before, shape_dhw
    return array[..., d : d + depth, h : h + height, w : w + width]
