"""The smallest networks in ONNX files that answer as the field's do."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]


def constant(path: Path, size: tuple[int, int], *answers: Floats) -> Path:
    """Takes one picture of `size` (width, height) and always answers the same."""
    nodes = [
        helper.make_node("Constant", [], [f"answer{number}"], value=numpy_helper.from_array(answer.astype(np.float32)))
        for number, answer in enumerate(answers)
    ]
    outputs = [
        helper.make_tensor_value_info(f"answer{number}", TensorProto.FLOAT, answer.shape)
        for number, answer in enumerate(answers)
    ]
    return _save(path, nodes, [1, 3, size[1], size[0]], outputs)


def brightest_blue(path: Path) -> Path:
    """Takes a picture of any size; its last answer is the first colour less 20, its first answer is of no use."""
    nodes = [
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array([0], np.int64))),
        helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.array([1], np.int64))),
        helper.make_node("Slice", ["picture", "zero", "one", "one"], ["blue"]),
        helper.make_node("Constant", [], ["some"], value=numpy_helper.from_array(np.array(20, np.float32))),
        helper.make_node("Sub", ["blue", "some"], ["edges"]),
        helper.make_node("Neg", ["edges"], ["useless"]),
    ]
    sides: list[str | int | None] = [1, 1, "height", "width"]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name in ("useless", "edges")]
    return _save(path, nodes, [1, 3, "height", "width"], outputs)


def _save(path: Path, nodes: list[onnx.NodeProto], shape: list[int | str], outputs: list[onnx.ValueInfoProto]) -> Path:
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "network", [picture], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
