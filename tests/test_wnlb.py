"""The block against the equations of its papers, and what it promises of its start, memory and numbers."""

import copy
import doctest
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from yolo_wnlb import folding, pairwise, wnlb
from yolo_wnlb.folding import one_matrix_pays
from yolo_wnlb.pairwise import CONTROLS, OPERATIONS, SOFTMAX, dot_product_response, to_tokens
from yolo_wnlb.wnlb import WNLB

SCALES = [(o, s) for o in OPERATIONS for s in ((1.0, None, 0.3, "cosine") if "gaussian" in o else (1.0,))]
PAPERS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")  # those of the authors' checkpoints
WITHOUT_PLACE = [o for o in OPERATIONS if o != "depthwise"]  # forms that do not know where a position lies
PARTS = [(o, s) for o in OPERATIONS for s in ((1, 2) if o not in CONTROLS else (1,))]  # sub_sample
pytestmark = pytest.mark.usefixtures("seed")
MAPLESS = [form for form in SCALES if form[0] != "concatenation" and form[1] in (1.0, "cosine")]


def only_with_keys(operation, sub_sample):
    """Skip what no block is: a control has no keys to sub-sample."""
    if operation in CONTROLS and sub_sample > 1:
        pytest.skip("a control has no keys")


def randomised(block):
    """Give every number of a block a value that is neither 0 nor 1; w becomes 0.3."""
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name == "w":
                tensor.fill_(0.3)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.5)
    return block


def equations(block, x):
    """Compute z of both papers one step after the other, with plain products and loops over windows."""

    def project(conv, of):
        if not isinstance(conv, nn.Conv2d):
            return of
        out = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], of)
        return out if conv.bias is None else out + conv.bias[None, :, None, None]

    def keys(of):  # the largest of each k x k window; those at the far edges may be cut off
        k, (height, width) = block.sub_sample, of.shape[2:]
        windows = [of[:, :, i : i + k, j : j + k] for i in range(0, height, k) for j in range(0, width, k)]
        return torch.stack([window.amax((2, 3)) for window in windows], 2)  # (B, channels, M)

    batch, _, height, width = x.shape
    tied = block.theta if block.operation == "non_local_means" else block.phi
    theta, phi, g = project(block.theta, x).flatten(2), keys(project(tied, x)), keys(project(block.g, x))
    n, m = theta.shape[2], phi.shape[2]
    total = 1
    if block.operation == "pointwise":
        f = torch.eye(n, dtype=x.dtype).expand(batch, n, n)
    elif block.operation == "depthwise":
        f = None
    elif block.operation == "non_local_means":
        whole = (theta[:, :, :, None] - theta[:, :, None]).square().sum(1)  # of all pairs of positions
        apart = (theta[:, :, :, None] - phi[:, :, None]).square().sum(1)
        f = -apart / (block.logit_scale.neg().exp() * whole.mean((1, 2), keepdim=True) + 1e-12)
    elif block.operation == "concatenation":
        pair = torch.cat([theta[..., None].expand(-1, -1, n, m), phi[:, :, None].expand(-1, -1, n, m)], 1)
        f = project(block.W_f[0], pair)[:, 0].clamp(min=0)
    elif block.scale == "cosine":
        lengths = [(t.square().sum(1) + 1e-6).sqrt() for t in (theta, phi)]
        f = torch.einsum("bdi,bdj->bij", theta, phi) / (lengths[0][:, :, None] * lengths[1][:, None])
        f = f * block.logit_scale.exp()
    else:
        f = torch.einsum("bdi,bdj->bij", theta, phi)
        if "gaussian" in block.operation:
            f = f * (theta.shape[1] ** -0.5 if block.scale is None else block.scale)
    if block.operation in SOFTMAX:
        f = torch.exp(f)
        total = f.sum(2, keepdim=True)
    elif block.operation in ("dot_product", "concatenation"):
        total = m
    if f is None:
        around = nn.functional.pad(g.reshape(batch, -1, height, width), (1, 1, 1, 1))
        shifted = [around[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        y = sum(k[:, None, None] * part for k, part in zip(block.depthwise.weight.flatten(1).T, shifted))
    else:
        y = torch.einsum("bij,bej->bei", f / total, g.expand(batch, -1, -1)).reshape(batch, -1, height, width)
    u, norm = project(block.W_z[0], y), block.W_z[1]
    if block.training:
        mean = u.mean((0, 2, 3))
        var = ((u - mean[None, :, None, None]) ** 2).mean((0, 2, 3))
    else:
        mean, var = norm.running_mean, norm.running_var
    gain = norm.weight / torch.sqrt(var + norm.eps)
    u = (u - mean[None, :, None, None]) * gain[None, :, None, None] + norm.bias[None, :, None, None]
    if not block.weighted:
        return u + x
    w = block.w.reshape(-1, 1, 1)
    return w * u + (1 - w) * x


# ---- the function ----------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (2, 5, 1, 1), (3, 1, 4, 2), (2, 7, 6, 6)], ids=str)
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
@pytest.mark.parametrize("sub_sample", [1, 2, 3])
@pytest.mark.parametrize(("operation", "scale"), SCALES)
def test_values_and_gradients_are_those_of_the_equations(operation, scale, sub_sample, weighted, shape, training):
    only_with_keys(operation, sub_sample)
    block = WNLB(shape[1], operation=operation, sub_sample=sub_sample, weighted=weighted, scale=scale)
    block = randomised(block).double().train(training)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)
    leaves = {"x": x, **dict(block.named_parameters())}
    wanted, found = equations(block, x), block(x)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad((z * direction).sum(), list(leaves.values())) for z in (found, wanted)]
    for name, ours, theirs in zip(leaves, *gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)], ids=str)
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (2, 5, 1, 1), (3, 1, 4, 2), (2, 7, 6, 6)], ids=str)
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
@pytest.mark.parametrize("sub_sample", [1, 2, 3])
@pytest.mark.parametrize(
    ("operation", "scale", "gram"), [*((*form, True) for form in SCALES), ("dot_product", 1.0, False)]
)
def test_folded_it_is_the_same(operation, scale, sub_sample, weighted, shape, dtype, tolerance, gram, monkeypatch):
    monkeypatch.setattr(folding, "one_matrix_pays", lambda channels, embed_dim, n: gram)
    only_with_keys(operation, sub_sample)
    block = WNLB(shape[1], operation=operation, sub_sample=sub_sample, weighted=weighted, scale=scale)
    block = randomised(block).double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    wanted, state = equations(block, x), set(block.state_dict())
    block.to(dtype).fold()
    assert set(block.state_dict()) == state
    torch.testing.assert_close(block(x.to(dtype)), wanted.to(dtype), rtol=tolerance, atol=tolerance)
    block.double().train()
    torch.testing.assert_close(block(x), equations(block, x), rtol=1e-6, atol=1e-6)


