"""What an ONNX file may consist of: operators of a list, no control flow, no data outside of the file.

A session runs whatever a file says. A `Loop` may run long for one value of a feature and never in the gate;
so may a tree whose branch leads back up. A tensor with external data is read from the working folder and
changes without the file's digest; an operator of another domain runs code that somebody installed. So the
gate judges, and the predictor loads, files of this form alone.

The package onnx takes 40 MB and is imported when a file is read: the predictor does that in another process.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from registry.errors import ModelFormatError

if TYPE_CHECKING:
    import onnx

# Who keeps a file's form, as the predictor's cache does, keeps this number too. Raise it with every change
# of what is asked here.
FORM = 1

# The predictor takes no larger files (serving/limits.py), and protobuf none over 2 GiB.
MAX_BYTES = 100 * 2**20
# Far more than a pipeline of scikit-learn, XGBoost or LightGBM has, or a network that fits the size.
MAX_NODES = 20_000
# ONNX Runtime reads trees by recursion: 20,000 levels overflow its stack. A fitted tree has some dozen.
MAX_DEPTH = 1_000
# Bytes of a text: a label, a category. One that is longer could be picked for one value, a million times.
MAX_TEXT = 4_096
# Steps down all trees together that a file of a bounded cost may take for a row. Two hundred trees take some
# thousands; ONNX Runtime takes about ten million a second.
BOUNDED_STEPS = 100_000
# The values of ONNX's standard operators whose result has a size that an input says: the position of that
# input. It may depend on the shape of the features, never on their values.
_SIZED_BY = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Slice": (),
    "Tile": (1,),
    "TopK": (1,),
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STANDARD = _names("""
    Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast CastLike Ceil Celu Clip
    Compress Concat Constant Conv ConvTranspose Cos Cosh CumSum DequantizeLinear Div Dropout Einsum Elu Equal
    Erf Exp Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN
    LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul Max MaxPool
    Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear RNN Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Softmax
    Softplus Softsign Split Sqrt Squeeze StringNormalizer Sub Sum Tan Tanh TfIdfVectorizer ThresholdedRelu
    Transpose Trilu Unsqueeze Where Xor
""") | frozenset(_SIZED_BY)
# Operators of classical models; none of them has control flow.
_CLASSICAL = _names("""
    ArrayFeatureExtractor Binarizer CastMap CategoryMapper DictVectorizer FeatureVectorizer Imputer
    LabelEncoder LinearClassifier LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler
    TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
