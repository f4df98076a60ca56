"""WNLB: the weighted non-local block, a learnable denoiser for feature maps. Torch only.

    z = w * W_z(y) + (1 - w) * x          y_i = sum_j f(x_i, x_j) g(x_j) / C(x)

Lin, Anantrasirichai, Bull, "Multi-Scale Denoising in the Feature Space for Low-Light Instance
Segmentation", ICASSP 2025, https://arxiv.org/abs/2402.18307 (the weight w).
Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018,
https://arxiv.org/abs/1711.07971 (y, the four forms of f, sub-sampling, W_z).

The import path `yolo_wnlb.wnlb.WNLB` is written into every checkpoint: it never changes.
"""

from __future__ import annotations

import logging
import math
from copy import deepcopy
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

LOGGER = logging.getLogger("ultralytics")  # where whoever exports looks
OPERATIONS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
INITS = ("identity", "released")
FOLDED = ("mix", "shift", "project", "project_bias")  # buffers of a folded block
MAX_PAIRS = 2**22  # of queries and keys at a time in an ONNX graph: 16 MiB of float32
MAX_PARTS = 256  # in an ONNX graph, of five nodes each
MAX_MAP_BYTES = 2 * 2**30  # of the pairwise map that `concatenation` builds; a step holds about two


def to_tokens(x: Tensor) -> Tensor:
    """Turn a map (B, C, H, W) into contiguous tokens (B, H*W, C): strided ones miss the fused kernels."""
    return x.flatten(2).transpose(1, 2).contiguous()


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Turn tokens (B, H*W, e) into a map (B, e, H, W), of the sides of `like` (B, C, H, W)."""
    return tokens.transpose(1, 2).reshape(like.shape[0], tokens.shape[2], *like.shape[2:])


def widen(tokens: Tensor, extra: int) -> Tensor:
    """Append `extra` zero channels to tokens (B, N, C). Adding none is no copy, as it is in F.pad."""
    return F.pad(tokens, (0, extra)) if extra else tokens


def softmax_response(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """y = softmax(scale * q k^T) v, without the N x M map.

    q (B, N, d), k (B, M, d), v (B, M, e) -> (B, N, e). The fused kernels want d = e. ONNX graphs have
    no such kernel that all runtimes know: there the queries are cut into equal parts, as many as
    hold MAX_PAIRS pairs each at the traced size, but MAX_PARTS at most.
    """
    if not torch.onnx.is_in_onnx_export():
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=scale)[:, 0]
    n, pairs = q.shape[1], int(q.shape[0] * q.shape[1] * k.shape[1])
    count = min(max(-(-pairs // MAX_PAIRS), 1), MAX_PARTS)
    if count > 1:
        LOGGER.info(f"wNLB: the map of {int(n)} x {int(k.shape[1])} pairs is cut into {count} parts")
    ends = [n * i // count for i in range(1, count)]  # of the size at run time
    q, k = q if scale == 1 else q * scale, k.transpose(1, 2)  # scaled first: float16 holds less
    parts = [q[:, start:end] for start, end in zip([0, *ends], [*ends, n], strict=True)] if ends else [q]
    return torch.cat([(part @ k).softmax(-1) @ v for part in parts], 1)


def mean_product(a: Tensor, b: Tensor) -> Tensor:
    """sum_j a_j b_j^T / M of tokens a (B, M, d) and b (B, M, e) -> (B, d, e).

    In 16 bits both factors share 1/M, so that neither the sum overflows float16 nor the terms underflow, nor
    their gradients; and in graphs, which another runtime may compute in 16 bits.
    """
    graph = torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()
    if a.dtype in (torch.float32, torch.float64) and not graph:
        return torch.baddbmm(a.new_zeros(1), a.transpose(1, 2), b, beta=0, alpha=1 / a.shape[1])
    share = a.shape[1] ** -0.5
    shared = a * share
    return shared.transpose(1, 2) @ (shared if b is a else b * share)


def dot_product_response(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """y = (q k^T / M) v, computed as q (k^T v / M): exact, and d x e numbers instead of N x M.

    q (B, N, d), k (B, M, d), v (B, M, e) -> (B, N, e).
    """
    return q @ mean_product(k, v)


def concatenation_response(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y = (relu(w_f . [q_i, k_j] + b) / M) v.

    q (B, N, d), k (B, M, d), v (B, M, e), weight (1, 2d, 1, 1), bias (1,) -> (B, N, e). The inner
    product splits into one number a position, but the ReLU of their sums is an N x M map.

    Raises:
        MemoryError: the map would need more than MAX_MAP_BYTES.
    """
    (batch, n, _), m = q.shape, k.shape[1]
    if not torch.onnx.is_in_onnx_export() and (need := batch * n * m * q.element_size()) > MAX_MAP_BYTES:
        raise MemoryError(
            f"operation 'concatenation' needs a map of {batch} x {n} x {m} numbers = {need / 2**30:.1f} GiB "
            f"(limit {MAX_MAP_BYTES / 2**30:.0f} GiB); use it on smaller maps, raise sub_sample, or choose "
            "'embedded_gaussian' or 'dot_product', which build no map"
        )
    w_q, w_k = weight.reshape(2, -1, 1).unbind()
    pairs = torch.relu(q @ w_q + (k @ w_k).transpose(1, 2) + bias)  # (B, N, 1) + (B, 1, M)
    return pairs @ (v / m)


