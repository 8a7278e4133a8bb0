"""A float ONNX model made ready for quantisation: fixed shapes, folded constants, named nodes, split into blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineside.errors import ConfigError
from lineside.hal.artefact import first_line
from lineside.registry import vendor

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # the layers that INT8 makes fast
_LEAST_OPSET = 13  # scales per channel
_STANDARD = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True, slots=True)
class Block:
    """A weighted layer and what follows it up to the next one: what is kept in float together."""

    name: str  # of the weighted layer
    op: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """A prepared float model."""

    path: Path
    input: str
    blocks: tuple[Block, ...]  # in the order of computation
    tail: tuple[str, ...]  # nodes behind the last weighted layer of each path: cheap, and where heads are concatenated
    attention: bool

    @property
    def every_node(self) -> frozenset[str]:
        return frozenset((*(node for block in self.blocks for node in block.nodes), *self.tail))

    @property
    def unsafe(self) -> frozenset[str]:
        """What stays in float without asking: the tail, and of a transformer all but its weighted layers."""
        return self.every_node - {block.name for block in self.blocks} if self.attention else frozenset(self.tail)


def check_operators(path: Path) -> None:
    """Raises ConfigError that names the operators which no backend knows."""
    onnx = vendor("onnx")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's errors share no base
        raise ConfigError(f"{path}: is no ONNX model ({first_line(error)}): export it again") from error
    functions = {(function.domain, function.name) for function in model.functions}
    unknown = sorted(
        {
            f"{node.op_type} of {node.domain or 'ai.onnx'} (node {node.name or node.output[0]})"
            for node in model.graph.node
            if (node.domain, node.op_type) not in functions
            and (node.domain not in _STANDARD or (node.domain != "com.microsoft" and not onnx.defs.has(node.op_type)))
        }
    )
    if unknown:
        raise ConfigError(
            f"{path}: no backend knows the operator {', '.join(unknown[:5])}: export the model without it, "
            "with what it does written in standard ONNX operators"
        )


def prepare(source: Path, size: Sequence[int], folder: Path) -> Network:
    """Write a prepared copy into `folder`. `size` is the input's shape, (1, C, H, W) or (1, H, W, C).

    Raises ConfigError for a model that holds INT8 layers already, has no layer to quantise, or cannot be prepared.
    """
    onnx = vendor("onnx")
    quantization = vendor("onnxruntime.quantization")
    tools = vendor("onnxruntime.tools.onnx_model_utils")
    model = onnx.load(str(source))
    if any("Quantize" in node.op_type or node.op_type.endswith("Integer") for node in model.graph.node):
        raise ConfigError(f"{source}: is quantised already: give the float model that it was made from")
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    fixed, ready = folder / "fixed.onnx", folder / "float.onnx"
    held = {tensor.name for tensor in model.graph.initializer}
    for number in reversed(range(len(model.graph.input))):  # old exporters list the weights as inputs, too
        if model.graph.input[number].name in held:
            del model.graph.input[number]
    name = model.graph.input[0].name
    try:
        for dimension, pixels in zip(model.graph.input[0].type.tensor_type.shape.dim, size, strict=True):
            dimension.dim_value = pixels
        del model.graph.value_info[:]  # shapes of the free size
        if opset < _LEAST_OPSET:
            model = onnx.version_converter.convert_version(model, _LEAST_OPSET)
        tools.fix_output_shapes(model)
        onnx.save(model, str(fixed))
        quantization.quant_pre_process(str(fixed), str(ready), skip_symbolic_shape=True)
        model = onnx.load(str(ready))
        name_nodes(model.graph)
        onnx.save(model, str(ready))
    except Exception as error:  # what protobuf, ONNX and ONNX Runtime raise shares no base
        raise ConfigError(
            f"{source}: cannot be prepared ({first_line(error)}): export it again, opset 13 to 17"
        ) from error
    blocks, tail = split(model.graph)
    if not blocks:
        raise ConfigError(f"{source}: no convolution or fully connected layer in it: INT8 would gain nothing")
    return Network(ready, name, blocks, tail, has_attention(model.graph))


def name_nodes(graph: Any) -> None:
    """Every node gets a name of its own: exclusions go by name."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            name = f"{node.op_type}_{number}"
            node.name = name if name not in taken else f"{name}_"
        seen.add(node.name)


def split(graph: Any) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """Blocks and tail. A node belongs to the last weighted layer before it; what stands before the first, to that."""
    nodes = list(graph.node)
    weighted = set(weighted_nodes(graph))
    leads = _leads_to(nodes, weighted)
    tail = tuple(node.name for node in nodes if node.name not in weighted and not leads[node.name])
    owner: dict[str, str] = {}  # tensor -> the weighted layer that it belongs to
    order = {node.name: number for number, node in enumerate(nodes) if node.name in weighted}
    members: dict[str, list[str]] = {name: [] for name in order}
    first = next(iter(order), "")
    for node in nodes:
        before = [owner[name] for name in node.input if name in owner]
        mine = node.name if node.name in weighted else max(before, key=order.__getitem__, default=first)
        owner |= dict.fromkeys(node.output, mine) if mine else {}
        if node.name not in tail and mine:
            members[mine].append(node.name)
    kinds = {node.name: node.op_type for node in nodes}
    return tuple(Block(name, kinds[name], tuple(found)) for name, found in members.items()), tail


def weighted_nodes(graph: Any) -> Iterator[str]:
    """Convolutions and matrix products with a constant; a product of two activations is attention, no layer."""
    held = {tensor.name for tensor in graph.initializer}
    held |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    for node in graph.node:
        if node.op_type in WEIGHTED and any(name in held for name in node.input[:2]):
            yield node.name


def has_attention(graph: Any) -> bool:
    held = set(weighted_nodes(graph))
    products = any(node.op_type == "MatMul" and node.name not in held for node in graph.node)
    return products or any(node.op_type in ("LayerNormalization", "Attention") for node in graph.node)


def _leads_to(nodes: Sequence[Any], wanted: set[str]) -> dict[str, bool]:
    """For each node, whether a wanted one comes later on some path; nodes are in topological order."""
    users: dict[str, list[str]] = {}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, []).append(node.name)
    leads: dict[str, bool] = {}
    for node in reversed(nodes):
        after = [user for name in node.output for user in users.get(name, [])]
        leads[node.name] = any(user in wanted or leads[user] for user in after)
    return leads
