"""The pairwise operations of the non-local block: how alike two positions are, and the mean that follows from it.

    y_i = sum_j f(theta_i, phi_j) g_j / C(x)          theta (B, N, d), phi (B, M, d), g (B, M, e) -> y (B, N, e)

Each `..._response` computes y for one f, for N positions and M keys. None of them keeps the N x M map, but
`concatenation_response`, which cannot do without. All forms whose f is a softmax share `softmax_response`;
`cosine_tokens` and `distance_tokens` turn theta and phi into tokens whose products are their logits. Torch only.

Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018, https://arxiv.org/abs/1711.07971, section 3.2.
Liu et al., "Swin Transformer V2", CVPR 2022, https://arxiv.org/abs/2111.09883, equation 2 (cosine).
Buades, Coll, Morel, "A non-local algorithm for image denoising", CVPR 2005 (non_local_means).
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

LOGGER = logging.getLogger("ultralytics")  # who exports a model reads this log
SOFTMAX = ("embedded_gaussian", "gaussian", "non_local_means")  # the weights of a position add up to 1
CONTROLS = ("pointwise", "depthwise")  # no position is compared with another: what the comparison adds
OPERATIONS = (*SOFTMAX, "dot_product", "concatenation", *CONTROLS)
REACH = 128.0  # of `distance_tokens`, in h: squares of it, and their products, fit float16
MAX_PAIRS = 2**22  # of queries and keys at a time in an ONNX graph: 16 MiB of float32
MAX_PARTS = 256  # in an ONNX graph, of five nodes each
MAX_MAP_BYTES = 2 * 2**30  # of the N x M map that `concatenation_response` builds; a training step holds about two


def to_tokens(x: Tensor) -> Tensor:
    """Turn a map (B, C, H, W) into contiguous tokens (B, H*W, C): strided ones miss the fused kernels."""
    return x.flatten(2).transpose(1, 2).contiguous()


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Turn tokens (B, H*W, e) into a map (B, e, H, W), with the sides of `like` (B, C, H, W)."""
    return tokens.transpose(1, 2).reshape(like.shape[0], tokens.shape[2], *like.shape[2:])


# ---- softmax: 'embedded_gaussian', 'gaussian' and 'non_local_means' --------------------------------


def softmax_response(theta: Tensor, phi: Tensor, g: Tensor, scale: float, d: int, e: int) -> Tensor:
    """Compute y_i = sum_j softmax_j(scale * theta_i . phi_j) g_j, by one of PyTorch's fused attention kernels.

    Args:
        theta: Queries (B, N, d).
        phi: Keys (B, M, d).
        g: Values (B, M, e).
        scale: Factor of the logits.
        d: Width of queries and keys, as a number: traced graphs would otherwise compute it.
        e: Width of the values, as a number.

    Returns: y (B, N, e).
    """
    if torch.onnx.is_in_onnx_export():
        return softmax_response_in_parts(theta, phi, g, scale)
    wide_d, wide_e = kernel_widths(theta, d, e)
    q, k, v = widen(theta, wide_d - d), widen(phi, wide_d - d), widen(g, wide_e - e)
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=scale)[:, 0, :, :e]


