"""Networks of this program, from its checkpoints: for segmentation, classification, restoration or two of them."""

from __future__ import annotations

from torch import Tensor, nn

from nets.build import build_classifier, build_network
from nets.heads import ClassificationHead, TwoHeaded
from nets.weights.formats.base import WeightFormat
from nets.weights.own import plan_and_network
from nets.weights.reading import Weights


def _blank(weights: Weights) -> nn.Module:
    plan, choice = plan_and_network(weights.path, weights.content)
    last = next((name for name in ("conv_seg.6.weight", "heads.0.weight") if name in weights.tensors), None)
    if last is None:
        n_class, hidden = weights.shape("head.linear.weight")
        return build_classifier(plan, choice, n_class, hidden=_hidden(weights.tensors, hidden))
    net = build_network(plan, choice, out_channels=weights.shape(last)[0])
    if "head.linear.weight" not in weights.tensors:
        return net
    n_class, hidden = weights.shape("head.linear.weight")
    convolution = "head.conv.conv.weight" in weights.tensors
    head = ClassificationHead(
        net.encoder.channels[-1],
        n_class,
        dim=plan.dim,
        hidden=hidden if convolution else _hidden(weights.tensors, hidden),
        convolution=convolution,
    )
    return TwoHeaded(net, head)


def _hidden(tensors: dict[str, Tensor], width: int) -> int | None:
    return width if "head.dense.0.weight" in tensors else None


OWN = WeightFormat(
    title="a network of this program",
    recognises=lambda keys: any(".norm_act." in key for key in keys),
    rules=lambda keys: [(r"((?:encoder|decoder|heads|head|conv_seg)\..+)", r"\1")],
    blank=_blank,
)
