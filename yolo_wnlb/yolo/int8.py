"""An int8 export computes the matrix products of the blocks in float, and all else as Ultralytics has it.

A quantised product has one scale for a whole tensor. The weights of a softmax over M keys are 1/M on average and up to
1 somewhere, and the numbers of a dot product are as far apart: most of them become 0 in 8 bits. At 320 pixels and more
int8 products of ONNX Runtime made what a trained block adds to the features wrong by more than its own size; in float,
beside int8 convolutions, it was wrong by 1 to 20 % (docs/edge.md).

Ultralytics hands a model to `onnxruntime.quantization.quantize_static` or to `nncf.quantize`. Both take the names of
the nodes that shall stay in float; while a model with blocks is exported, these names are added.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from yolo_wnlb.wnlb import WNLB

LOGGER = logging.getLogger("ultralytics")


@contextlib.contextmanager
def products_in_float(model: nn.Module, format: str) -> Iterator[None]:
    """Within the context ONNX Runtime and NNCF leave the matrix products of the blocks of a model in float.

    Args:
        model: What is exported. Without blocks nothing is changed.
        format: Of the export, as Ultralytics names it; others than onnx and openvino are not changed.
    """
    blocks = [name for name, module in model.named_modules() if isinstance(module, WNLB)]
    home = {"onnx": "onnxruntime.quantization", "openvino": "nncf"}.get(format)
    if not blocks or home is None:
        yield
        return
    from importlib import import_module

    try:
        library: Any = import_module(home)
    except ImportError as error:
        LOGGER.warning(
            f"wNLB: {home} cannot be imported ({error}), so the matrix products of the blocks will be quantised too; "
            "install it and export again"
        )
        yield
        return
    name, exclude = ("quantize_static", exclude_onnx) if format == "onnx" else ("quantize", exclude_openvino)
    stock = getattr(library, name)

    def quantize(*args: Any, **kwargs: Any) -> Any:
        return stock(*args, **exclude(args, kwargs, blocks))

    setattr(library, name, quantize)
    try:
        yield
    finally:
        setattr(library, name, stock)


def exclude_onnx(args: Sequence[Any], kwargs: dict[str, Any], blocks: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of `quantize_static` with the products of the blocks among the nodes to exclude."""
    import onnx

    file = args[0] if args else kwargs["model_input"]
    nodes = (file if isinstance(file, onnx.ModelProto) else onnx.load(file, load_external_data=False)).graph.node
    names = products_of(((node.name, node.op_type) for node in nodes), blocks)
    return {**kwargs, "nodes_to_exclude": [*(kwargs.get("nodes_to_exclude") or ()), *names]}


def exclude_openvino(args: Sequence[Any], kwargs: dict[str, Any], blocks: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of `nncf.quantize` with the products of the blocks in the ignored scope."""
    import nncf

    operations = (args[0] if args else kwargs["model"]).get_ordered_ops()
    names = products_of(((op.get_friendly_name(), op.get_type_name()) for op in operations), blocks)
    scope = kwargs.get("ignored_scope") or nncf.IgnoredScope()
    return {**kwargs, "ignored_scope": dataclasses.replace(scope, names=[*scope.names, *names])}


def products_of(nodes: Iterable[tuple[str, str]], blocks: Sequence[str]) -> list[str]:
    """Return the names of the matrix products of the blocks of a graph, and say in the log how many there are.

    Args:
        nodes: Name and type of each node; a name starts with the module that made it, /model.5/MatMul in ONNX and
            __module.model.5/aten::matmul/MatMul in OpenVINO.
        blocks: Names of the blocks among the modules of the model, such as model.5.
    """
    inside = re.compile(rf"(^|[/.])({'|'.join(map(re.escape, blocks))})/")
    names = [name for name, kind in nodes if kind == "MatMul" and inside.search(name)]
    LOGGER.info(f"wNLB: {len(names)} matrix products of {len(blocks)} blocks stay in float")
    return names
