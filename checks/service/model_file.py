"""What an ONNX file may consist of: operators of a list, no control flow, no data outside of the file.

A session runs whatever a file says. A `Loop` may run long for one value of a feature and never in the gate;
a tensor with external data is read from the working folder and changes without the file's digest; an operator
of another domain runs code that somebody installed. So the gate judges files of this form alone.
"""

from collections.abc import Iterator

import onnx

from checks.errors import GateInputError

# The predictor takes no larger files (serving/limits.py), and protobuf none over 2 GiB.
MAX_BYTES = 100 * 2**20
# Far more than a pipeline of scikit-learn, XGBoost or LightGBM has, or a network that fits the size.
MAX_NODES = 20_000
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


def require_plain_file(content: bytes) -> None:
    """Raise `GateInputError` unless an ONNX file is of the form that the gate judges."""
    if len(content) > MAX_BYTES:
        raise GateInputError(f"The ONNX file is larger than {MAX_BYTES // 2**20} MiB.")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own kinds, none of which is public
        raise GateInputError(f"The ONNX file cannot be read: {type(error).__name__}.") from error
    if problem := next(_problems(model), None):
        raise GateInputError(
            f"The ONNX file {problem}, which the gate does not judge: docs/gate.md says what a file may hold."
        )


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    if model.functions:
        yield "has functions of its own"
    if model.training_info:
        yield "has steps of a training"
    if len(graph.node) > MAX_NODES:
        yield f"has {len(graph.node):,} nodes, more than {MAX_NODES:,}"
    for tensor in (*graph.initializer, *(part.values for part in graph.sparse_initializer)):
        if _is_external(tensor):
            yield f"keeps {tensor.name!r} outside of itself"
    known = {tensor.name for tensor in graph.initializer}
    # What depends on the features' values. The nodes of a graph are in an order of computation.
    valued = {value.name for value in graph.input if value.name not in known}
    for node in graph.node:
        yield from _problems_of(node, valued)
        if node.op_type not in _SHAPES and valued.intersection(node.input):
            valued.update(node.output)


def _problems_of(node: onnx.NodeProto, valued: set[str]) -> Iterator[str]:
    name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if node.op_type not in _ALLOWED.get(node.domain, frozenset()):
        yield f"uses the operator {name}"
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs:
            yield f"has a graph inside {name}"
        if any(map(_is_external, (attribute.t, *attribute.tensors))):
            yield f"keeps a tensor of {name} outside of itself"
    for position in _SIZED_BY.get(node.op_type, ()):
        if position < len(node.input) and node.input[position] in valued:
            yield f"makes the size of {name} from the value of a feature"


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data)
