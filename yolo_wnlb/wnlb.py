"""WNLB: the weighted non-local block, a learnable denoiser for feature maps. Torch only.

    z = w * W_z(y) + (1 - w) * x          y_i = sum_j f(x_i, x_j) g(x_j) / C(x)

Lin, Anantrasirichai, Bull, "Multi-Scale Denoising in the Feature Space for Low-Light Instance
Segmentation", ICASSP 2025, https://arxiv.org/abs/2402.18307 (the weight w).
Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018,
https://arxiv.org/abs/1711.07971 (y, the four forms of f, sub-sampling, W_z).

The import path `yolo_wnlb.wnlb.WNLB` is written into every checkpoint: it never changes.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from yolo_wnlb.folding import can_fold, does_nothing, folded_forward, is_plain
from yolo_wnlb.pairwise import (
    OPERATIONS,
    concatenation_response,
    dot_product_response,
    softmax_response,
    takes_two_widths,
    to_map,
    to_tokens,
)

INITS = ("identity", "released")
STORED_IN_FOLDED_BLOCKS = ("mix", "shift", "project", "project_bias", "keep", "idle")  # by earlier revisions


class WNLB(nn.Module):
    """Weighted non-local block: every position is mixed with the mean of the positions alike.

    At the start w = 0, so the block is the exact identity and inserting it changes no output;
    everything else starts non-zero, so that every parameter learns as soon as w has moved (the
    authors' released file also zeroes W_z and its norm, a saddle point: see `init`).

    Args:
        in_channels: Channels C of the input and the output, >= 1.
        embed_dim: Channels of theta, phi and g, >= 1. Default C // 2 (at least 1).
        operation: Pairwise function f. 'embedded_gaussian' softmax_j(theta_i . phi_j);
            'gaussian' softmax_j(x_i . x_j), which on real feature maps picks nearly one position
            unless `scale` is small; 'dot_product' theta_i . phi_j / M, linear in the number of
            positions; 'concatenation' relu(W_f [theta_i, phi_j]) / M, for small maps only.
        sub_sample: Side of the max-pooling of phi and g, >= 1: M = ceil(H/k) * ceil(W/k) keys. It
            is part of the trained function, not a switch for inference.
        weighted: False gives the plain non-local block z = W_z(y) + x, without w, which starts as
            the identity because the norm of W_z starts at weight 0 (Wang et al., section 4.1).
        scale: Factor of the logits of the softmax forms, > 0. 1.0 is both papers' formula; None is
            1/sqrt(d) of attention (d = embed_dim, or C for 'gaussian').
        w_init: Start of w. Anything but 0 gives up the identity start.
        w_learnable: False fixes w at `w_init` (the paper's ablation fixes 0.5).
        w_lr: Learning rate of w as a multiple of the other layers', > 0, applied by the
            Ultralytics trainer. w is one number and moves about one learning rate a step.
        init: 'identity', or 'released', the start of the authors' file (W_z and its norm zero
            too), where theta, phi, g and W_z never receive a gradient. For comparison only.

    Attributes:
        w: 0-dimensional (a 1-dimensional float32 would promote float16 maps). Not bounded.

    Shape: (B, C, H, W) -> (B, C, H, W). No N x M map is kept, except by 'concatenation'.

    Biases that cannot act are left out: that of phi in front of a softmax, that of g whose mean
    only shifts a normalised map, that of W_z before its norm. Released checkpoints, which hold
    them, load without loss: what they add is folded into the norm.

    Raises:
        ValueError: an argument is out of its range; the message lists the choices.

    Example:
        >>> WNLB(8)(torch.rand(1, 8, 5, 7)).shape
        torch.Size([1, 8, 5, 7])
    """

    folded = False  # until `fold` is called, and in checkpoints that do not know the attribute
    off = False  # True leaves the block out, in training too: z = x. See yolo_wnlb.yolo.night
    idle = False  # True where `fold` found that the block does nothing; asked again at every pass

    def __init__(
        self,
        in_channels: int,
        embed_dim: int | None = None,
        operation: str = "embedded_gaussian",
        sub_sample: int = 1,
        weighted: bool = True,
        scale: float | None = 1.0,
        w_init: float = 0.0,
        w_learnable: bool = True,
        w_lr: float = 1.0,
        init: str = "identity",
    ) -> None:
        super().__init__()
        check_arguments(in_channels, embed_dim, operation, sub_sample, weighted, scale, w_init, w_learnable, w_lr, init)
        softmax = operation in ("embedded_gaussian", "gaussian")
        embed_dim = max(in_channels // 2, 1) if embed_dim is None else embed_dim

        self.in_channels, self.embed_dim, self.operation = in_channels, embed_dim, operation
        self.sub_sample, self.weighted, self.scale = sub_sample, weighted, scale
        self.w_init, self.w_lr, self.init = float(w_init), float(w_lr), init

        self.g = nn.Conv2d(in_channels, embed_dim, 1, bias=not softmax)
        self.theta: nn.Module = nn.Identity()
        self.phi: nn.Module = nn.Identity()
        if operation != "gaussian":
            self.theta = nn.Conv2d(in_channels, embed_dim, 1)
            self.phi = nn.Conv2d(in_channels, embed_dim, 1, bias=not softmax)
        if operation == "concatenation":
            self.W_f = nn.Sequential(nn.Conv2d(2 * embed_dim, 1, 1), nn.ReLU())
        self.pool = nn.MaxPool2d(sub_sample, ceil_mode=True) if sub_sample > 1 else nn.Identity()
        self.W_z = nn.Sequential(nn.Conv2d(embed_dim, in_channels, 1, bias=False), nn.BatchNorm2d(in_channels))
        if weighted and w_learnable:
            self.w = nn.Parameter(torch.empty(()))
        elif weighted:  # a buffer: Ultralytics switches frozen parameters back on
            self.register_buffer("w", torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew; the identity start rests on ONE zero (w, or the norm of W_z)."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                module.reset_parameters()
        conv: Any = self.W_z[0]
        norm: Any = self.W_z[1]
        if self.weighted:
            nn.init.constant_(self.w, self.w_init)
        if self.init == "released":
            nn.init.zeros_(conv.weight)
        if self.init == "released" or not self.weighted:
            nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return z (B, C, H, W) of x (B, C, H, W), in the memory format of x (contiguous: some folded dot products)."""
        if self.off:
            return x
        if self.is_folded and can_fold(self):
            return folded_forward(self, x)
        theta, phi, g = self.embed(x)  # (B, N, d), (B, M, d), (B, M, e): N = H*W positions, M keys
        y = self.respond(theta, phi, g)  # (B, N, e): y_i = sum_j f(theta_i, phi_j) g_j / C(x)
        y = to_map(y, x)  # (B, e, H, W)
        # x first: its memory format is the one the sum takes, and the rest of the network keeps
        if not self.weighted:
            return x + self.W_z(y)  # Wang et al., equation 6
        return (1 - self.w) * x + self.weighted_output(y)  # z = (1 - w) x + w W_z(y)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta (B, N, d), phi (B, M, d) and g (B, M, e) of x (B, C, H, W); x itself where `g_comes_last`."""
        theta = to_tokens(self.theta(x))
        if self.g_comes_last(x):
            return theta, theta, theta
        same = self.operation == "gaussian" and self.sub_sample == 1
        phi = theta if same else to_tokens(self.pooled(self.phi(x)))
        return theta, phi, to_tokens(self.pooled(self.g(x)))

    def respond(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """Return y (B, N, e), the mean of g weighted by the pairwise function, of the tokens that `embed` returned."""
        if self.operation == "dot_product":
            return dot_product_response(theta, phi, g)
        if self.operation == "concatenation":
            w_f: Any = self.W_f[0]
            return concatenation_response(theta, phi, g, w_f.weight, w_f.bias)
        last = self.g_comes_last(theta)
        d = self.in_channels if self.operation == "gaussian" else self.embed_dim
        e = self.in_channels if last else self.embed_dim
        y = softmax_response(theta, phi, g, d**-0.5 if self.scale is None else self.scale, d, e)
        return F.linear(y, self.g.weight.flatten(1), self.g.bias) if last else y

    def weighted_output(self, y: Tensor) -> Tensor:
        """Return w W_z(y) (B, C, H, W) of y (B, e, H, W)."""
        if not self.training:
            return self.w * self.W_z(y)
        # the norm multiplies by w itself: W_z(y) need not be kept for the backward pass
        conv: Any = self.W_z[0]
        norm: Any = self.W_z[1]
        return functional_call(norm, {"weight": self.w * norm.weight, "bias": self.w * norm.bias}, (conv(y),))

    def g_comes_last(self, x: Tensor) -> bool:
        """Tell whether the pairwise function averages x and g is applied to the mean.

        That is the same as averaging g: the weights of a softmax add up to 1, and g is linear. A kernel that wants
        values as wide as queries, which have C channels here, then gets x itself instead of g padded with zeros.
        """
        if self.operation != "gaussian" or self.sub_sample > 1 or not is_plain(self.g):
            return False
        return self.embed_dim >= self.in_channels or not takes_two_widths(x)

    def pooled(self, x: Tensor) -> Tensor:
        """Return the maxima of windows of sub_sample x sub_sample positions of x (B, C, H, W)."""
        k = self.sub_sample
        if k == 1:
            return x
        if self.training:  # picked by index: MaxPool2d would keep all of x for backward
            with torch.no_grad():
                index = F.max_pool2d(x, k, ceil_mode=True, return_indices=True)[1]
            batch, channel = (torch.arange(n, device=x.device) for n in x.shape[:2])
            return x.flatten(2)[batch[:, None, None, None], channel[:, None, None], index]
        if torch.jit.is_tracing() or x.device.type != "cpu" or x.stride(1) == 1 or x.shape[2] % k or x.shape[3] % k:
            return self.pool(x)
        rows = reduce(torch.maximum, (x[:, :, i::k] for i in range(k)))  # a quarter of the time of MaxPool2d
        return reduce(torch.maximum, (rows[..., i::k] for i in range(k)))

    # ---- for prediction: yolo_wnlb.folding

    def fold(self) -> None:
        """From now on compute as `yolo_wnlb.folding` does, whenever the block is in evaluation mode.

        The results are the same but for rounding. They follow the parameters: nothing has to be folded again when one
        changes. A block that does nothing is left out as long as it does nothing. A block with other layers than its
        own (quantised, pruned, adapted) computes as before.
        """
        self.folded = True
        self.idle = can_fold(self) and not self.W_z[0].weight.is_meta and does_nothing(self)

    def unfold(self) -> None:
        """Undo `fold`."""
        self.folded = self.idle = False

    @property
    def is_folded(self) -> bool:
        """True where `fold` was called and the block is in evaluation mode."""
        return self.folded and not self.training

    def extra_repr(self) -> str:
        """Name the form of the block and, if it has one, its present w."""
        text = f"{self.in_channels}, embed_dim={self.embed_dim}, operation={self.operation}"
        text += f", sub_sample={self.sub_sample}"
        if not self.weighted:
            return f"{text}, weighted=False"
        return text if self.w.is_meta else f"{text}, w={self.w.item():.4g}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle or copy, without what earlier revisions stored in a folded block."""
        super().__setstate__(state)
        for name in STORED_IN_FOLDED_BLOCKS:
            self._buffers.pop(name, None)
            self._non_persistent_buffers_set.discard(name)
            if not self.folded:
                vars(self).pop(name, None)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Read the authors' released files too: w of shape (1,), and the biases left out here."""
        w = state_dict.get(f"{prefix}w")
        if w is not None and w.ndim == 1:
            state_dict[f"{prefix}w"] = w.reshape(())
        if self.operation in ("embedded_gaussian", "gaussian"):
            state_dict.pop(f"{prefix}phi.bias", None)  # adds theta_i . b to all logits of a row
            shift = state_dict.pop(f"{prefix}g.bias", None)  # the mean of g + b is the mean + b
        else:
            shift = None
        bias = state_dict.pop(f"{prefix}W_z.0.bias", None)
        mean = state_dict.get(f"{prefix}W_z.1.running_mean")
        if mean is not None:
            if shift is not None:
                mean = mean - state_dict[f"{prefix}W_z.0.weight"].flatten(1) @ shift
            state_dict[f"{prefix}W_z.1.running_mean"] = mean if bias is None else mean - bias
        super()._load_from_state_dict(state_dict, prefix, *args)


def check_arguments(
    in_channels: int,
    embed_dim: int | None,
    operation: str,
    sub_sample: int,
    weighted: bool,
    scale: float | None,
    w_init: float,
    w_learnable: bool,
    w_lr: float,
    init: str,
) -> None:
    """Raise ValueError for an argument of `WNLB` that is out of its range."""
    for name, value, choices in (("operation", operation, OPERATIONS), ("init", init, INITS)):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
    sizes = {"in_channels": in_channels, "sub_sample": sub_sample}
    for name, size in (sizes if embed_dim is None else {**sizes, "embed_dim": embed_dim}).items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {size!r}")
    for name, flag in (("weighted", weighted), ("w_learnable", w_learnable)):
        if not isinstance(flag, bool):
            raise ValueError(f"{name} must be True or False; got {flag!r}")
    for name, number in (("w_init", w_init), ("w_lr", w_lr), ("scale", 1.0 if scale is None else scale)):
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not math.isfinite(number):
            raise ValueError(f"{name} must be a finite number; got {number!r}")
    if w_lr <= 0:
        raise ValueError(f"w_lr must be above 0; got {w_lr!r} (to fix w use w_learnable=False)")
    if scale is not None and scale <= 0:
        raise ValueError(f"scale must be above 0, or None for 1/sqrt(d); got {scale!r}")
    if scale != 1.0 and "gaussian" not in operation:
        raise ValueError(f"scale acts on the softmax forms only; remove it or change operation={operation!r}")
    if not weighted and (w_init, w_learnable, w_lr) != (0.0, True, 1.0):
        raise ValueError("weighted=False has no w; remove w_init, w_learnable and w_lr")
