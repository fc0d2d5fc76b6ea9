import torch

from cases.plan import topology
from nets.encoders.unet import UNetEncoder
from nets.heads import ClassificationHead, Classifier, TwoHeaded, global_features

FILTERS = (4, 6, 8, 10, 12, 12)


def make_encoder(patch=(12, 16, 20)):
    return UNetEncoder(1, topology(patch, (1.0,) * len(patch), filters=FILTERS))


def test_classifier_takes_2d_and_3d():
    for patch in ((12, 16, 20), (16, 20)):
        for hidden in (None, 7):
            encoder = make_encoder(patch)
            net = Classifier(encoder, 5, hidden=hidden)
            assert net(torch.randn(2, 1, *patch)).shape == (2, 5)
            assert net.head.linear.in_features == (hidden or encoder.channels[-1])


def test_the_convolution_head_is_the_published_one():
    head = ClassificationHead(8, 3, hidden=16, convolution=True).eval()
    assert head.conv.conv.weight.shape == (16, 8, 3, 3, 3)
    x = torch.randn(2, 8, 4, 5, 6)
    by_hand = torch.relu(head.conv.norm_act.norm(head.conv.conv(x))).mean((2, 3, 4))
    torch.testing.assert_close(head(x), head.linear(by_hand))


class Halves(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = make_encoder()

    def skips(self, x):
        return self.encoder(x)

    def decode(self, skips):
        return (skips[0],)


def test_two_heads_share_the_bottleneck():
    halves = Halves()
    net = TwoHeaded(halves, ClassificationHead(halves.encoder.channels[-1], 5))
    x = torch.randn(2, 1, 12, 16, 20)
    restored, scores = net(x)
    assert restored.shape == (2, 4, 12, 16, 20)
    nothing, alone = net(x, decoder=False)
    assert nothing is None
    torch.testing.assert_close(scores, alone)
    vector = global_features(halves.encoder(x)[-1])
    torch.testing.assert_close(net.head.linear(vector), scores)
