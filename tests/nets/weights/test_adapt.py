import pytest
import torch
from torch.nn.functional import conv2d, conv3d, conv_transpose2d, conv_transpose3d

from nets.weights.adapt import adapt_conv, adapt_up, adapt_vector


def middle(x):
    """Away from the zero padding."""
    return x[(..., *(slice(3, -3),) * (x.ndim - 2))]


def volume(channels=4):
    return torch.randn(1, channels, 12, 16, 20)


def flat(channels=4):
    """Constant along depth."""
    return torch.randn(1, channels, 1, 16, 20).expand(-1, -1, 12, -1, -1)


@pytest.mark.parametrize("sides", [(1, 3, 3), (3, 3, 3), (1, 1, 1)])
def test_a_smaller_kernel_answers_a_constant_alike(sides):
    source = torch.randn(5, 4, 7, 3, 3)
    fitted, used = adapt_conv(source, torch.randn(5, 4, *sides))
    assert fitted.shape == (5, 4, *sides)
    assert used == fitted.numel()
    x = torch.full((1, 4, 12, 16, 20), 0.7) if sides[1] == 1 else flat()
    padding = tuple(k // 2 for k in sides)
    torch.testing.assert_close(
        middle(conv3d(x, fitted, padding=padding)), middle(conv3d(x, source, padding=(3, 1, 1))), atol=1e-4, rtol=1e-4
    )


def test_a_larger_kernel_answers_everything_alike():
    source = torch.randn(5, 4, 1, 3, 3)
    fitted, _ = adapt_conv(source, torch.randn(5, 4, 3, 3, 3))
    x = volume()
    torch.testing.assert_close(conv3d(x, fitted, padding=1), conv3d(x, source, padding=(0, 1, 1)))


def test_3d_to_2d_answers_a_constant_along_depth_alike():
    source = torch.randn(5, 4, 3, 3, 3)
    fitted, _ = adapt_conv(source, torch.randn(5, 4, 3, 3))
    x = flat()
    in_2d = conv2d(x[:, :, 0], fitted, padding=1)
    torch.testing.assert_close(conv3d(x, source, padding=1)[:, :, 5], in_2d, atol=1e-4, rtol=1e-4)


def test_2d_to_3d_is_repeated_along_depth():
    source = torch.randn(5, 4, 3, 3)
    fitted, _ = adapt_conv(source, torch.randn(5, 4, 3, 3, 3))
    x = flat()
    in_3d = conv3d(x, fitted, padding=1)[:, :, 5]
    torch.testing.assert_close(in_3d, conv2d(x[:, :, 0], source, padding=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(adapt_conv(source, torch.zeros(5, 4, 1, 3, 3))[0], source[:, :, None])


@pytest.mark.parametrize(("theirs", "ours"), [(1, 3), (4, 1), (4, 2)])
def test_equal_image_channels_answer_alike(theirs, ours):
    source = torch.randn(5, theirs, 3, 3, 3)
    fitted, used = adapt_conv(source, torch.randn(5, ours, 3, 3, 3), image=True)
    assert used == fitted.numel()
    x = volume(1)
    expected = conv3d(x.expand(-1, theirs, -1, -1, -1), source)
    torch.testing.assert_close(conv3d(x.expand(-1, ours, -1, -1, -1), fitted), expected, atol=1e-4, rtol=1e-4)


def test_old_outputs_of_a_wider_layer_do_what_they_did():
    source, target = torch.randn(5, 4, 3, 3, 3), torch.randn(8, 6, 3, 3, 3)
    fitted, used = adapt_conv(source, target)
    x = volume(6)
    torch.testing.assert_close(conv3d(x, fitted)[:, :5], conv3d(x[:, :4], source), atol=1e-4, rtol=1e-4)
    assert fitted[5:].equal(target[5:])
    assert used == 5 * 6 * 27


def test_a_narrower_layer_keeps_the_first_channels():
    source = torch.randn(5, 4, 3, 3)
    fitted, used = adapt_conv(source, torch.randn(3, 2, 3, 3))
    assert fitted.equal(source[:3, :2])
    assert used == fitted.numel()


def test_parts_of_a_concatenation_are_fitted_apart():
    source = torch.randn(5, 6 + 3, 3, 3)
    fitted, used = adapt_conv(source, torch.randn(5, 4 + 4, 3, 3), parts=[(6, 4), (3, 4)])
    assert fitted[:, :4].equal(source[:, :4])
    assert fitted[:, 4:7].equal(source[:, 6:])
    assert fitted[:, 7].abs().max() == 0
    assert used == fitted.numel()


def test_up_sampling_of_a_constant_is_kept():
    source = torch.randn(4, 5, 2, 2, 2)
    x = flat()
    flatter, _ = adapt_up(source, torch.randn(4, 5, 1, 2, 2))
    by_mean = conv_transpose3d(x, source, stride=2).unflatten(2, (12, 2)).mean(3)
    torch.testing.assert_close(conv_transpose3d(x, flatter, stride=(1, 2, 2)), by_mean, atol=1e-4, rtol=1e-4)
    in_2d, _ = adapt_up(source, torch.randn(4, 5, 2, 2))
    torch.testing.assert_close(conv_transpose2d(x[:, :, 0], in_2d, stride=2), by_mean[:, :, 0], atol=1e-4, rtol=1e-4)
    back, used = adapt_up(in_2d, torch.randn(4, 5, 2, 2, 2))
    torch.testing.assert_close(back[:, :, 0], in_2d)
    torch.testing.assert_close(back[:, :, 1], in_2d)
    assert used == source.numel()


def test_a_wider_up_sampling_keeps_the_old_one():
    source, target = torch.randn(4, 5, 2, 2, 2), torch.randn(6, 7, 2, 2, 2)
    fitted, used = adapt_up(source, target)
    x = volume(6)
    torch.testing.assert_close(
        conv_transpose3d(x, fitted, stride=2)[:, :5], conv_transpose3d(x[:, :4], source, stride=2)
    )
    assert used == 6 * 5 * 8


def test_vectors_keep_the_start_of_new_channels():
    fitted, used = adapt_vector(torch.tensor([1.0, 2.0]), torch.tensor([7.0, 8.0, 9.0]))
    assert fitted.tolist() == [1.0, 2.0, 9.0]
    assert used == 2
