"""What the whole picture says about the classes in it: logits that are added to those of every anchor of a YOLO head.

When noise, blur or darkness destroys an object, the scene around it still says what it may be. Akumalla, Haney and
Bazhenov, "Contextual Fusion For Adversarial Robustness" (2020), put one layer on the features of two networks, one that
looks at the object and one that looks at the scene. At an anchor a of a YOLO head that layer is

    logit_c(a) = w_fg,c . f(a) + b_c  +  w_bg,c . s(picture)

The first part is the last class convolution of the head as it is, the second is this module. It says what is in
the picture, never where: boxes and masks are untouched. `yolo.context` puts it beside the layers of a model.

The import path `yolo_wnlb.scene.Scene` is written into checkpoints: it never changes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BACKBONE = "backbone"  # the other choice beside the ResNets: the features that the detector has anyway
BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}  # of each stage
ARCHS = (*BLOCKS, BACKBONE)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
SIDE = 224  # pixels


class Scene(nn.Module):
    """Features of a whole picture, and one linear layer from them to the logits of the classes.

    The layer starts at 0, so a detector with a new scene computes what it computed without.

    With a ResNet the features are those in front of its last layer. It is frozen: its tensors are buffers, which no
    optimizer sees, which no `state_dict` holds (an average of equal weights would move them by rounding), and which
    have values that float16 has, because Ultralytics saves checkpoints in it: they stay the same bit for bit.
    With the backbone the features are the average of its last map over all positions. No gradient of the scene
    trains the backbone.

    Args:
        classes: Number of classes.
        arch: resnet10, resnet18, resnet50 or backbone.
        channels: Channels of the last map of the backbone; for arch="backbone" only.
        size: Height and width in pixels to which a ResNet's picture is scaled, whatever its own are.
        l2: Factor of the squared weights of the head's last class convolutions in the training loss: the more, the
            less the head relies on the object. This module keeps it, and does not use it.
    Attributes:
        fc: The layer; the only parameters.
        net: The ResNet, or None.
        lacks: Why the ResNet has no weights yet; "" if it has. A scene that lacks them computes nothing.
    Shape:
        ResNet: pictures (B, 3, H, W), RGB, or (B, 1, H, W), grey, in [0, 1] -> logits (B, classes).
        Backbone: maps (B, channels, h, w) -> logits (B, classes).
    Raises: ValueError: the arch is none of these.
    Source: Akumalla et al. 2020, section 2.1.
    Example:
        >>> Scene(2, "backbone", channels=8)(torch.rand(3, 8, 5, 7))
        tensor([[0., 0.],
                [0., 0.],
                [0., 0.]], grad_fn=<MmBackward0>)
    """

    def __init__(self, classes: int, arch: str, channels: int = 0, size: int = SIDE, l2: float = 0.0) -> None:
        super().__init__()
        if arch not in ARCHS:
            raise ValueError(f"no scene {arch!r}; choose from {', '.join(ARCHS)}")
        self.arch, self.size, self.l2, self.lacks = arch, size, l2, ""
        self.net: nn.Module | None = None
        if arch != BACKBONE:
            self.net, channels = frozen_resnet(arch)
            self.lacks = "no weights were given"
            for name, values in (("mean", MEAN), ("std", STD)):
                self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)
        self.fc = nn.utils.skip_init(nn.Linear, channels, classes, bias=False)  # draws nothing; the head has the biases
        nn.init.zeros_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Raises: RuntimeError: the ResNet has no weights.
        """
        if self.net is None:
            return self.fc((x.detach() if self.training else x).mean((2, 3)))
        if self.lacks:
            raise RuntimeError(f"the scene network {self.arch} has no weights: {self.lacks}")
        x = F.interpolate(x.expand(-1, 3, -1, -1), (self.size, self.size), mode="bilinear", align_corners=False)
        return self.fc(self.net((x - self.mean) / self.std))  # type: ignore[operator]

    def train(self, mode: bool = True) -> Scene:
        """Switch the mode; the frozen network stays in eval mode, so a picture's logits do not depend on its batch."""
        super().train(mode)
        if self.net is not None:
            self.net.eval()
        return self

    def fill(self, state: dict[str, Tensor]) -> None:
        """Give the ResNet its weights, by torchvision's names; a last layer among them is left out.

        Raises: ValueError: a tensor is missing, has another shape or no place, or is too large for float16.
        """
        assert self.net is not None
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
        own = {n: b for n, b in self.net.named_buffers() if not n.endswith("num_batches_tracked")}
        given = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        missing, foreign = own.keys() - given.keys(), given.keys() - own.keys()
        other = [name for name in own if name in given and given[name].shape != own[name].shape]
        if missing or foreign or other:
            raise ValueError(
                f"they are not of {self.arch}: {len(missing)} tensors are missing, {len(foreign)} have no place, "
                f"{len(other)} have another shape"
            )
        for name, buffer in own.items():
            value = given[name].half()
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} holds values that float16 cannot hold, or NaN")
            buffer.copy_(value)
        self.lacks = ""

    def frozen_numbers(self) -> int:
        """Return how many numbers the frozen network has; 0 with the backbone."""
        return sum(buffer.numel() for buffer in self.net.buffers()) if self.net is not None else 0

    def extra_repr(self) -> str:
        """Return what the printed model shows."""
        return f"arch={self.arch}" + (f", size={self.size}" if self.net is not None else "") + f", l2={self.l2:g}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle or copy.

        Raises: RuntimeError: Ultralytics is here without the changes of this package, and would leave the logits out.
        """
        super().__setstate__(state)
        head = sys.modules.get("ultralytics.nn.modules.head")
        if head is not None and not hasattr(head.Detect.forward_head, "_stock"):
            raise RuntimeError(
                "this model has a scene network, whose logits Ultralytics leaves out while yolo_wnlb is switched off; "
                "unset YOLO_WNLB_DISABLE, and see what 'yolo-wnlb doctor' says"
            )


def frozen_resnet(arch: str) -> tuple[nn.Module, int]:
    """Build a ResNet of torchvision without its last layer, in eval mode, its tensors as buffers outside state_dict.

    Returns: The network, whose weights mean nothing yet, and the number of its features.
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet  # with it, Ultralytics runs another NMS

    with torch.random.fork_rng(devices=[]):  # the weights drawn here are used for nothing
        net = ResNet(Bottleneck if arch == "resnet50" else BasicBlock, list(BLOCKS[arch]))
    features = net.fc.in_features
    net.fc = nn.Identity()
    for module in net.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                delattr(module, name)
                module.register_buffer(name, tensor.detach(), persistent=False)
    return net.eval(), features