def is_plain(conv: nn.Module) -> bool:
    """Tell whether nothing of a convolution but its numbers matters: no hook, no class of its own."""
    hooks = (conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks, conv._backward_pre_hooks)
    return type(conv) is nn.Conv2d and not any(hooks)


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
        softmax = operation in ("embedded_gaussian", "gaussian")
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
        if scale != 1.0 and not softmax:
            raise ValueError(f"scale acts on the softmax forms only; remove it or change operation={operation!r}")
        if not weighted and (w_init, w_learnable, w_lr) != (0.0, True, 1.0):
            raise ValueError("weighted=False has no w; remove w_init, w_learnable and w_lr")
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
        self.unfold()
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
        if self.is_folded:
            return self.folded(x)
        y = to_map(self.mean(x), x)
        y = self.g(y) if self.commutes else y
        # x first: its memory format is the one the sum takes, and the rest of the network keeps
        if not self.weighted:
            return x + self.W_z(y)
        if not self.training:
            return (1 - self.w) * x + self.w * self.W_z(y)
        conv: Any = self.W_z[0]
        norm: Any = self.W_z[1]
        scaled = {"weight": self.w * norm.weight, "bias": self.w * norm.bias}  # w W_z(y), without keeping W_z(y)
        return (1 - self.w) * x + functional_call(norm, scaled, (conv(y),))

    @property
    def is_folded(self) -> bool:
        """True where what `fold` prepared is used."""
        return "mix" in self._buffers and not self.training

    @property
    def commutes(self) -> bool:
        """True where g of the mean is the mean of g: softmax weights add up to 1 and g is linear."""
        return self.operation == "gaussian" and self.sub_sample == 1

    @property
    def embeddings(self) -> list[Any]:
        """Theta, phi and g, as far as the operation has them."""
        return [self.g] if self.operation == "gaussian" else [self.theta, self.phi, self.g]

    def mean(self, x: Tensor) -> Tensor:
        """Return tokens y (B, N, e): the mean of g over all positions of x (B, C, H, W), or of x if g `commutes`."""
        if self.commutes:
            q = k = v = to_tokens(x)
        else:
            q, k, v = self.tokens(x)
        if self.operation == "dot_product":
            return dot_product_response(q, k, v)
        if self.operation == "concatenation":
            w_f: Any = self.W_f[0]
            return concatenation_response(q, k, v, w_f.weight, w_f.bias)
        # one width for all three; zeros change neither the products nor the values
        d = self.in_channels if self.operation == "gaussian" else self.embed_dim
        e = self.in_channels if self.commutes else self.embed_dim
        q, k, v = widen(q, max(e - d, 0)), widen(k, max(e - d, 0)), widen(v, max(d - e, 0))
        return softmax_response(q, k, v, d**-0.5 if self.scale is None else self.scale)[..., :e]

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta (B, N, d), phi (B, M, d) and g (B, M, e) of x (B, C, H, W), by one convolution."""
        convs = self.embeddings
        if all(map(is_plain, convs)):
            found = F.conv2d(x, *self.projection())
        else:
            found = torch.cat([conv(x) for conv in convs], 1)
        if self.operation == "gaussian":
            return to_tokens(x), to_tokens(self.pooled(x)), to_tokens(self.pooled(found))
        d = self.embed_dim
        if self.sub_sample == 1:
            q, k, v = to_tokens(found).split(d, 2)
            return q, k, v
        k, v = to_tokens(self.pooled(found[:, d:])).split(d, 2)
        return to_tokens(found[:, :d]), k, v

    def projection(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of theta, phi and g as one convolution."""
        if self.is_folded:
            prepared: Any = self.project, self.project_bias
            return prepared
        convs = self.embeddings
        biases = [conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias for conv in convs]
        return torch.cat([conv.weight for conv in convs]), torch.cat(biases)

    def pooled(self, x: Tensor) -> Tensor:
        """Return the pooled x (B, C, H, W), of a block that sub-samples."""
        k = self.sub_sample
        if self.training:  # picked by index: MaxPool2d would keep all of x for backward
            with torch.no_grad():
                index = F.max_pool2d(x, k, ceil_mode=True, return_indices=True)[1]
            batch, channel = (torch.arange(n, device=x.device) for n in x.shape[:2])
            return x.flatten(2)[batch[:, None, None, None], channel[:, None, None], index]
        if torch.jit.is_tracing() or x.device.type != "cpu" or x.stride(1) == 1 or x.shape[2] % k or x.shape[3] % k:
            return self.pool(x)
        rows = reduce(torch.maximum, (x[:, :, i::k] for i in range(k)))  # a quarter of the time of MaxPool2d
        return reduce(torch.maximum, (rows[..., i::k] for i in range(k)))

    @torch.no_grad()
    def fold(self) -> None:
        """Prepare for inference: w, W_z and its norm become one matrix; a block that does nothing is left out.

        The results are the same but for rounding. `train()` and loading undo it; who changes the parameters
        otherwise, in place, folds again. A block of other layers than its own (quantised, adapted) stays as it is.
        """
        self.unfold()
        if not all(map(is_plain, [*self.embeddings, self.W_z[0]])) or not isinstance(self.W_z[1], _BatchNorm):
            return
        exact: Any = deepcopy(self).cpu().double()  # not every device has float64
        conv, norm = exact.W_z
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        w = exact.w if self.weighted else 1.0
        mix, shift = w * gain[:, None] * conv.weight.flatten(1), w * (norm.bias - gain * norm.running_mean)
        if self.commutes:
            mix = mix @ exact.g.weight.flatten(1)
        like: Any = self.g.weight
        for name, made in zip(FOLDED, (mix.to(like), shift.to(like), *self.projection()), strict=True):
            self.register_buffer(name, made, persistent=False)
        self.keep = 1 - float(w) if self.weighted else 1.0
        self.idle = self.keep == 1 and not mix.any() and not shift.any()

    def unfold(self) -> None:
        """Compute with the parameters again."""
        for name in FOLDED:
            self._buffers.pop(name, None)

    def train(self, mode: bool = True) -> WNLB:
        """Switch training on or off; what was folded is not what training would change."""
        if mode or self.training:
            self.unfold()
        return super().train(mode)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle or copy, unfolded: another release may fold in another way."""
        super().__setstate__(state)
        self.unfold()

    def folded(self, x: Tensor) -> Tensor:
        """Return what `forward` does, with what `fold` has prepared."""
        if self.idle:
            return x
        mix: Any = self.mix
        shift: Any = self.shift
        gram = self.operation == "dot_product" and self.sub_sample == 1 and all(map(is_plain, self.embeddings))
        if not gram or not self.gram_pays(x.shape[2] * x.shape[3]):
            return self.mixed(self.mean(x), x)
        # z = (mix A theta + keep) x + ..., with A = sum_j g_j phi_j^T / M: one matrix for all positions,
        # and A of x x^T, without phi and g of each
        theta: Any = self.theta
        phi: Any = self.phi
        g: Any = self.g
        flat, w_g, w_phi = x.flatten(2), g.weight.flatten(1), phi.weight.flatten(1)
        mean, tokens = flat.mean(2, keepdim=True), flat.transpose(1, 2)  # (B, C, 1), (B, N, C)
        a = w_g @ mean_product(tokens, tokens) @ w_phi.T
        a = a + (w_g @ mean) * phi.bias + g.bias[:, None] * (w_phi @ mean + phi.bias[:, None]).transpose(1, 2)
        a = mix @ a  # (B, C, d)
        keep = self.keep * torch.eye(self.in_channels, dtype=x.dtype, device=x.device)
        offset = a @ theta.bias[:, None] + shift[:, None]
        return torch.baddbmm(offset, a @ theta.weight.flatten(1) + keep, flat).reshape(x.shape).to(x.dtype)

    def mixed(self, y: Tensor, x: Tensor) -> Tensor:
        """Return mix y + shift + keep x, as a map in the memory format of x (B, C, H, W), of tokens y (B, N, e)."""
        mix: Any = self.mix
        shift: Any = self.shift
        if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            # one product straight into the map: a convolution would first copy y
            z = torch.baddbmm(shift[:, None], mix.expand(x.shape[0], -1, -1), y.transpose(1, 2)).reshape(x.shape)
        else:
            z = to_map(F.linear(y, mix, shift), x)
        return z.to(x.dtype).add_(x, alpha=self.keep)

    def gram_pays(self, n: int) -> bool:
        """Tell whether one matrix for all of n positions takes fewer operations than theta, phi and g of each."""
        c, d = self.in_channels, self.embed_dim
        return 2 * c * c * n + 2 * c * d * (c + d) < (4 * c * d + 2 * d * d) * n

    def extra_repr(self) -> str:
        """Name the form of the block and, if it has one, its present w."""
        text = f"{self.in_channels}, embed_dim={self.embed_dim}, operation={self.operation}"
        text += f", sub_sample={self.sub_sample}"
        if not self.weighted:
            return f"{text}, weighted=False"
        return text if self.w.is_meta else f"{text}, w={self.w.item():.4g}"

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Read the authors' released files too: w of shape (1,), and the biases left out here."""
        self.unfold()
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
