"""The block on a CUDA device: numbers against float64, the kernels that are chosen, mixed precision, compile=, DDP.

pytest tests/test_cuda.py -rA --junitxml=cuda.xml       # with a device; which kernel each size got is in the XML
YOLO_WNLB_TEST_DEVICE=cpu pytest tests/test_cuda.py     # the same bodies on the CPU, at smaller sizes
"""

import contextlib
import os
import shutil

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from conftest import shapes_set
from test_wnlb import equations, only_with_keys, randomised
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from yolo_wnlb.pairwise import CONTROLS, OPERATIONS, softmax_response
from yolo_wnlb.wnlb import WNLB

DEVICE = os.environ.get("YOLO_WNLB_TEST_DEVICE", "cuda")
CUDA = DEVICE == "cuda"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        CUDA and not torch.cuda.is_available(), reason="no CUDA device; YOLO_WNLB_TEST_DEVICE=cpu runs it on the CPU"
    ),
    pytest.mark.usefixtures("seed", "exact"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}  # of the norm of what is compared


@pytest.fixture
def exact():
    """Let float32 be float32: TF32 has the mantissa of float16."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def assert_close(found, wanted, dtype, what, least=1e-6, times=1):
    """Compare by norms, since single numbers of a sum in 16 bits may be far off; norms below `least` count as it."""
    apart = (found.detach().double().cpu() - wanted).norm() / wanted.norm().clamp_min(least)
    assert apart < times * TOLERANCE[dtype], f"{what}: {apart:.2e} of the norm"


def block_of(operation, sub_sample, **options):
    """Return a block with numbers of the size of trained ones, in float64 on the CPU."""
    only_with_keys(operation, sub_sample)
    block = randomised(WNLB(32, operation=operation, sub_sample=sub_sample, **options)).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(0.3)
    return block


class Operators(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def attention(self):
        """Return the kernel of the attention: flash, efficient, cudnn, flash of the CPU, or the map of all pairs."""
        fused = [name for name in self.names if name.startswith("_scaled_dot_product") and "backward" not in name]
        return fused[0].removeprefix("_scaled_dot_product_") if fused else "map"


# ---- numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("folded", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("sub_sample", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_values_are_those_of_float64(operation, sub_sample, layout, folded, dtype):
    block, x = block_of(operation, sub_sample).eval(), torch.randn(2, 32, 18, 13, dtype=torch.float64)
    wanted = equations(block, x)
    block.to(DEVICE, dtype)
    if folded:
        block.fold()
    with torch.inference_mode():
        found = block(x.to(DEVICE, dtype).to(memory_format=layout))
    assert found.dtype is dtype
    assert_close(found, wanted, dtype, "z")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("sub_sample", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradients_are_those_of_float64(operation, sub_sample, training, dtype):
    """In 16 bits under autocast, as Ultralytics trains; folded in evaluation mode."""
    block, x = block_of(operation, sub_sample).train(training), torch.randn(2, 32, 18, 13, dtype=torch.float64)
    direction = torch.randn_like(x)

    def gradients(compute, x, direction):
        leaves = {"x": x.requires_grad_(), **dict(block.named_parameters())}
        z = compute(x)
        return dict(zip(leaves, torch.autograd.grad((z.to(x.dtype) * direction).sum(), list(leaves.values()))))

    wanted = gradients(lambda x: equations(block, x), x.clone(), direction)
    block.to(DEVICE, torch.float32).fold()
    mixed = torch.autocast(DEVICE, dtype) if dtype is not torch.float32 else contextlib.nullcontext()
    with mixed:
        found = gradients(block, x.to(DEVICE, torch.float32), direction.to(DEVICE, torch.float32))
    largest = max(gradient.norm() for gradient in wanted.values())
    times = 3 if operation == "concatenation" else 1  # rounding switches pairs at the corner of its ReLU on and off
    for name, gradient in found.items():  # where terms cancel out, what is left is smaller than the rounding of each
        assert_close(gradient, wanted[name], dtype, name, 0.1 * largest, times)


def test_what_overflows_float16_stays_right():
    block = WNLB(64, operation="gaussian", w_init=0.5).eval()
    x = torch.randn(1, 64, 4, 4) * 100
    wanted = block.double()(x.double())
    assert_close(block.to(DEVICE, torch.float16)(x.to(DEVICE, torch.float16)), wanted, torch.float16, "z")


# ---- kernels -----------------------------------------------------------------------------------------

WIDTHS = [1, 5, 8, 16, 48, 96, 128, 192, 256, 264, 288, 512]  # theirs are limited: 128 or 256 for some, multiples of 8
LENGTHS = [1, 7, 400, 6400, 25_600] if CUDA else [1, 7, 400]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_size_gets_a_fused_kernel(length, width, dtype, record_property):
    """No N x M map in either direction, whatever the head size and the length of the sequence."""
    q, k, v = (torch.randn(1, length, width, device=DEVICE, dtype=dtype, requires_grad=True) for _ in range(3))
    with Operators() as ran:
        softmax_response(q, k, v, width**-0.5, width, width).sum().backward()
    record_property("kernel", f"{dtype}, width {width}, length {length}: {ran.attention()}")
    if CUDA or dtype is torch.float32:  # on the CPU, kernels of 16 bits for training are recent
        assert ran.attention() != "map", sorted(ran.names)
    if CUDA and dtype is torch.float32:
        assert ran.attention() == "efficient_attention"
    if CUDA and dtype is not torch.float32 and width <= 128 and length > 1:
        assert ran.attention() in ("flash_attention", "cudnn_attention")


@pytest.mark.parametrize(("sub_sample", "embed_dim"), [(1, 32), (2, 32), (1, 96), (2, 96), (2, 20)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gaussian_form_gets_a_fused_kernel_whatever_its_two_widths(dtype, sub_sample, embed_dim, record_property):
    block = WNLB(64, embed_dim, "gaussian", sub_sample, w_init=0.3, scale=0.1).eval().to(DEVICE, dtype)
    with Operators() as ran, torch.no_grad():
        block(torch.randn(1, 64, 40, 40, device=DEVICE, dtype=dtype))
    record_property("kernel", f"{dtype}, queries 64, values {embed_dim}, keys / {sub_sample}^2: {ran.attention()}")
    assert ran.attention() != "map", sorted(ran.names)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_long_sequence_is_right_and_takes_no_map(dtype, record_property):
    """The P2 map of a picture of 1920 x 1080 pixels; a few rows are compared with float64."""
    n, width = (480 * 270, 16) if CUDA else (2048, 16)
    q, k, v = (torch.randn(1, n, width, device=DEVICE, dtype=dtype) for _ in range(3))
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    y = softmax_response(q, k, v, 0.25, width, width)
    rows = torch.tensor([0, 1, n // 2, n - 1], device=DEVICE)
    exact = (q[:, rows].double() @ k.double().transpose(1, 2) * 0.25).softmax(-1) @ v.double()
    assert_close(y[:, rows], exact.cpu(), dtype, "y")
    if CUDA:
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        record_property("peak", f"{dtype}: {peak:.0f} MiB, a map would take {n * n * q.element_size() / 2**20:.0f}")
        assert peak < 1024


# ---- training ----------------------------------------------------------------------------------------


def small_network(operation):
    block = WNLB(32, operation=operation, sub_sample=1 if operation in CONTROLS else 2)
    return nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.SiLU(), block, nn.Conv2d(32, 1, 1)).to(
        DEVICE
    )


def learn(network, steps=25):
    """Train with mixed precision as Ultralytics does; returns the losses."""
    scaler = torch.amp.GradScaler(DEVICE, enabled=CUDA)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    x = torch.rand(4, 3, 48, 48, device=DEVICE)
    target = F.avg_pool2d(x.mean(1, keepdim=True), 9, 2, 4)
    losses = []
    for _ in range(steps):
        with torch.autocast(DEVICE, torch.float16 if CUDA else torch.bfloat16):
            loss = (network(x).float() - target).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


def assert_learnt(network, losses):
    assert losses[-1] < 0.5 * losses[0], losses
    for name, parameter in network.named_parameters():
        assert parameter.isfinite().all() and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert next(block for block in network.modules() if isinstance(block, WNLB)).w != 0


@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_learns_with_mixed_precision(operation):
    network = small_network(operation)
    assert_learnt(network, learn(network))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_learns_in_ddp(operation, tmp_path):
    """One process on one device: the reducer, SyncBatchNorm's conversion and the buffers are those of many."""
    dist.init_process_group("nccl" if CUDA else "gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = small_network(operation)
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network) if CUDA else network
        wrapped = nn.parallel.DistributedDataParallel(network, device_ids=[0] if CUDA else None)
        assert_learnt(network, learn(wrapped))
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile wants a C++ compiler")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_compiled_it_computes_the_same_and_follows_its_parameters(operation):
    block, x = block_of(operation, 1).float().eval().to(DEVICE), torch.randn(2, 32, 18, 13, device=DEVICE)
    block.fold()
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True)
    with torch.inference_mode():
        for w in (0.3, 0.7):
            block.w.data.fill_(w)
            assert_close(compiled(x), block(x).double().cpu(), torch.float32, "z")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile wants a C++ compiler")
@pytest.mark.skipif(not CUDA, reason="compiling a whole model takes a CPU minutes")
def test_ultralytics_trains_with_compile(tmp_path):
    assert "w" in trained(tmp_path, compile=True)


def test_ultralytics_trains_with_mixed_precision_and_predicts_in_half(tmp_path):
    assert "w" in trained(tmp_path, amp=True)


def trained(folder, **options):
    """Train a small model for an epoch, predict with what was saved; returns the names of what its blocks learnt."""
    from ultralytics import YOLO

    data = shapes_set(folder / "shapes", train=8, val=4)
    device = 0 if CUDA else "cpu"
    run = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "plots": False, "verbose": False, "device": device}
    YOLO("yolov8n-seg-wnlb4.yaml").train(data=str(data), project=str(folder), name="run", nbs=4, **run, **options)
    best = YOLO(folder / "run/weights/last.pt")
    blocks = [module for module in best.model.modules() if isinstance(module, WNLB)]
    assert len(blocks) == 4 and all(block.w != 0 and block.w.isfinite() for block in blocks)
    [result] = best.predict(torch.rand(1, 3, 64, 64), device=device, half=CUDA, verbose=False)
    assert result.boxes is not None
    return {name for block in blocks for name, _ in block.named_parameters()}