def softmax_response_in_parts(theta: Tensor, phi: Tensor, g: Tensor, scale: float) -> Tensor:
    """Compute `softmax_response` in an ONNX graph, for which no fused kernel exists that all runtimes know.

    The queries are cut into equal parts, as many as hold MAX_PAIRS pairs each at the traced size, but MAX_PARTS at
    most. Where the cuts lie is computed from the size at run time.
    """
    n, pairs = theta.shape[1], int(theta.shape[0] * theta.shape[1] * phi.shape[1])
    count = min(max(-(-pairs // MAX_PAIRS), 1), MAX_PARTS)
    if count > 1:
        LOGGER.info(f"wNLB: the map of {int(n)} x {int(phi.shape[1])} pairs is cut into {count} parts")
    cuts = [n * i // count for i in range(1, count)]
    q, k = theta if scale == 1 else theta * scale, phi.transpose(1, 2)  # scaled first: float16 holds less
    parts = [q[:, start:end] for start, end in zip([0, *cuts], [*cuts, n], strict=True)] if cuts else [q]
    return torch.cat([(part @ k).softmax(-1) @ g for part in parts], 1)


def takes_two_widths(x: Tensor) -> bool:
    """Tell whether values may be narrower or wider than queries on the device, and in the type, of x.

    ONNX graphs take any widths. Of PyTorch's kernels the memory-efficient one does, which is what CUDA has for
    float32. The flash kernels, of the CPU and of 16 bits on CUDA, want one width.
    """
    single = x.is_cuda and x.dtype == torch.float32 and not torch.is_autocast_enabled() and torch.version.hip is None
    return single or torch.onnx.is_in_onnx_export()


def kernel_widths(x: Tensor, d: int, e: int) -> tuple[int, int]:
    """Return the widths that queries and values are padded to, so that a fused kernel takes them.

    The kernels of CUDA want multiples of 8 (of 4 in float32); without one PyTorch would build the N x M map.
    """
    step = 8 if x.is_cuda else 1
    d, e = (-(-width // step) * step for width in (d, e))
    return (d, e) if takes_two_widths(x) else (max(d, e), max(d, e))


def widen(tokens: Tensor, extra: int) -> Tensor:
    """Append zero channels to tokens (B, N, C), which change neither their products nor, cut off again, a mean."""
    return F.pad(tokens, (0, extra)) if extra else tokens  # F.pad would copy, were there none to add


def at_least_single(x: Tensor) -> Tensor:
    """Return x, in float32 if it has 16 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cosine_tokens(theta: Tensor, phi: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens q (B, N, d) and k (B, M, d) with q_i . k_j = cos(theta_i, phi_j) / temperature.

    A length below 1e-3 counts as 1e-3, smoothly, so that the gradient of a token that is 0 stays finite.
    """
    q, k = (t / (t.square().sum(2, keepdim=True) + 1e-6).sqrt() for t in map(at_least_single, (theta, phi)))
    return (q / temperature).to(theta.dtype), k.to(phi.dtype)


def distance_tokens(theta: Tensor, phi: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens q (B, N, d + 1), k (B, M, d + 1) whose softmax_j(q_i . k_j) is that of -|theta_i - phi_j|^2 / h^2.

    h^2 is `temperature` times the mean of |theta_i - theta_j|^2 over all pairs of positions of an image, which is
    twice their variance: the width of the kernel follows the noise of the image, as Buades et al. set it.
    -|a - b|^2 = 2 a . b - |b|^2 - |a|^2, of which the last does not depend on j and cancels in the softmax.
    A token further than REACH h from the mean of all is drawn to there: it has no neighbours in either place.
    """
    q, k = at_least_single(theta), at_least_single(phi)
    mean = q.mean(1, keepdim=True)  # the same for both: distances stay, and numbers are as small as they can be
    q, k = q - mean, k - mean
    h = (2 * temperature * q.square().sum(2, keepdim=True).mean(1, keepdim=True) + 1e-12).sqrt()
    q, k = (t / (t.square().sum(2, keepdim=True) / REACH**2).clamp_min(1).sqrt() for t in (q / h, k / h))
    q = torch.cat([2 * q, -torch.ones_like(q[:, :, :1])], 2)
    k = torch.cat([k, k.square().sum(2, keepdim=True)], 2)
    return q.to(theta.dtype), k.to(phi.dtype)


# ---- 'dot_product' -----------------------------------------------------------------------------------


def dot_product_response(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """Compute y_i = sum_j (theta_i . phi_j) g_j / M as theta (phi^T g / M): exact, and d x e numbers, not N x M.

    theta (B, N, d), phi (B, M, d), g (B, M, e) -> y (B, N, e).
    """
    return theta @ mean_product(phi, g)


def mean_product(a: Tensor, b: Tensor) -> Tensor:
    """Compute sum_j a_j b_j^T / M of tokens a (B, M, d) and b (B, M, e) -> (B, d, e).

    In 16 bits both factors share 1/M, so that neither the sum overflows float16 nor the terms underflow, nor
    their gradients; and so in traced graphs, which another runtime may compute in 16 bits.
    """
    traced = torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()
    if a.dtype in (torch.float32, torch.float64) and not traced:
        return torch.baddbmm(a.new_zeros(1), a.transpose(1, 2), b, beta=0, alpha=1 / a.shape[1])
    share = a.shape[1] ** -0.5
    shared = a * share
    return shared.transpose(1, 2) @ (shared if b is a else b * share)


# ---- 'concatenation' ---------------------------------------------------------------------------------


def concatenation_response(theta: Tensor, phi: Tensor, g: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute y_i = sum_j relu(W_f [theta_i, phi_j] + b) g_j / M.

    The inner product with W_f splits into one number for each theta and one for each phi, but the ReLU of their
    sums is an N x M map.

    Args:
        theta: Queries (B, N, d).
        phi: Keys (B, M, d).
        g: Values (B, M, e).
        weight: W_f, (1, 2d, 1, 1).
        bias: b, (1,).

    Returns: y (B, N, e).

    Raises:
        MemoryError: the map would need more than MAX_MAP_BYTES.
    """
    (batch, n, _), m = theta.shape, phi.shape[1]
    if not torch.onnx.is_in_onnx_export() and (need := batch * n * m * theta.element_size()) > MAX_MAP_BYTES:
        raise MemoryError(
            f"operation 'concatenation' needs a map of {batch} x {n} x {m} numbers = {need / 2**30:.1f} GiB "
            f"(limit {MAX_MAP_BYTES / 2**30:.0f} GiB); use it on smaller maps, raise sub_sample, or choose "
            "'embedded_gaussian' or 'dot_product', which build no map"
        )
    w_theta, w_phi = weight.reshape(2, -1, 1).unbind()
    pairs = torch.relu(theta @ w_theta + (phi @ w_phi).transpose(1, 2) + bias)  # (B, N, 1) + (B, 1, M)
    return pairs @ (g / m)
