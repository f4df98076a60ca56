"""The block as prediction computes it once folded: fewer operations, the same numbers but for rounding. Torch only.

    W_z, its norm and w                  ->  one matrix and one vector:   z = mix y + shift + keep x
    a dot product over all positions     ->  one matrix for the whole image
    a block that changes nothing         ->  left out

Nothing is stored that could grow old. Each pass makes mix (C x e numbers) and shift (C) from the parameters as they
are, which costs next to nothing beside H*W positions; a changed parameter counts from the next pass on, in whatever
way it was changed. Only a graph that is traced holds the numbers of the moment, as constants.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolo_wnlb.pairwise import mean_product, to_map

is_compiling = getattr(torch.compiler, "is_compiling", bool)  # not in torch 2.1; bool() is False


def has_hooks(module: nn.Module) -> bool:
    """Tell whether somebody watches or changes what a module computes."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def is_plain(conv: nn.Module) -> bool:
    """Tell whether nothing of a convolution but its numbers matters: no hook, no class of its own."""
    return type(conv) is nn.Conv2d and not has_hooks(conv)


def can_fold(block: Any) -> bool:
    """Tell whether W_z and its norm are plain layers; pruned, quantised, adapted or watched ones have to be called."""
    if type(block.W_z) is not nn.Sequential or len(block.W_z) != 2:
        return False
    conv, norm = block.W_z
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.weight is None:
        return False
    return is_plain(conv) and not has_hooks(block.W_z) and not has_hooks(norm)


def folded_forward(block: Any, x: Tensor) -> Tensor:
    """Return what `block.forward` does in evaluation mode: z (B, C, H, W) of x (B, C, H, W)."""
    if block.idle and may_leave_out(block, x) and does_nothing(block):
        return x
    mix, shift, keep = output_numbers(block)
    mix, shift, keep = constant(mix), constant(shift), constant(keep.to(x.dtype))  # (C, e), (C,), () or (C,)
    if one_matrix_serves(block, x):
        return one_matrix(block, x, mix, shift, keep)
    y = block.respond(*block.embed(x))  # (B, N, e)
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        # one product straight into the map: a convolution would first copy y
        z = torch.baddbmm(shift[:, None], mix.expand(x.shape[0], -1, -1), y.transpose(1, 2)).reshape(x.shape)
    else:
        z = to_map(F.linear(y, mix, shift), x)
    z = z.to(x.dtype)
    keep = keep[:, None, None] if keep.ndim else keep
    return z + keep * x if torch.jit.is_tracing() else z.addcmul_(x, keep)  # exporters know the sum


def output_numbers(block: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return mix (C, e), shift (C,) and keep, of the shape of w, () or (C,), with which z = mix y + shift + keep x.

    W_z and its norm are u = gain (W y - mean) + bias, gain = weight / sqrt(var + eps), and z = w u + (1 - w) x.
    """
    conv, norm = block.W_z
    w_z = conv.weight.flatten(1)
    numbers = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    w = block.w if block.weighted else torch.ones_like(norm.weight[0])
    if half := w_z.dtype in (torch.float16, torch.bfloat16):  # so that mix and shift are rounded once
        w, *numbers = (number.float() for number in (w, *numbers))
    weight, bias, mean, var = numbers
    gain = w * weight * torch.rsqrt(var + norm.eps)
    mix, shift = gain.unsqueeze(1) * w_z, torch.addcmul(w * bias, gain, mean, value=-1)
    keep = 1 - w if block.weighted else w
    return (mix.to(w_z), shift.to(w_z), keep) if half else (mix, shift, keep)


def does_nothing(block: Any) -> bool:
    """Tell whether z = x whatever x is: w = 0, or the norm of a block without w is zero. Reads the numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # a traced graph is meant to keep the answer
        if block.weighted and bool((block.w != 0).any()):
            return False
        mix, shift, keep = output_numbers(block)
        return not bool(mix.any() | shift.any() | (keep != 1).any())


def may_leave_out(block: Any, x: Tensor) -> bool:
    """Tell whether `does_nothing` may be asked: no gradient is wanted, and the numbers can be read."""
    if torch.jit.is_tracing():
        return True
    if is_compiling() or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return False
    return not (torch.is_grad_enabled() and any(parameter.requires_grad for parameter in block.parameters()))


def constant(tensor: Tensor) -> Tensor:
    """Return the tensor; while a graph is traced, its numbers as a constant, which every exporter understands."""
    if not torch.jit.is_tracing():
        return tensor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.tensor(tensor.tolist(), dtype=tensor.dtype, device=tensor.device).reshape(tensor.shape)


# ---- the dot product of all positions with all -----------------------------------------------------


def one_matrix_serves(block: Any, x: Tensor) -> bool:
    """Tell whether a block can and should compute with `one_matrix`."""
    if block.operation != "dot_product" or block.sub_sample > 1:
        return False
    pays = one_matrix_pays(block.in_channels, block.embed_dim, x.shape[2] * x.shape[3])
    return pays and all(map(is_plain, (block.theta, block.phi, block.g)))


def one_matrix_pays(channels: int, embed_dim: int, n: int) -> bool:
    """Tell whether one matrix for all of n positions takes fewer operations than theta, phi and g of each."""
    c, d = channels, embed_dim
    return 2 * c * c * n + 2 * c * d * (c + d) < (4 * c * d + 2 * d * d) * n


def one_matrix(block: Any, x: Tensor, mix: Tensor, shift: Tensor, keep: Tensor) -> Tensor:
    """Return z = (mix A theta + keep) x + ..., with A = sum_j g_j phi_j^T / M made of x x^T: exact.

    One matrix (C, C) serves all positions of an image; neither phi nor g of each of them is computed.
    """
    theta, phi, g = block.theta, block.phi, block.g
    flat, w_g, w_phi = x.flatten(2), g.weight.flatten(1), phi.weight.flatten(1)  # (B, C, N), (e, C), (d, C)
    mean, tokens = flat.mean(2, keepdim=True), flat.transpose(1, 2)  # (B, C, 1), (B, N, C)
    a = w_g @ mean_product(tokens, tokens) @ w_phi.T  # (B, e, d)
    a = a + (w_g @ mean) * phi.bias + g.bias[:, None] * (w_phi @ mean + phi.bias[:, None]).transpose(1, 2)
    a = mix @ a  # (B, C, d)
    identity = keep * torch.eye(block.in_channels, dtype=x.dtype, device=x.device)
    offset = a @ theta.bias[:, None] + shift[:, None]  # (B, C, 1)
    return torch.baddbmm(offset, a @ theta.weight.flatten(1) + identity, flat).reshape(x.shape).to(x.dtype)