def distance_weights(theta, temperature):
    """Weights of non-local means of tokens (B, N, d) as they are written: (B, N, N)."""
    apart = (theta[:, :, None] - theta[:, None]).square().sum(3)
    return (-apart / (temperature * apart.mean((1, 2), keepdim=True))).softmax(2)


def tensor_of(block, name):
    return dict([*block.named_parameters(), *block.named_buffers()])[name]


def owner_of(block, name):
    path, _, last = name.rpartition(".")
    return block.get_submodule(path), last


def take_a_step(block, x, training):
    """Take a step of an optimizer, in either mode."""
    block.train(training)
    torch.optim.SGD(block.parameters(), 0.5).zero_grad()
    block(x).square().sum().backward()
    torch.optim.SGD(block.parameters(), 0.05).step()
    block.eval()


def load_doubled(block, **options):
    block.load_state_dict({name: tensor * 2 for name, tensor in block.state_dict().items()}, **options)


TENSORS = ["w", *(f"{conv}.weight" for conv in ("theta", "phi", "g", "W_z.0", "W_z.1")), "theta.bias"]
TENSORS += ["W_z.1.bias", "W_z.1.running_mean", "W_z.1.running_var"]
IN_PLACE = {  # a tensor is changed without another taking its place; `.data` does not even count a version
    "mul_": lambda tensor: tensor.mul_(1.5),
    "copy_": lambda tensor: tensor.copy_(tensor * 1.5),
    "an element": lambda tensor: tensor.flatten()[-1:].add_(0.5),
    "data.mul_": lambda tensor: tensor.data.mul_(1.5),
    "data =": lambda tensor: setattr(tensor, "data", tensor.data * 1.5),
    "detach().mul_": lambda tensor: tensor.detach().mul_(1.5),
}
OTHERWISE = {  # the block is changed as a whole
    "load_state_dict": lambda block, x: load_doubled(block),
    "load_state_dict(assign=True)": lambda block, x: load_doubled(block, assign=True),
    "its state is written to": lambda block, x: block.state_dict()["w"].fill_(0.7),
    "a step in training mode": lambda block, x: take_a_step(block, x, True),
    "a step in evaluation mode": lambda block, x: take_a_step(block, x, False),
    "new statistics": lambda block, x: (block.train()(x), block.eval()),
    "reset_parameters": lambda block, x: (block.reset_parameters(), block.w.data.fill_(0.4)),
    "eps": lambda block, x: setattr(block.W_z[1], "eps", 0.5),
    "scale": lambda block, x: setattr(block, "scale", 0.1),
    "another W_z": lambda block, x: block.W_z.__setitem__(0, nn.Conv2d(2, 4, 1, bias=False)),
    "another norm": lambda block, x: block.W_z.__setitem__(1, nn.BatchNorm2d(4).eval()),
    "no norm": lambda block, x: block.W_z.__setitem__(1, nn.Identity()),
    "another phi": lambda block, x: setattr(block, "phi", nn.Conv2d(4, 2, 1, bias=False)),
    "a parametrization of w": lambda block, x: nn.utils.parametrize.register_parametrization(block, "w", nn.Tanh()),
    "pruned": lambda block, x: prune.random_unstructured(block.W_z[0], "weight", 0.9),
    "a hook on W_z": lambda block, x: block.W_z.register_forward_hook(lambda module, given, out: out * 2),
    "a hook on the norm": lambda block, x: block.W_z[1].register_forward_hook(lambda module, given, out: out * 2),
    "train and eval": lambda block, x: block.train().eval().w.data.fill_(0.7),
    "double": lambda block, x: (block.double(), block.w.data.fill_(1 / 3), x.data.__setitem__(..., x)),
    "parameters through the CPU": lambda block, x: block.to("cpu").w.data.fill_(0.7),
}


def check_that_it_follows(block, change, x):
    """Fold, compute, change, compute again: the numbers are those of the changed block, which was never folded."""
    block.eval().fold()
    before = block(x)
    change(block)
    assert block.folded
    x = x.to(block.w.dtype)
    found = block(x)
    block.unfold()
    wanted = block(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(before.to(wanted.dtype), wanted), "the change changes nothing"


@pytest.mark.parametrize("how", IN_PLACE)
@pytest.mark.parametrize("name", TENSORS)
def test_a_folded_block_follows_each_number_that_is_changed_in_place(name, how):
    block, x = randomised(WNLB(4)), torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        check_that_it_follows(block, lambda block: IN_PLACE[how](tensor_of(block, name)), x)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["w", "g.weight", "W_z.0.weight", "W_z.1.running_mean"])
def test_a_folded_block_of_each_form_follows(operation, name):
    block, x = randomised(WNLB(4, operation=operation)), torch.randn(2, 4, 9, 9)
    check_that_it_follows(block, lambda block: tensor_of(block, name).data.mul_(1.5), x)


@pytest.mark.parametrize("name", TENSORS)
def test_a_folded_block_follows_a_tensor_that_takes_the_place_of_another(name):
    def change(block):
        module, last = owner_of(block, name)
        old = getattr(module, last)
        setattr(module, last, nn.Parameter(old * 1.5) if isinstance(old, nn.Parameter) else old * 1.5)

    check_that_it_follows(randomised(WNLB(4)), change, torch.randn(2, 4, 3, 3))


@pytest.mark.parametrize("how", OTHERWISE)
def test_a_folded_block_follows_whatever_else_changes_it(how):
    x = torch.randn(2, 4, 3, 3)
    check_that_it_follows(randomised(WNLB(4)), lambda block: OTHERWISE[how](block, x), x)


