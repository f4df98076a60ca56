"""WNLB: the weighted non-local block, a learnable denoiser for feature maps. Torch only.

    z = w * W_z(y) + (1 - w) * x          y_i = sum_j f(x_i, x_j) g(x_j) / C(x)

Lin, Anantrasirichai, Bull, "Multi-Scale Denoising in the Feature Space for Low-Light Instance
Segmentation", ICASSP 2025, https://arxiv.org/abs/2402.18307 (the weight w).
Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018,
https://arxiv.org/abs/1711.07971 (y, four forms of f, sub-sampling, W_z).

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
    CONTROLS,
    OPERATIONS,
    SOFTMAX,
    at_least_single,
    concatenation_response,
    cosine_tokens,
    distance_tokens,
    dot_product_response,
    softmax_response,
    takes_two_widths,
    to_map,
    to_tokens,
)

INITS = ("identity", "released")
COSINE = "cosine"  # the value of `scale` that normalises queries and keys
TEMPERATURE = {COSINE: 0.1, "non_local_means": 0.2}  # at the start: that of Swin Transformer V2; one that averages
LOWEST_TEMPERATURE = 0.01  # as in Swin Transformer V2
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
            'non_local_means' softmax_j(-|theta_i - theta_j|^2 / h^2), the kernel of Buades, Coll, Morel,
            "A non-local algorithm for image denoising", CVPR 2005, on one embedding theta, which is its own
            phi; h^2 is a learnable `temperature` times the mean squared distance of all pairs of an image.
            Two controls, which compare no positions, tell what comparing adds: 'pointwise' y_i = g(x_i), a
            1x1 adapter; 'depthwise' y = the depthwise 3x3 convolution of g(x). With embed_dim = C 'pointwise'
            has as many weights as the attention with embed_dim = C / 2.
        sub_sample: Side of the max-pooling of phi and g, >= 1: M = ceil(H/k) * ceil(W/k) keys. It
            is part of the trained function, not a switch for inference.
        weighted: False gives the plain non-local block z = W_z(y) + x, without w, which starts as
            the identity because the norm of W_z starts at weight 0 (Wang et al., section 4.1).
        scale: Factor of the logits of 'embedded_gaussian' and 'gaussian', > 0. 1.0 is both papers' formula;
            None is 1/sqrt(d) of attention (d = embed_dim, or C for 'gaussian'). 'cosine' gives queries and
            keys unit length over the channels, and divides their product by a learnable `temperature`:
            softmax_j(cos(theta_i, phi_j) / temperature), Liu et al., "Swin Transformer V2", CVPR 2022,
            https://arxiv.org/abs/2111.09883, equation 2.
        w_init: Start of w, of every channel's. Anything but 0 gives up the identity start.
        w_learnable: False fixes w at `w_init` (the paper's ablation fixes 0.5).
        w_lr: Learning rate of w as a multiple of the other layers', > 0, applied by the
            Ultralytics trainer. w is one number and moves about one learning rate a step.
        init: 'identity', or 'released', the start of the authors' file (W_z and its norm zero
            too), where theta, phi, g and W_z never receive a gradient. For comparison only.
        w_per_channel: True gives each channel a w of its own (as LayerScale does: Touvron et al., "Going deeper
            with Image Transformers", ICCV 2021, https://arxiv.org/abs/2103.17239, equation 8).

    Attributes:
        w: 0-dimensional (a 1-dimensional float32 would promote float16 maps), or (C,) with `w_per_channel`.
            Not bounded.
        logit_scale: log(1 / temperature), 0-dimensional; only with `scale='cosine'` or 'non_local_means'. Named as
            in Swin Transformer V2; Ultralytics keeps a parameter of this name out of weight decay.

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
    one_size = False  # True while an export of one size is made: no window of the pooling is larger than the map
    off = False  # True leaves the block out, in training too: z = x. See yolo_wnlb.yolo.night
    idle = False  # True where `fold` found that the block does nothing; asked again at every pass

    def __init__(
        self,
        in_channels: int,
        embed_dim: int | None = None,
        operation: str = "embedded_gaussian",
        sub_sample: int = 1,
        weighted: bool = True,
        scale: float | str | None = 1.0,
        w_init: float = 0.0,
        w_learnable: bool = True,
        w_lr: float = 1.0,
        init: str = "identity",
        w_per_channel: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(
            in_channels,
            embed_dim,
            operation,
            sub_sample,
            weighted,
            scale,
            w_init,
            w_learnable,
            w_lr,
            init,
            w_per_channel,
        )
        softmax = operation in SOFTMAX
        embed_dim = max(in_channels // 2, 1) if embed_dim is None else embed_dim

        self.in_channels, self.embed_dim, self.operation = in_channels, embed_dim, operation
        self.sub_sample, self.weighted, self.scale = sub_sample, weighted, scale
        self.w_init, self.w_lr, self.init = float(w_init), float(w_lr), init

        self.g = nn.Conv2d(in_channels, embed_dim, 1, bias=not (softmax or operation in CONTROLS))
        self.theta: nn.Module = nn.Identity()
        self.phi: nn.Module = nn.Identity()
        if operation == "non_local_means":
            self.theta = nn.Conv2d(in_channels, embed_dim, 1, bias=False)
        elif operation == "depthwise":
            self.depthwise = nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=embed_dim, bias=False)
        elif operation not in ("gaussian", "pointwise"):
            self.theta = nn.Conv2d(in_channels, embed_dim, 1)
            self.phi = nn.Conv2d(in_channels, embed_dim, 1, bias=not softmax)
        if operation == "concatenation":
            self.W_f = nn.Sequential(nn.Conv2d(2 * embed_dim, 1, 1), nn.ReLU())
        self.pool = nn.MaxPool2d(sub_sample, ceil_mode=True) if sub_sample > 1 else nn.Identity()
        self.W_z = nn.Sequential(nn.Conv2d(embed_dim, in_channels, 1, bias=False), nn.BatchNorm2d(in_channels))
        if self.has_temperature:
            self.logit_scale = nn.Parameter(torch.empty(()))
        w = torch.empty(in_channels if w_per_channel else ())
        if weighted and w_learnable:
            self.w = nn.Parameter(w)
        elif weighted:  # a buffer: Ultralytics switches frozen parameters back on
            self.register_buffer("w", w)
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
        if self.has_temperature:
            start = TEMPERATURE[COSINE if self.scale == COSINE else self.operation]
            nn.init.constant_(self.logit_scale, math.log(1 / start))
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
        return (1 - self.w_on(x)) * x + self.weighted_output(y)  # z = (1 - w) x + w W_z(y)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta (B, N, d), phi (B, M, d) and g (B, M, e) of x (B, C, H, W).

        Where `g_comes_last`, all three are x; of the controls, which have neither theta nor phi, all three are y.
        """
        if self.operation in CONTROLS:
            g = self.g(x)
            y = to_tokens(self.depthwise(g) if self.operation == "depthwise" else g)
            return y, y, y
        embedded = self.theta(x)
        theta = to_tokens(embedded)
        if self.g_comes_last(x):
            return theta, theta, theta
        tied = self.operation in ("gaussian", "non_local_means")
        phi = theta if tied and self.sub_sample == 1 else to_tokens(self.pooled(embedded if tied else self.phi(x)))
        return theta, phi, to_tokens(self.pooled(self.g(x)))

    def respond(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """Return y (B, N, e), the mean of g weighted by the pairwise function, of the tokens that `embed` returned."""
        if self.operation in CONTROLS:
            return g
        if self.operation == "dot_product":
            return dot_product_response(theta, phi, g)
        if self.operation == "concatenation":
            w_f: Any = self.W_f[0]
            return concatenation_response(theta, phi, g, w_f.weight, w_f.bias)
        last = self.g_comes_last(theta)
        e = self.in_channels if last else self.embed_dim
        y = softmax_response(*self.queries_and_keys(theta, phi), g, *self.scale_and_width, e)
        return F.linear(y, self.g.weight.flatten(1), self.g.bias) if last else y

    def queries_and_keys(self, theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return q (B, N, d), k (B, M, d) of a softmax form, whose logits are q_i . k_j times `scale_and_width[0]`."""
        if not self.has_temperature:
            return theta, phi
        tokens = distance_tokens if self.operation == "non_local_means" else cosine_tokens
        return tokens(theta, phi, self.temperature)

    @property
    def scale_and_width(self) -> tuple[float, int]:
        """Factor of the logits of a softmax form, and d, the width of its queries and keys."""
        d = self.in_channels if self.operation == "gaussian" else self.embed_dim
        if self.has_temperature:
            return 1.0, d + (self.operation == "non_local_means")
        return d**-0.5 if self.scale is None else float(self.scale), d

    @property
    def has_temperature(self) -> bool:
        """True where a learnable temperature takes the place of a factor of the logits."""
        return self.scale == COSINE or self.operation == "non_local_means"

    @property
    def temperature(self) -> Tensor:
        """What the logits are divided by, 0-dimensional, LOWEST_TEMPERATURE or more; not trained below it."""
        return (-at_least_single(self.logit_scale)).exp().clamp_min(LOWEST_TEMPERATURE)

    @property
    def w_per_channel(self) -> bool:
        """True where each channel has a w of its own."""
        return self.weighted and self.w.ndim == 1

    def w_on(self, x: Tensor) -> Tensor:
        """Return w as a factor of a map: 0-dimensional, or (C, 1, 1) in the type of x, which it must not promote."""
        return self.w[:, None, None].to(x.dtype) if self.w_per_channel else self.w

    def weighted_output(self, y: Tensor) -> Tensor:
        """Return w W_z(y) (B, C, H, W) of y (B, e, H, W)."""
        if not self.training:
            u = self.W_z(y)
            return self.w_on(u) * u
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
        if self.one_size:
            return F.max_pool2d(x, [min(k, int(side)) for side in x.shape[2:]], ceil_mode=True)
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
        if self.has_temperature and not self.logit_scale.is_meta:
            text += f", scale={self.scale}" if self.scale == COSINE else ""
            text += f", temperature={self.temperature.item():.4g}"
        if not self.weighted:
            return f"{text}, weighted=False"
        return text if self.w.is_meta else f"{text}, w={self.w_text}"

    @property
    def w_text(self) -> str:
        """The present w, written: 0.25, or -0.1 to 0.3 where the channels have different ones, or none."""
        if not self.weighted:
            return "none"
        low, high = (f"{w.item():.4g}" for w in self.w.detach().aminmax())
        return low if low == high else f"{low} to {high}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle or copy, without what earlier revisions stored in a folded block."""
        super().__setstate__(state)
        for name in STORED_IN_FOLDED_BLOCKS:
            self._buffers.pop(name, None)
            self._non_persistent_buffers_set.discard(name)
            if not self.folded:
                vars(self).pop(name, None)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Read the authors' released files too: w of shape (1,), and the biases left out here.

        One w for all channels is read into a block that has one for each.
        """
        w = state_dict.get(f"{prefix}w")
        if w is not None and w.numel() == 1 and self.weighted:
            state_dict[f"{prefix}w"] = w.reshape(()).expand_as(self.w).contiguous()
        if self.operation in SOFTMAX:
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
    scale: float | str | None,
    w_init: float,
    w_learnable: bool,
    w_lr: float,
    init: str,
    w_per_channel: bool,
) -> None:
    """Raise ValueError for an argument of `WNLB` that is out of its range."""
    for name, value, choices in (("operation", operation, OPERATIONS), ("init", init, INITS)):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
    sizes = {"in_channels": in_channels, "sub_sample": sub_sample}
    for name, size in (sizes if embed_dim is None else {**sizes, "embed_dim": embed_dim}).items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {size!r}")
    for name, flag in (("weighted", weighted), ("w_learnable", w_learnable), ("w_per_channel", w_per_channel)):
        if not isinstance(flag, bool):
            raise ValueError(f"{name} must be True or False; got {flag!r}")
    if isinstance(scale, str) and scale != COSINE:
        raise ValueError(f"scale must be a finite number, None for 1/sqrt(d), or {COSINE!r}; got {scale!r}")
    for name, number in (("w_init", w_init), ("w_lr", w_lr), ("scale", 1.0 if scale in (None, COSINE) else scale)):
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not math.isfinite(number):
            raise ValueError(f"{name} must be a finite number; got {number!r}")
    if w_lr <= 0:
        raise ValueError(f"w_lr must be above 0; got {w_lr!r} (to fix w use w_learnable=False)")
    if isinstance(scale, (int, float)) and scale <= 0:
        raise ValueError(f"scale must be above 0, or None for 1/sqrt(d); got {scale!r}")
    if scale != 1.0 and operation == "non_local_means":
        raise ValueError(f"operation='non_local_means' learns its own scale, 1/h^2; remove scale={scale!r}")
    if scale != 1.0 and operation not in SOFTMAX:
        raise ValueError(f"scale acts on the softmax forms only; remove it or change operation={operation!r}")
    if sub_sample > 1 and operation in CONTROLS:
        raise ValueError(f"operation={operation!r} has no keys to sub-sample; remove sub_sample={sub_sample}")
    if not weighted and (w_init, w_learnable, w_lr, w_per_channel) != (0.0, True, 1.0, False):
        raise ValueError("weighted=False has no w; remove w_init, w_learnable, w_lr and w_per_channel")