""")
_ALLOWED = {"": _STANDARD, "ai.onnx": _STANDARD, "ai.onnx.ml": _CLASSICAL}
_SHAPES = {"Shape", "Size"}
# The shape of their result depends on values: of inputs at these positions.
_RESHAPED_BY = {
    **{f"Reduce{kind}": (1,) for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod")},
    **dict.fromkeys(("ReduceSum", "ReduceSumSquare", "Split", "Squeeze", "Unsqueeze"), (1,)),
    "Compress": (1,),
    "Slice": (1, 2, 3, 4),
    "StringNormalizer": (0,),
    "Trilu": (1,),
}
# They bring a number from one place to another, and make no larger one.
_COPIES = frozenset({"Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
# C's fmod divides bit by bit: thousands of steps for some values, one for others.
_UNEVEN = frozenset({"Mod"})


@dataclass(frozen=True)
class FileForm:
    """A file of a form that is judged and served; `unbounded` says what keeps its cost from being bounded.

    Empty, the file's cost depends on the number of rows alone, but for a factor: trees are bounded in steps,
    arithmetic is as fast as it is with the slowest of numbers. More rows never cost less.
    """

    unbounded: str = ""


def require_plain_file(content: bytes) -> FileForm:
    """Return the form of an ONNX file; `ModelFormatError` unless the gate judges such files."""
    import onnx  # noqa: PLC0415 - see above

    if len(content) > MAX_BYTES:
        raise ModelFormatError(f"The ONNX file is larger than {MAX_BYTES // 2**20} MiB.")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own kinds, none of which is public
        raise ModelFormatError(f"The ONNX file cannot be read: {type(error).__name__}.") from error
    flow = _Flow()
    if problem := next(_problems(model, flow), None):
        raise ModelFormatError(
            f"The ONNX file {problem}, which the gate does not judge: docs/gate.md says what a file may hold."
        )
    if flow.steps > BOUNDED_STEPS:
        return FileForm(f"its trees take up to {flow.steps:,} steps for a row")
    return FileForm(flow.unbounded)


class _Flow:
    """What is known of a graph's tensors so far, by their names.

    `valued`: they depend on the features' values. `reshaped`: even their shape does. `lengths` are sizes of
    tensors, `computed` was computed from sizes. `steps` are those down all trees, for a row.
    """

    def __init__(self) -> None:
        self.valued, self.reshaped = set[str](), set[str]()
        self.lengths, self.computed = set[str](), set[str]()
        self.steps, self.unbounded = 0, ""

    def follow(self, node: "onnx.NodeProto") -> None:
        """Take one node more, after those that its inputs come from."""
        inputs, outputs = set(node.input) - {""}, node.output
        values_of = [node.input[p] for p in _RESHAPED_BY.get(node.op_type, ()) if p < len(node.input)]
        if self.reshaped & inputs or self.valued.intersection(values_of):
            self.reshaped.update(outputs)
        if node.op_type in _SHAPES:
            self.lengths.update(outputs)
            if self.reshaped & inputs:
                self.valued.update(outputs)
            return
        if self.valued & inputs:
            self.valued.update(outputs)
        if self.computed & inputs or (self.lengths & inputs and node.op_type not in _COPIES):
            self.computed.update(outputs)
        elif self.lengths & inputs:
            self.lengths.update(outputs)
        for position in _SIZED_BY.get(node.op_type, ()):
            if position < len(node.input) and node.input[position] in self.computed:
                self.unbounded = f"it computes the size of {node.op_type} from the number of rows"
        if node.op_type in _UNEVEN:
            self.unbounded = f"{node.op_type} takes longer for some values"


def _problems(model: "onnx.ModelProto", flow: _Flow) -> Iterator[str]:
    graph = model.graph
    if model.functions:
        yield "has functions of its own"
    if model.training_info:
        yield "has steps of a training"
    if len(graph.node) > MAX_NODES:
        yield f"has {len(graph.node):,} nodes, more than {MAX_NODES:,}"
    known = {tensor.name for tensor in graph.initializer}
    for tensor in (*graph.initializer, *(part.values for part in graph.sparse_initializer)):
        yield from _problems_of_tensor(tensor, repr(tensor.name))
    # What depends on the features' values. The nodes of a graph are in an order of computation.
    flow.valued.update(value.name for value in graph.input if value.name not in known)
    for node in graph.node:
        yield from _problems_of(node, flow)
        flow.follow(node)


def _problems_of(node: "onnx.NodeProto", flow: _Flow) -> Iterator[str]:
    name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if node.op_type not in _ALLOWED.get(node.domain, frozenset()):
        yield f"uses the operator {name}"
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs:
            yield f"has a graph inside {name}"
        if any(len(text) > MAX_TEXT for text in (attribute.s, *attribute.strings)):
            yield f"has a text of more than {MAX_TEXT:,} bytes in {name}"
        for tensor in (attribute.t, *attribute.tensors):
            yield from _problems_of_tensor(tensor, f"a tensor of {name}")
    for position in _SIZED_BY.get(node.op_type, ()):
        if position < len(node.input) and node.input[position] in flow.valued:
            yield f"makes the size of {name} from the value of a feature"
    if node.op_type.startswith("TreeEnsemble"):
        try:
            flow.steps += _steps(node)
        except ValueError as error:
            yield f"{error} in {name}"


def _problems_of_tensor(tensor: "onnx.TensorProto", name: str) -> Iterator[str]:
    if tensor.data_location == tensor.EXTERNAL or tensor.external_data:
        yield f"keeps {name} outside of itself"
    if any(len(text) > MAX_TEXT for text in tensor.string_data):
        yield f"has a text of more than {MAX_TEXT:,} bytes in {name}"


def _steps(node: "onnx.NodeProto") -> int:
    """Return the most steps that a row takes down all trees; `ValueError` where one does not end soon."""
    numbers = {
        attribute.name: np.array(attribute.ints, np.int64) for attribute in node.attribute if attribute.ints
    }
    if node.op_type == "TreeEnsemble":  # from ONNX-ML 5 on: children are places of nodes, or of leaves
        wanted = {f"nodes_{side}{kind}" for side in ("true", "false") for kind in ("leafs", "nodeids")}
        if not {"tree_roots", *wanted} <= set(numbers) or len({len(numbers[name]) for name in wanted}) > 1:
            raise ValueError("has trees that cannot be read")
        roots = len(numbers["tree_roots"])
        children = [
            np.where(numbers[f"nodes_{side}leafs"] != 0, -1, numbers[f"nodes_{side}nodeids"])
            for side in ("true", "false")
        ]
    else:
        roots, children = _placed(numbers, node)
    if any((side < -1).any() or (side >= len(side)).any() for side in children):
        raise ValueError("has a tree with a branch to nowhere")
    return _depth(roots, children)


def _placed(
    numbers: dict[str, npt.NDArray[np.int64]], node: "onnx.NodeProto"
) -> tuple[int, list[npt.NDArray[np.int64]]]:
    """Return how many trees there are, and the places of each node's children; -1 is none."""
    modes = next((attribute.strings for attribute in node.attribute if attribute.name == "nodes_modes"), ())
    trees, ids = numbers.get("nodes_treeids"), numbers.get("nodes_nodeids")
    if trees is None or ids is None or not len(trees) == len(ids) == len(modes):
        raise ValueError("has trees that cannot be read")
    if len(ids) and (min(ids.min(), trees.min()) < 0 or max(ids.max(), trees.max()) >= 2**31):
        raise ValueError("has trees with other numbers than 32 bits hold")
    names = trees * 2**31 + ids
    order = np.argsort(names, kind="stable")
    leaf = np.array([mode == b"LEAF" for mode in modes], np.bool_)
    children = []
    for side in ("true", "false"):
        wanted = trees * 2**31 + numbers.get(f"nodes_{side}nodeids", np.full(len(ids), -1))
        places = order[np.searchsorted(names[order], wanted).clip(max=max(0, len(ids) - 1))]
        if (names[places] != wanted)[~leaf].any():
            raise ValueError("has a tree with a branch to nowhere")
        children.append(np.where(leaf, -1, places))
    # A tree begins where the number of the tree changes, in the order of the file.
    return int(np.count_nonzero(np.diff(trees))) + 1, children


def _depth(roots: int, children: list[npt.NDArray[np.int64]]) -> int:
    """Return the number of branches down to the deepest leaf, of `roots` trees together, at the most."""
    # From every node at once: which of them are roots is ONNX Runtime's business.
    deepest, reached = 0, np.arange(len(children[0]))
    for _ in range(MAX_DEPTH):
        if not len(reached):
            return deepest
        deepest += min(len(reached), roots)
        below = np.zeros(len(children[0]) + 1, np.bool_)  # the last stands for none, -1
        for side in children:
            below[side[reached]] = True
        reached = np.flatnonzero(below[:-1])
    raise ValueError(f"has a tree that leads back up, or is deeper than {MAX_DEPTH:,} levels,")