@pytest.mark.parametrize("name", TENSORS)
def test_a_folded_block_follows_in_inference_mode_where_tensors_have_no_versions(name):
    """Ultralytics loads and fuses models there, whenever it validates."""
    with torch.inference_mode():
        block = copy.deepcopy(randomised(WNLB(4)))
        assert block.w.is_inference()
        check_that_it_follows(block, lambda block: tensor_of(block, name).mul_(1.5), torch.randn(2, 4, 3, 3))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_folded_in_evaluation_mode_all_parameters_receive_their_gradients(operation):
    block = randomised(WNLB(4, operation=operation)).double().eval()
    x, found = torch.randn(2, 4, 9, 9, dtype=torch.float64), []
    for fold in (block.unfold, block.fold):
        fold()
        leaf = x.clone().requires_grad_()
        found.append(torch.autograd.grad(block(leaf).square().sum(), [leaf, *block.parameters()]))
    for ours, wanted in zip(*found):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("folded", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_compiled_block_is_one_graph_and_follows_its_parameters(operation, folded):
    block, x = randomised(WNLB(4, operation=operation)).eval(), torch.randn(2, 4, 9, 9)
    if folded:
        block.fold()
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for w in (0.3, 0.7, 0.0):
            block.w.data.fill_(w)
            torch.testing.assert_close(compiled(x), block(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("idle", [False, True])
def test_an_exported_program_holds_the_parameters_and_no_decision_on_their_values(idle):
    block, x = randomised(WNLB(4)).eval(), torch.randn(2, 4, 5, 5)
    if idle:
        block.w.data.zero_()
    block.fold()
    exported = torch.export.export(block, (x,)).module()
    torch.testing.assert_close(exported(x), block(x))
    for model in (block, exported):
        dict(model.named_parameters())["w"].data.fill_(0.7)
    torch.testing.assert_close(exported(x), block(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(block(x), x)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_traced_graph_holds_what_was_folded_as_constants_of_the_moment(operation):
    block, x = randomised(WNLB(4, operation=operation)).eval(), torch.randn(1, 4, 9, 9)
    block.fold()
    block.w.data.fill_(0.6)
    traced = torch.jit.trace(block, x)
    torch.testing.assert_close(traced(x), block(x))
    kinds = {node.kind() for node in torch.jit.freeze(traced).graph.nodes()}  # without what nobody asks for
    assert not {"aten::rsqrt", "aten::native_batch_norm", "aten::addcmul"} & kinds
    block.w.data.zero_()
    block.fold()
    assert {node.kind() for node in torch.jit.trace(block, x).graph.nodes()} <= {"prim::Constant", "prim::GetAttr"}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
def test_folded_a_block_that_does_nothing_is_left_out(operation, weighted, monkeypatch):
    block = WNLB(6, operation=operation, weighted=weighted).eval()
    block.fold()
    x, number = torch.randn(1, 6, 4, 4), block.w if weighted else block.W_z[1].bias
    assert block.idle
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(block, "embed", None)  # whoever calls it fails
        assert block(x) is x
    assert torch.equal(block(x), x)
    block(x).sum().backward()
    assert number.grad is not None, "where a gradient is wanted, nothing is left out"
    number.data.fill_(0.01)
    with torch.no_grad():
        assert not torch.equal(block(x), x)
    block.fold()
    assert not block.idle


def test_who_looks_at_the_embeddings_of_a_block_sees_them():
    """thop counts operations so, and it counts in Ultralytics."""
    block, seen = WNLB(4), []
    x = torch.randn(1, 4, 3, 3)
    wanted = block(x)
    for conv in (block.theta, block.phi, block.g):
        conv.register_forward_hook(lambda module, given, out: seen.append(out.shape))
    torch.testing.assert_close(block(x), wanted)
    assert seen == [(1, 2, 3, 3)] * 3


@pytest.mark.parametrize("change", ["class", "parametrization", "pruning", "wrapper"])
def test_an_embedding_that_is_more_than_its_numbers_is_called(change):
    """Quantisation, pruning, spectral norms and adapters all act by being called."""
    block, x = randomised(WNLB(4)), torch.randn(1, 4, 3, 3)
    wanted = block(x)

    class Silent(nn.Conv2d):
        def forward(self, x):
            return 0 * super().forward(x)

    if change == "class":
        block.phi = Silent(4, 2, 1, bias=False)
    elif change == "parametrization":
        nn.utils.parametrizations.spectral_norm(block.phi)
    elif change == "pruning":
        prune.random_unstructured(block.phi, "weight", 0.9)
    else:
        block.phi = nn.Sequential(block.phi, nn.ReLU())
    for _ in range(2):
        block(x).sum().backward()
    assert not torch.allclose(block(x), wanted)
    wanted = block.eval()(x)
    block.fold()
    torch.testing.assert_close(block(x), wanted)


@pytest.mark.parametrize("folded", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize("operation", WITHOUT_PLACE)
def test_a_g_that_is_not_linear_is_averaged_and_not_applied_to_the_mean(operation, folded):
    block, x = randomised(WNLB(4, operation=operation)).eval(), torch.randn(1, 4, 3, 3)
    conv = copy.deepcopy(block.g)
    block.g = nn.Sequential(block.g, nn.ReLU())
    if folded:
        block.fold()
    y = block.respond(*block.embed(x))
    block.g = conv
    theta, phi = (t.flatten(2).transpose(1, 2) for t in (block.theta(x), block.phi(x)))
    eye = torch.eye(9).expand(1, 9, 9)  # whose mean is the map of weights
    weights = {
        "dot_product": lambda: dot_product_response(theta, phi, eye),
        "pointwise": lambda: eye,
        "non_local_means": lambda: distance_weights(theta, block.temperature),
        "concatenation": lambda: pairwise.concatenation_response(
            theta, phi, eye, block.W_f[0].weight, block.W_f[0].bias
        ),
    }.get(operation, lambda: (theta @ phi.transpose(1, 2)).softmax(-1))()
    torch.testing.assert_close(y, weights @ conv(x).relu().flatten(2).transpose(1, 2))


def test_folding_adds_neither_tensors_nor_a_state():
    block = randomised(WNLB(4)).eval()
    before = set(block.state_dict()), set(dict(block.named_buffers())), set(dict(block.named_parameters()))
    block.fold()
    block(torch.randn(1, 4, 3, 3))
    assert (set(block.state_dict()), set(dict(block.named_buffers())), set(dict(block.named_parameters()))) == before


def test_a_block_whose_norm_was_fused_by_others_goes_on():
    block, x = randomised(WNLB(4)).eval(), torch.randn(1, 4, 3, 3)
    wanted = block(x)
    block.W_z = nn.Sequential(fuse_conv_bn_eval(*block.W_z), nn.Identity())
    block.fold()
    torch.testing.assert_close(block(x), wanted)


@pytest.mark.parametrize("folded", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize(("operation", "sub_sample"), PARTS)
def test_a_traced_block_takes_other_sizes(operation, sub_sample, folded):
    block = randomised(WNLB(4, operation=operation, sub_sample=sub_sample)).eval()
    if folded:
        block.fold()
    traced = torch.jit.trace(block, torch.randn(1, 4, 6, 6))
    for shape in ((1, 4, 6, 6), (2, 4, 7, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(traced(x), block(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_folded_it_can_be_halved(operation, gram, dtype, monkeypatch):
    monkeypatch.setattr(folding, "one_matrix_pays", lambda channels, embed_dim, n: gram)
    block = randomised(WNLB(16, operation=operation, scale=0.3 if "gau" in operation else 1.0))
    x = torch.randn(2, 16, 9, 7)
    wanted = block.eval()(x)
    block.fold()
    tolerance = 8 * torch.finfo(dtype).eps
    assert block.to(dtype)(x.to(dtype)).dtype is dtype
    torch.testing.assert_close(block(x.to(dtype)).float(), wanted, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))], ids=["copy", "pickle"]
)
def test_a_folded_block_is_copied_and_kept_as_it_is(how):
    block, x = randomised(WNLB(4)).eval(), torch.randn(1, 4, 3, 3)
    wanted = block(x)
    block.fold()
    other = how(block)
    torch.testing.assert_close(other(x), wanted)
    with torch.no_grad():
        other.w.fill_(0.7)
    torch.testing.assert_close(other(x), equations(other, x))
    torch.testing.assert_close(block(x), wanted)


def test_a_pickle_of_a_folded_block_by_an_earlier_revision_loads_and_computes_with_its_parameters():
    block, x = randomised(WNLB(4)).eval(), torch.randn(1, 4, 3, 3)
    wanted = block(x)
    for name in ("mix", "shift", "project", "project_bias"):
        block.register_buffer(name, torch.full((2,), torch.nan), persistent=False)
    vars(block).update(keep=0.5, idle=True)
    other = pickle.loads(pickle.dumps(block))
    torch.testing.assert_close(other(x), wanted)
    assert set(dict(other.named_buffers())) == set(dict(WNLB(4).named_buffers()))
    assert vars(other).keys() == vars(WNLB(4)).keys()
    other.load_state_dict(WNLB(4).state_dict())


def test_folded_in_training_mode_it_goes_on_learning():
    block, x = randomised(WNLB(4)).train(), torch.randn(2, 4, 3, 3)
    block.fold()
    block(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() for p in block.parameters())
    with torch.no_grad():
        block.w.fill_(0.7)
    torch.testing.assert_close(block.eval()(x), equations(block, x))


@pytest.mark.parametrize(
    ("channels", "embed_dim", "side", "gram"),
    [(32, None, 16, True), (32, None, 8, False), (32, 4, 40, False), (48, None, 14, True), (48, 40, 14, True)],
)
def test_one_matrix_for_all_positions_is_made_where_that_takes_fewer_operations(
    channels, embed_dim, side, gram, monkeypatch
):
    block = randomised(WNLB(channels, embed_dim, operation="dot_product")).eval()
    x = torch.randn(1, channels, side, side)
    assert one_matrix_pays(channels, block.embed_dim, side * side) is gram
    block.fold()
    counted = {}
    for way in (True, False):
        monkeypatch.setattr(folding, "one_matrix_pays", lambda channels, embed_dim, n, way=way: way)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            block(x)
        counted[way] = counter.get_total_flops()
    assert (counted[True] < counted[False]) is gram, counted


@pytest.mark.parametrize("folded", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize(("sub_sample", "embed_dim"), [(1, 32), (2, 32), (1, 96), (2, 96)])
def test_an_onnx_graph_of_the_gaussian_form_computes_what_its_formula_needs(sub_sample, embed_dim, folded, monkeypatch):
    """At 64 x 80 x 80 that is 7.92 GFLOP, and would be 10.54 with values as wide as queries."""
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    block = randomised(WNLB(64, embed_dim, "gaussian", sub_sample, scale=0.1)).eval()
    if folded:
        block.fold()
    n, m, x = 40 * 40, 40 * 40 // sub_sample**2, torch.randn(1, 64, 40, 40)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        z = block(x)
    widths = 64 + min(embed_dim, 64 if sub_sample == 1 else embed_dim)  # of queries, and of values: g, or x if narrower
    assert counter.get_total_flops() == 2 * n * m * widths + 4 * n * 64 * embed_dim
    torch.testing.assert_close(z, equations(block, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("device", "dtype", "widths"),
    [
        ("cpu", torch.float32, (64, 64)),
        ("cpu", torch.float16, (64, 64)),
        ("cuda", torch.float32, (64, 32)),  # memory-efficient attention
        ("cuda", torch.float16, (64, 64)),  # flash attention
        ("cuda", torch.bfloat16, (64, 64)),
    ],
)
def test_values_are_as_wide_as_the_fused_kernel_wants_them(device, dtype, widths):
    x = SimpleNamespace(is_cuda=device == "cuda", dtype=dtype)
    assert pairwise.kernel_widths(x, 64, 32) == widths
    assert pairwise.kernel_widths(x, 13, 5) == ((13, 13) if device == "cpu" else (16, 8 if widths[1] == 32 else 16))


@pytest.mark.parametrize("operation", WITHOUT_PLACE)
def test_permuted_pixels_permute_the_output(operation):
    block = randomised(WNLB(6, operation=operation)).double().eval()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    order = torch.randperm(35)

    def permuted(t):
        return t.flatten(2)[:, :, order].reshape(t.shape)

    assert not torch.allclose(permuted(x), x)
    torch.testing.assert_close(block(permuted(x)), permuted(block(x)))


@pytest.mark.parametrize(("operation", "sub_sample"), [part for part in PARTS if part[0] in WITHOUT_PLACE])
def test_a_constant_field_stays_constant(operation, sub_sample):
    block = randomised(WNLB(6, operation=operation, sub_sample=sub_sample)).double().eval()
    x = torch.randn(1, 6, 1, 1, dtype=torch.float64).expand(1, 6, 5, 7)
    z = block(x)
    torch.testing.assert_close(z, z[:, :, :1, :1].expand_as(z))
    assert not torch.allclose(z, x)


@pytest.mark.parametrize("folded", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_output_has_the_memory_format_of_the_input(operation, folded, monkeypatch):
    monkeypatch.setattr(folding, "one_matrix_pays", lambda channels, embed_dim, n: False)  # which is contiguous always
    block = randomised(WNLB(6, operation=operation)).eval()
    if folded:
        block.fold()
    x = torch.randn(2, 6, 5, 7)
    usual, last = block(x), block(x.to(memory_format=torch.channels_last))
    cut = block(torch.cat([x, x], 1)[:, :6])
    assert not cut.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(cut, usual)
    assert usual.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, usual)


@pytest.mark.parametrize("options", [{}, {"scale": "cosine"}, {"w_per_channel": True}], ids=str)
@pytest.mark.parametrize(("operation", "sub_sample"), PARTS)
def test_copies_and_pickles_compute_the_same(operation, sub_sample, options):
    if "scale" in options and "gaussian" not in operation:
        return
    block = randomised(WNLB(6, operation=operation, sub_sample=sub_sample, **options)).eval()
    x = torch.randn(2, 6, 5, 7)
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(twin(x), block(x))
        assert str(twin) == str(block)


# ---- the start -------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize(
    "options",
    [{}, {"weighted": False}, {"init": "released"}, {"w_learnable": False}, {"w_per_channel": True}],
    ids=str,
)
@pytest.mark.parametrize(("operation", "sub_sample"), PARTS)
def test_a_new_block_is_the_exact_identity(operation, options, sub_sample, training):
    block = WNLB(8, operation=operation, sub_sample=sub_sample, **options).train(training)
    x = torch.randn(2, 8, 5, 7) * 10
    assert torch.equal(block(x), x)


def descend(block, steps=3):
    """Take steps of gradient descent in float64; returns the gradients of every step by parameter."""
    block = block.double().train()
    x, target = torch.randn(2, 2, 8, 5, 7, dtype=torch.float64)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.001)
    gradients = {name: [] for name, _ in block.named_parameters()}
    for _ in range(steps):
        optimizer.zero_grad()
        (block(x) - target).square().sum().div(len(x)).backward()
        for name, parameter in block.named_parameters():
            gradients[name].append(parameter.grad.clone())
        optimizer.step()
    return gradients


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
@pytest.mark.parametrize(("operation", "sub_sample"), PARTS)
def test_every_parameter_learns_within_three_steps(operation, weighted, sub_sample):
    block = WNLB(8, operation=operation, weighted=weighted, sub_sample=sub_sample)
    start = copy.deepcopy(block).double().state_dict()
    gradients = descend(block)
    assert len(gradients) == len(list(block.parameters()))
    for name, steps in gradients.items():
        assert max(g.abs().max() for g in steps) > 1e-4, name  # a bias that cannot act gets about 1e-17
        assert (block.state_dict()[name] - start[name]).abs().max() > 1e-6, name


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_released_start_never_learns_its_attention(operation):
    gradients = descend(WNLB(8, operation=operation, init="released"), steps=10)
    for name in ("w", "W_z.1.bias"):
        assert gradients.pop(name)[-1].abs().max() > 0.01, name
    assert {"g.weight", "W_z.0.weight", "W_z.1.weight"} <= set(gradients)
    for name, steps in gradients.items():
        assert all(g.count_nonzero() == 0 for g in steps), name


def test_w_is_one_number_without_dimensions():
    assert WNLB(8).w.shape == ()
    assert isinstance(WNLB(8, w_init=0.25).w, nn.Parameter)
    assert WNLB(8, w_init=0.25).w.item() == 0.25


def test_a_fixed_w_is_stored_but_no_parameter():
    block = WNLB(8, w_init=0.5, w_learnable=False)
    assert block.w.shape == ()
    assert block.w.item() == block.state_dict()["w"].item() == 0.5
    assert "w" not in dict(block.named_parameters())
    block.requires_grad_(True)  # as Ultralytics does with frozen parameters
    assert not block.w.requires_grad
    assert "w" not in WNLB(8, weighted=False).state_dict()


# ---- one w for each channel ------------------------------------------------------------------------


def with_own_w(operation="embedded_gaussian", channels=6):
    """Make a block whose channels have different w."""
    block = randomised(WNLB(channels, operation=operation, w_per_channel=True))
    with torch.no_grad():
        block.w.copy_(torch.linspace(-0.3, 0.6, channels))
    return block


@pytest.mark.parametrize("state", ["training", "eval", "folded", "folded, not one matrix"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_channel_is_mixed_by_its_own_w(operation, state, monkeypatch):
    monkeypatch.setattr(folding, "one_matrix_pays", lambda channels, embed_dim, n: state == "folded")
    block, x = with_own_w(operation).double().train(state == "training"), torch.randn(2, 6, 5, 7, dtype=torch.float64)
    if "folded" in state:
        block.fold()
    leaves = [leaf.requires_grad_() for leaf in (x, *block.parameters())]
    found, wanted = block(x), equations(block, x)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(*(torch.autograd.grad(z.sin().sum(), leaves) for z in (found, wanted))):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("folded", [False, True], ids=["as it is", "folded"])
def test_a_w_for_each_channel_keeps_the_type_of_the_map(folded):
    block, x = with_own_w().eval(), torch.randn(1, 6, 4, 4)
    if folded:
        block.fold()
    wanted = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert block(x.bfloat16()).dtype == torch.bfloat16
        assert block(x).dtype == torch.float32
    block.half()
    torch.testing.assert_close(block(x.half()).float(), wanted, rtol=1e-2, atol=1e-2)
    assert block(x.half()).dtype == torch.float16


def test_a_w_for_each_channel_starts_at_w_init_and_may_be_fixed():
    assert WNLB(6, w_per_channel=True).w.tolist() == [0] * 6
    block = WNLB(6, w_per_channel=True, w_init=0.5, w_learnable=False)
    assert block.w.tolist() == [0.5] * 6
    assert "w" in dict(block.named_buffers())
    assert block.w_per_channel and not WNLB(6).w_per_channel and not WNLB(6, weighted=False).w_per_channel


def test_one_w_is_read_into_a_block_that_has_one_for_each_channel():
    scalar, block = randomised(WNLB(6)).eval(), WNLB(6, w_per_channel=True).eval()
    for assign in (False, True):
        block.load_state_dict(scalar.state_dict(), assign=assign)
        x = torch.randn(1, 6, 4, 4)
        torch.testing.assert_close(block(x), scalar(x))
        block.w.data[0] = 0.9  # the others keep theirs
        assert block.w.tolist() == pytest.approx([0.9] + [0.3] * 5)
    with pytest.raises(RuntimeError, match="size mismatch for w"):
        scalar.load_state_dict(block.state_dict())


def test_folded_a_block_with_one_w_that_is_not_zero_is_not_left_out():
    block, x = randomised(WNLB(6, w_per_channel=True)).eval(), torch.randn(1, 6, 4, 4)
    block.w.data.zero_()
    block.fold()
    with torch.no_grad():
        assert block(x) is x
        block.w.data[3] = 0.1
        assert (block(x) != x).any((0, 2, 3)).tolist() == [False, False, False, True, False, False]


# ---- kernels with a temperature ---------------------------------------------------------------------

WARM = [{"operation": "non_local_means"}, *({"operation": o, "scale": "cosine"} for o in PAPERS[:2])]


def weights_of(block, x):
    """Return the softmax of a block, (B, N, M)."""
    theta, phi, _ = block.embed(x)
    q, k = block.queries_and_keys(theta, phi)
    return (q @ k.transpose(1, 2)).softmax(2)


def test_a_temperature_starts_at_its_source_and_stays_above_the_lowest():
    block = WNLB(6, scale="cosine")
    assert block.temperature.item() == pytest.approx(0.1)
    assert block.logit_scale.item() == pytest.approx(2.302585)  # log 10, as in Swin Transformer V2
    block.logit_scale.data.fill_(100.0)
    assert block.temperature.item() == pytest.approx(0.01)
    assert all("logit_scale" not in WNLB(6, operation=o).state_dict() for o in (*PAPERS, *CONTROLS))


@pytest.mark.parametrize("options", WARM, ids=str)
def test_the_scale_of_the_features_does_not_change_whom_a_position_attends_to(options):
    block, x = WNLB(6, **options).double(), torch.randn(1, 6, 5, 7, dtype=torch.float64)
    if block.operation == "embedded_gaussian":
        block.theta.bias.data.zero_()
    torch.testing.assert_close(weights_of(block, x * 1000), weights_of(block, x), rtol=1e-3, atol=1e-6)


def test_non_local_means_do_not_change_when_a_constant_is_added():
    block, x = WNLB(6, operation="non_local_means").double(), torch.randn(2, 6, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(weights_of(block, x + 50), weights_of(block, x))
    torch.testing.assert_close(weights_of(block, x), distance_weights(block.embed(x)[0], block.temperature))


def test_non_local_means_with_a_narrow_kernel_copy_each_position():
    block, x = WNLB(6, operation="non_local_means").double(), torch.randn(1, 6, 5, 7, dtype=torch.float64)
    block.logit_scale.data.fill_(20.0)
    x = x * 3  # no two alike
    assert (weights_of(block, x)[0].diagonal() > 0.5).all()


def test_non_local_means_take_noise_out_of_a_picture():
    """Buades et al.: alike positions are averaged wherever they lie, so noise goes and edges stay."""
    block = WNLB(8, 8, "non_local_means").eval()
    clean = torch.where(torch.arange(24)[None] // 4 % 2 == 0, 1.0, -1.0).expand(1, 8, 24, 24)
    noisy = clean + 0.3 * torch.randn(clean.shape)
    with torch.no_grad():
        for conv in (block.theta, block.g):
            conv.weight.copy_(torch.eye(8)[:, :, None, None])
        y = block.respond(*block.embed(noisy)).transpose(1, 2).reshape(clean.shape)
    assert (y - clean).square().mean() < (noisy - clean).square().mean() / 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("options", WARM, ids=str)
@pytest.mark.parametrize("in_parts", [False, True], ids=["fused", "as in ONNX"])
def test_extreme_features_leave_kernels_with_a_temperature_finite(options, dtype, in_parts, monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: in_parts)
    block = WNLB(8, w_init=0.5, **options).eval().to(dtype)
    block.logit_scale.data.fill_(50.0)
    lonely = torch.zeros(1, 8, 40, 40)
    lonely[..., 20, 20] = 1000
    for x in (lonely, torch.randn(1, 8, 40, 40) * 3000, torch.zeros(1, 8, 3, 3), torch.full((1, 8, 5, 5), 1e-6)):
        assert block(x.to(dtype)).isfinite().all()


@pytest.mark.parametrize("options", WARM, ids=str)
def test_gradients_of_empty_features_are_finite(options):
    block = randomised(WNLB(8, **options))
    if block.operation == "embedded_gaussian":
        block.theta.bias.data.zero_()
    x = torch.zeros(2, 8, 5, 5, requires_grad=True)
    block(x).square().sum().backward()
    assert all(leaf.grad is None or leaf.grad.abs().max() < 1e6 for leaf in (x, *block.parameters()))


@pytest.mark.parametrize("sub_sample", [1, 3])
@pytest.mark.parametrize(("operation", "scale"), SCALES)
def test_in_parts_as_in_an_onnx_graph_it_is_the_same(operation, scale, sub_sample, monkeypatch):
    only_with_keys(operation, sub_sample)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    monkeypatch.setattr(pairwise, "MAX_PAIRS", 200)
    block = randomised(WNLB(6, operation=operation, scale=scale, sub_sample=sub_sample)).double().eval()
    x = torch.randn(1, 6, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(block(x), equations(block, x), rtol=1e-9, atol=1e-9)


# ---- the authors' checkpoints ----------------------------------------------------------------------


class Released(nn.Module):
    """The layout of the authors' file: biases everywhere, w of shape (1,)."""

    def __init__(self, channels, embed_dim, operation):
        super().__init__()
        self.operation = operation
        self.g = nn.Conv2d(channels, embed_dim, 1)
        if operation != "gaussian":
            self.theta, self.phi = nn.Conv2d(channels, embed_dim, 1), nn.Conv2d(channels, embed_dim, 1)
        if operation == "concatenation":
            self.W_f = nn.Sequential(nn.Conv2d(2 * embed_dim, 1, 1), nn.ReLU())
        self.W_z = nn.Sequential(nn.Conv2d(embed_dim, channels, 1), nn.BatchNorm2d(channels))
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        g = self.g(x).flatten(2)
        theta, phi = (x, x) if self.operation == "gaussian" else (self.theta(x), self.phi(x))
        theta, phi, n = theta.flatten(2), phi.flatten(2), g.shape[2]
        if self.operation == "concatenation":
            pair = torch.cat([theta[..., None].expand(-1, -1, n, n), phi[:, :, None].expand(-1, -1, n, n)], 1)
            f = self.W_f(pair)[:, 0] / n
        else:
            f = theta.transpose(1, 2) @ phi
            f = f / n if self.operation == "dot_product" else f.softmax(-1)
        y = (f @ g.transpose(1, 2)).transpose(1, 2).reshape(len(x), -1, *x.shape[2:])
        return self.w * self.W_z(y) + (1 - self.w) * x


@pytest.mark.parametrize("operation", PAPERS)
def test_released_checkpoints_load_strictly_and_compute_the_same(operation):
    released = randomised(Released(8, 4, operation)).double().eval()
    block = WNLB(8, operation=operation).double().eval()
    state = released.state_dict()
    before = copy.deepcopy(state)
    block.load_state_dict(state, strict=True)
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(block(x), released(x))
    assert not torch.allclose(block(x), x)
    assert list(state) == list(before)
    assert all(torch.equal(state[name], before[name]) and state[name].shape == before[name].shape for name in state)


@pytest.mark.parametrize("operation", PAPERS)
def test_released_checkpoints_load_as_part_of_a_larger_model_too(operation):
    released = nn.Sequential(nn.ReLU(), randomised(Released(8, 4, operation)).double()).eval()
    model = nn.Sequential(nn.ReLU(), WNLB(8, operation=operation).double()).eval()
    model.load_state_dict(released.state_dict(), strict=True)
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(model(x), released(x))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_its_own_state_loads_back_exactly(operation):
    block, twin = randomised(WNLB(8, operation=operation)), WNLB(8, operation=operation)
    twin.load_state_dict(block.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(block.state_dict().values(), twin.state_dict().values()))


# ---- memory and numbers ----------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor held that any operator made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, (tuple, list)) else [out]
        self.numbers = max([self.numbers, *(t.numel() for t in made if isinstance(t, torch.Tensor))])
        return out


def largest(operation, scale=1.0):
    block, x = randomised(WNLB(16, operation=operation, scale=scale)), torch.randn(1, 16, 64, 64, requires_grad=True)
    with Largest() as mode:
        block(x).sum().backward()
    return mode.numbers


@pytest.mark.parametrize(("operation", "scale"), MAPLESS)
def test_no_map_of_all_pairs_is_made_in_either_direction(operation, scale):
    assert largest(operation, scale) <= 4 * 16 * 64 * 64  # the map of all pairs would hold 4096 * 4096


def test_concatenation_alone_makes_the_map_of_all_pairs():
    assert largest("concatenation") == 4096 * 4096


def test_concatenation_refuses_a_map_that_fits_no_memory():
    x = torch.zeros(1, 2, 256, 256, device="meta")  # of no memory, should the refusal fail
    with torch.device("meta"):
        block, fewer_keys = WNLB(2, operation="concatenation"), WNLB(2, operation="concatenation", sub_sample=4)
    with pytest.raises(MemoryError, match=r"1 x 65536 x 65536 numbers = 16\.0 GiB \(limit 2 GiB\).*sub_sample"):
        block(x)
    with pytest.raises(MemoryError, match=r"= 8\.0 GiB"):
        block.bfloat16()(x.bfloat16())
    assert fewer_keys(x).shape == x.shape


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)], ids=str)
@pytest.mark.parametrize(("operation", "sub_sample"), PARTS)
def test_half_precision_stays_half_and_close_to_single(operation, sub_sample, dtype, tolerance):
    block = WNLB(16, operation=operation, sub_sample=sub_sample, w_init=0.5).eval()
    x = torch.randn(2, 16, 9, 7)
    wanted = block(x)
    found = block.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    assert (found.float() - wanted).abs().max() < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_autocast_keeps_the_type_of_the_map_once_folded(operation, gram, dtype, monkeypatch):
    monkeypatch.setattr(folding, "one_matrix_pays", lambda channels, embed_dim, n: gram)
    block, x = WNLB(16, operation=operation, w_init=0.5).eval(), torch.randn(2, 16, 9, 7)
    wanted = block(x)
    block.fold()
    with torch.autocast("cpu", torch.bfloat16):
        found = block(x.to(dtype))
    assert found.dtype == dtype
    assert (found.float() - wanted).abs().max() < 0.1


@pytest.mark.parametrize("operation", OPERATIONS)
def test_autocast_keeps_the_type_of_the_map_and_trains(operation):
    block = WNLB(16, operation=operation, w_init=0.5)
    x = torch.randn(2, 16, 9, 7)
    wanted = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = block(x)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < 0.1
    found.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.count_nonzero() > 0 for p in block.parameters())


def test_the_dot_product_of_many_large_numbers_fits_float16():
    q, k, v = (torch.full((1, n, 4), 8.0, dtype=torch.float16) for n in (1, 16384, 16384))
    assert (k.transpose(1, 2) @ v).isinf().all()
    torch.testing.assert_close(dot_product_response(q, k, v), torch.full_like(q, 4 * 8 * 8 * 8))


def test_small_numbers_survive_the_dot_product_in_float16():
    q, k, v = (torch.full((1, 16384, 4), x, dtype=torch.float16) for x in (1, 2**-12, 1))
    assert ((k / k.shape[1]) == 0).all()
    torch.testing.assert_close(dot_product_response(q, k, v), torch.full_like(q, 4 * 2**-12))


def test_gradients_of_the_dot_product_fit_float16():
    found = {}
    for dtype in (torch.float16, torch.float32):
        q, k, v = (torch.full((1, 6400, 8), 4.0, dtype=dtype, requires_grad=True) for _ in range(3))
        (dot_product_response(q, k, v) * 0.5).sum().backward()
        found[dtype] = torch.stack([q.grad, k.grad, v.grad]).float()
    torch.testing.assert_close(found[torch.float16], found[torch.float32], rtol=1e-2, atol=0)


def test_a_traced_dot_product_is_shared_for_runtimes_that_halve_it():
    traced = torch.jit.trace(pairwise.mean_product, (torch.rand(1, 5, 3), torch.rand(1, 5, 2)))
    assert "baddbmm" not in str(traced.graph)


def test_logits_beyond_float16_stay_finite_and_right():
    block = WNLB(64, operation="gaussian", w_init=0.5).eval()
    x = torch.randn(1, 64, 4, 4) * 100
    tokens = to_tokens(x.half())
    assert (tokens @ tokens.transpose(1, 2)).isinf().any()
    torch.testing.assert_close(block.half()(x.half()).float(), block.float()(x), rtol=1e-2, atol=1)


# ---- the arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1; got 0"),
        ({"in_channels": 8.0}, "in_channels must be a whole number of at least 1; got 8.0"),
        ({"embed_dim": 0}, "embed_dim must be a whole number of at least 1; got 0"),
        ({"embed_dim": True}, "embed_dim must be a whole number of at least 1; got True"),
        ({"embed_dim": "4"}, "embed_dim must be a whole number of at least 1; got '4'"),
        ({"sub_sample": 0}, "sub_sample must be a whole number of at least 1; got 0"),
        ({"sub_sample": 1.5}, "sub_sample must be a whole number of at least 1; got 1.5"),
        ({"operation": "cosine"}, f"operation must be one of {', '.join(OPERATIONS)}; got 'cosine'"),
        ({"operation": None}, "operation must be one of"),
        ({"init": "zero"}, "init must be one of identity, released; got 'zero'"),
        ({"weighted": 1}, "weighted must be True or False; got 1"),
        ({"w_learnable": "no"}, "w_learnable must be True or False; got 'no'"),
        ({"w_init": None}, "w_init must be a finite number; got None"),
        ({"w_init": True}, "w_init must be a finite number; got True"),
        ({"scale": "auto"}, "scale must be a finite number, None for 1/sqrt(d), or 'cosine'; got 'auto'"),
        ({"scale": True}, "scale must be a finite number; got True"),
        ({"scale": [1]}, "scale must be a finite number; got [1]"),
        ({"scale": "cosine", "operation": "dot_product"}, "scale acts on the softmax forms only"),
        ({"scale": "cosine", "operation": "non_local_means"}, "learns its own scale, 1/h^2; remove scale='cosine'"),
        ({"scale": None, "operation": "non_local_means"}, "learns its own scale, 1/h^2; remove scale=None"),
        ({"scale": 0.5, "operation": "pointwise"}, "scale acts on the softmax forms only"),
        ({"sub_sample": 2, "operation": "pointwise"}, "operation='pointwise' has no keys to sub-sample; remove"),
        ({"sub_sample": 2, "operation": "depthwise"}, "operation='depthwise' has no keys to sub-sample; remove"),
        ({"w_per_channel": "yes"}, "w_per_channel must be True or False; got 'yes'"),
        ({"weighted": False, "w_per_channel": True}, "weighted=False has no w; remove w_init, w_learnable, w_lr and"),
        ({"w_lr": 0}, "w_lr must be above 0; got 0 (to fix w use w_learnable=False)"),
        ({"w_lr": -1.0}, "w_lr must be above 0; got -1.0"),
        ({"scale": None, "operation": "dot_product"}, "scale acts on the softmax forms only"),
        ({"scale": 0.5, "operation": "concatenation"}, "change operation='concatenation'"),
        ({"weighted": False, "w_init": 0.5}, "weighted=False has no w; remove w_init, w_learnable, w_lr and w_per"),
        ({"weighted": False, "w_learnable": False}, "weighted=False has no w"),
        ({"weighted": False, "w_lr": 10.0}, "weighted=False has no w"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_with_name_value_and_choices(options, message):
    with pytest.raises(ValueError) as refused:
        WNLB(**{"in_channels": 8, **options})
    assert message in str(refused.value)


@pytest.mark.parametrize(("channels", "width"), [(1, 1), (2, 1), (5, 2), (8, 4)])
def test_the_embedding_has_half_the_channels_and_at_least_one(channels, width):
    assert WNLB(channels).embed_dim == WNLB(channels).g.out_channels == width


def test_the_text_of_a_block_tells_its_form_and_its_present_w():
    assert "8, embed_dim=4, operation=embedded_gaussian, sub_sample=1, w=0\n" in str(WNLB(8))
    block = WNLB(8, embed_dim=3, operation="dot_product", sub_sample=2)
    nn.init.constant_(block.w, 0.125)
    assert "8, embed_dim=3, operation=dot_product, sub_sample=2, w=0.125\n" in str(block)
    assert "sub_sample=1, weighted=False\n" in str(WNLB(8, weighted=False))
    assert "sub_sample=1, scale=cosine, temperature=0.1, w=0\n" in str(WNLB(8, scale="cosine"))
    assert "non_local_means, sub_sample=1, temperature=0.2, w=0\n" in str(WNLB(8, operation="non_local_means"))
    block = WNLB(8, w_per_channel=True)
    assert "w=0\n" in str(block)
    block.w.data[2] = -0.25
    assert "w=-0.25 to 0\n" in str(block)
    assert "w=" not in str(WNLB(8, w_per_channel=True, scale="cosine").to("meta"))


def test_the_examples_of_the_docstrings_run():
    assert doctest.testmod(wnlb) == (0, 1)


def test_an_empty_batch_and_a_block_on_meta_are_no_surprise():
    assert WNLB(8)(torch.zeros(0, 8, 4, 4)).shape == (0, 8, 4, 4)
    assert "embed_dim=4" in str(WNLB(8).to("meta"))


@pytest.mark.parametrize(
    "wrong", [{"w_init": float("nan")}, {"w_lr": float("inf")}, {"scale": 0}, {"scale": -1.0}], ids=str
)
def test_numbers_without_a_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WNLB(8, **wrong)


@pytest.mark.parametrize("channels", ["8", None, 0, 2.0])
def test_channels_that_are_no_number_are_refused(channels):
    with pytest.raises(ValueError, match="in_channels must be a whole number"):
        WNLB(channels)


def test_what_a_checkpoint_pickles_of_a_block_is_public_and_stays():
    """A checkpoint holds these attributes: one more, or one less, and old ones no longer run."""
    held = {name for name in vars(WNLB(8)) if not name.startswith("_")} - {"training"}
    assert held == {
        "in_channels",
        "embed_dim",
        "operation",
        "sub_sample",
        "weighted",
        "scale",
        "w_init",
        "w_lr",
        "init",
    }


def kept_for_backward(block, x):
    """Numbers a position that autograd keeps of a pass, the input and the parameters aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (x, *block.parameters(), *block.buffers())}
    found = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, or its place is taken by the next one
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(x)
    return sum(size for at, (size, _) in found.items() if at not in own) / 4 / x[0, 0].numel()


@pytest.mark.parametrize("operation", ["embedded_gaussian", "dot_product"])
@pytest.mark.parametrize(("sub_sample", "limit"), [(1, 16 + 3 * 8 + 8 + 2), (4, 16 + 8 + 8 + 2 + 6)])
def test_training_keeps_no_more_than_it_must(operation, sub_sample, limit):
    """W_z's input to its norm (16 channels), theta, phi and g (8 each), y (8), a sum, phi and g at 1/16."""
    block = randomised(WNLB(16, operation=operation, sub_sample=sub_sample))
    assert kept_for_backward(block, torch.randn(1, 16, 64, 64)) < limit
