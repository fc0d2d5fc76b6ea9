"""Boxes, padding, and both ways back."""

import numpy as np

from data_preprocessing.crop import crop, nonzero_box, pad_to
from tests.data_preprocessing.oracles import uncrop, unpad


def test_box_holds_every_channel_and_negative_values():
    image = np.zeros((2, 12, 16, 20), np.float32)
    image[0, 3, 4, 5], image[1, 8, 2, 17] = 1, -1
    box = nonzero_box(image)
    assert box == ((3, 2, 5), (9, 5, 18))
    assert np.array_equal(uncrop(crop(image, box), box, image.shape[1:]), image)
    assert nonzero_box(image * 0) == ((0, 0, 0), (12, 16, 20))


def test_padding_is_even_with_the_odd_zero_behind_and_comes_off():
    array = np.arange(1, 12 * 16 * 20 + 1).reshape(1, 12, 16, 20)
    padded, before = pad_to(array, (15, 8, 22))
    assert padded.shape == (1, 15, 16, 22) and before == (1, 0, 1)
    assert padded.sum() == array.sum()
    assert np.array_equal(unpad(padded, before, (12, 16, 20)), array)
    assert pad_to(array, (1, 1, 1))[0] is array
