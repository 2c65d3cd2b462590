"""Run an ONNX graph by torch, on a card: for synthesisers that are slow on processor cores.

Floats lie on the device, whole numbers and shapes in host memory, so that few nodes wait for the
device. Weights of eight bits are multiplied out; activations are not quantised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    import onnx

Attributes = dict[str, Any]
_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,
    11: torch.float64,
}
"""ONNX's numbers of element types; half precision is computed in f32."""


def _together(*values: Tensor) -> tuple[Tensor, ...]:
    """Return the values on one device: that of the first which is not in host memory."""
    device = next((value.device for value in values if value.is_cuda), None)
    return values if device is None else tuple(value.to(device) for value in values)


def _whole(value: Tensor) -> list[int]:
    return [int(number) for number in value.reshape(-1).tolist()]


def _pads(attributes: Attributes, sides: int) -> list[int]:
    """Return the pads of a convolution in the order of `F.pad`."""
    pads = attributes.get("pads") or [0] * 2 * sides
    return [pads[side + end * sides] for side in reversed(range(sides)) for end in (0, 1)]


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, attributes: Attributes) -> Tensor:
    sides = x.dim() - 2
    x = F.pad(x, _pads(attributes, sides))
    function = (F.conv1d, F.conv2d)[sides - 1]
    return function(
        x,
        weight,
        bias,
        attributes.get("strides", [1] * sides),
        0,
        attributes.get("dilations", [1] * sides),
        attributes.get("group", 1),
    )


def _convolve_back(
    x: Tensor, weight: Tensor, bias: Tensor | None, attributes: Attributes
) -> Tensor:
    sides = x.dim() - 2
    function = (F.conv_transpose1d, F.conv_transpose2d)[sides - 1]
    y = function(
        x,
        weight,
        bias,
        attributes.get("strides", [1] * sides),
        0,
        attributes.get("output_padding", [0] * sides),
        attributes.get("group", 1),
        attributes.get("dilations", [1] * sides),
    )
    return F.pad(y, [-pad for pad in _pads(attributes, sides)])


def _slice(x: Tensor, starts: Tensor, ends: Tensor, *more: Tensor | None) -> Tensor:
    begin, end = _whole(starts), _whole(ends)
    axes = _whole(more[0]) if more and more[0] is not None else list(range(len(begin)))
    steps = _whole(more[1]) if len(more) > 1 and more[1] is not None else [1] * len(begin)
    for first, last, axis, step in zip(begin, end, axes, steps, strict=True):
        length = x.shape[axis]
        places = range(length)[slice(first, None if last < -length else last, step)]
        if step == 1:
            x = x.narrow(axis, places.start, len(places))
        else:
            x = x.index_select(axis, torch.tensor(list(places), device=x.device))
    return x


def _gather(x: Tensor, index: Tensor, axis: int) -> Tensor:
    index = index.to(x.device).long()
    if index.dim() == 0:
        return x.select(axis, int(index)) if not x.is_cuda else x.select(axis, int(index.cpu()))
    axis %= x.dim()
    index = torch.where(index < 0, index + x.shape[axis], index)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _reshape(x: Tensor, shape: Tensor) -> Tensor:
    sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(_whole(shape))]
    return x.reshape(sizes)


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = (value.item() for value in (start, limit, delta))
    return torch.arange(first, last, step, dtype=start.dtype)


def _cast(x: Tensor, to: int) -> Tensor:
    kind = _TYPES[to]
    x = x.to(kind)
    return x.cpu() if kind in (torch.int64, torch.int32) else x


def _resize(x: Tensor, scales: Tensor | None, sizes: Tensor | None, a: Attributes) -> Tensor:
    if sizes is not None and sizes.numel():
        size = _whole(sizes)[2:]
    else:
        assert scales is not None
        factors = scales.reshape(-1).tolist()[2:]
        size = [
            math.floor(n * factor + 1e-6) for n, factor in zip(x.shape[2:], factors, strict=True)
        ]
    if a.get("mode", b"nearest") == b"nearest":
        return F.interpolate(x, size=size, mode="nearest")
    corners = a.get("coordinate_transformation_mode") == b"align_corners"
    mode = "linear" if x.dim() == 3 else "bilinear"
    return F.interpolate(x, size=size, mode=mode, align_corners=corners)


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """Return the quotient, 0 for 0 / 0: exact zeros, which other Fourier transforms do not give,
    have no phase.
    """
    if not x.is_floating_point():
        return torch.div(x, y, rounding_mode="trunc")
    return torch.div(x, y).nan_to_num(0.0, math.inf, -math.inf)


def _reduce(name: str) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: list[int] | None, keep: bool) -> Tensor:
        dims = axes if axes is not None else list(range(x.dim()))
        if name == "max":
            return x.amax(dims, keep)
        return getattr(x, name)(dims, keepdim=keep)

    return reduce


def _scatter_nd(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    x, updates = _together(x, updates)
    index = index.to(x.device)
    return x.clone().index_put_(tuple(index.unbind(-1)), updates)


class _Lstm:
    """Weights of one LSTM node in torch's order of gates."""

    def __init__(self, inputs: list[Tensor | None], attributes: Attributes) -> None:
        _, weight, again, bias = inputs[:4]
        assert weight is not None
        assert again is not None
        assert bias is not None
        if len(inputs) > 8:
            # The quantised node stores transposed weights: [directions, inputs, 4 · hidden].
            w_scale, w_zero, r_scale, r_zero = inputs[8:12]
            weight, again = (
                self._multiplied(table, scale, zero).transpose(1, 2)
                for table, scale, zero in ((weight, w_scale, w_zero), (again, r_scale, r_zero))
            )
        hidden = attributes["hidden_size"]
        self.hidden, self.directions = hidden, weight.shape[0]
        gates = [0, 2, 3, 1]

        def ordered(table: Tensor) -> Tensor:
            return torch.cat([table[gate * hidden : (gate + 1) * hidden] for gate in gates])

        self.flat: list[Tensor] = []
        for way in range(self.directions):
            self.flat += [
                ordered(weight[way]).contiguous(),
                ordered(again[way]).contiguous(),
                ordered(bias[way][: 4 * hidden]).contiguous(),
                ordered(bias[way][4 * hidden :]).contiguous(),
            ]
        assert attributes.get("direction", b"forward") in (b"forward", b"bidirectional")

    @staticmethod
    def _multiplied(table: Tensor, scale: Tensor | None, zero: Tensor | None) -> Tensor:
        assert scale is not None
        assert zero is not None
        device = table.device
        scale = scale.to(device).float().reshape(table.shape[0], 1, -1)
        zero = zero.to(device).float().reshape(table.shape[0], 1, -1)
        return (table.float() - zero) * scale

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = x.new_zeros(self.directions, x.shape[1], self.hidden)
        y, h, c = torch._VF.lstm(
            x, (state, state), self.flat, True, 1, 0.0, False, self.directions == 2, False
        )
        return y.unflatten(-1, (self.directions, self.hidden)).transpose(1, 2), h, c


_SIMPLE: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Not": torch.logical_not,
    "Where": lambda c, x, y: torch.where(c.bool(), x, y),
    "MatMul": torch.matmul,
    "MatMulInteger": lambda x, w, *zero: torch.matmul(x.float(), w),
    "Pow": torch.pow,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Relu": torch.relu,
    "Erf": torch.erf,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Floor": torch.floor,
    "Round": torch.round,
    "Sign": torch.sign,
    "Atan": torch.atan,
    "Reciprocal": torch.reciprocal,
    "Identity": lambda x: x,
    "Div": _divide,
    "Mod": torch.remainder,
}


_OF_FLOATS = frozenset(
    "Conv ConvInteger ConvTranspose DynamicQuantizeLSTM FusedMatMul Gemm InstanceNormalization LSTM"
    " LayerNormalization SkipLayerNormalization".split()
)
"""Operations of which all floats must lie on the device."""


class TorchGraph:
    """A graph that torch runs on `device`."""

    def __init__(self, model: onnx.ModelProto, device: torch.device) -> None:
        from onnx import helper, numpy_helper

        self.device = device
        self.outputs = [output.name for output in model.graph.output]
        self._constants: dict[str, Tensor] = {"": torch.empty(0)}
        for tensor in model.graph.initializer:
            self._constants[tensor.name] = self._place(numpy_helper.to_array(tensor))
        self._nodes = []
        for node in model.graph.node:
            attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            if node.op_type in ("Constant", "ConstantOfShape") and "value" in attributes:
                attributes["value"] = self._place(numpy_helper.to_array(attributes["value"]))
            if node.op_type == "Constant":
                self._constants[node.output[0]] = attributes["value"]
                continue
            self._nodes.append(
                (node.op_type, list(node.input), list(node.output), attributes, node.name)
            )
        self._multiply_out()
        self._lstms = {
            outputs[0]: _Lstm([self._given(name) for name in inputs], attributes)
            for op, inputs, outputs, attributes, _ in self._nodes
            if op in ("LSTM", "DynamicQuantizeLSTM")
        }
        last = {name: i for i, node in enumerate(self._nodes) for name in node[1]}
        self._done_after: list[list[str]] = [[] for _ in self._nodes]
        for name, i in last.items():
            if name not in self._constants and name not in self.outputs:
                self._done_after[i].append(name)

    def _given(self, name: str) -> Tensor | None:
        return self._constants.get(name) if name else None

    def _place(self, array: np.ndarray) -> Tensor:
        value = torch.from_numpy(np.array(array))
        if value.dtype == torch.float16:
            value = value.float()
        whole = value.dtype in (torch.int64, torch.int32, torch.bool)
        return value if whole else value.to(self.device)

    def _multiply_out(self) -> None:
        """Take their zero points from the eight-bit weights of products."""
        for op, inputs, *_ in self._nodes:
            if op in ("ConvInteger", "MatMulInteger"):
                weight = self._constants[inputs[1]]
                if weight.dtype in (torch.int8, torch.uint8):
                    zero = self._given(inputs[3]) if len(inputs) > 3 else None
                    plain = weight.float()
                    if zero is not None:
                        if zero.dim() == 1 and op == "ConvInteger":
                            zero = zero.reshape(-1, *[1] * (weight.dim() - 1))
                        plain = plain - zero.float()
                    self._constants[inputs[1]] = plain

    @torch.no_grad()
    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the graph's outputs."""
        values = {name: self._place(array) for name, array in inputs.items()}
        for number, (op, names, outputs, attributes, name) in enumerate(self._nodes):
            given = [
                None if not one else values[one] if one in values else self._constants[one]
                for one in names
            ]
            try:
                found = self._node(op, given, attributes, outputs)
            except Exception as error:
                shapes = [None if v is None else (tuple(v.shape), v.dtype, v.device) for v in given]
                raise RuntimeError(f"{op} {name} of {shapes}: {error}") from error
            values.update(zip(outputs, found, strict=False))
            for one in self._done_after[number]:
                values.pop(one, None)
        return [values[name].cpu().numpy() for name in self.outputs]

    def _node(
        self, op: str, x: list[Tensor | None], a: Attributes, outputs: list[str]
    ) -> tuple[Tensor, ...] | list[Tensor]:
        simple = _SIMPLE.get(op)
        if simple is not None:
            return (simple(*_together(*x)),)
        if op in _OF_FLOATS:
            x = [v.to(self.device) if v is not None and v.is_floating_point() else v for v in x]
        first = x[0]
        assert first is not None
        if op == "DynamicQuantizeLinear":
            one = torch.ones((), device=self.device)
            return first, one, one * 0
        if op == "ConvInteger":
            return (_convolve(first, x[1], None, a),)
        if op == "Conv":
            return (_convolve(first, x[1], x[2] if len(x) > 2 else None, a),)
        if op == "ConvTranspose":
            return (_convolve_back(first, x[1], x[2] if len(x) > 2 else None, a),)
        if op in ("LSTM", "DynamicQuantizeLSTM"):
            return self._lstms[outputs[0]](first)
        if op == "Gemm":
            left = first.t() if a.get("transA") else first
            right = x[1].t() if a.get("transB") else x[1]
            y = a.get("alpha", 1.0) * (left @ right)
            return (y + a.get("beta", 1.0) * x[2] if len(x) > 2 else y,)
        if op == "Shape":
            return (torch.tensor(first.shape[a.get("start", 0) : a.get("end")]),)
        if op == "Cast":
            return (_cast(first, a["to"]),)
        if op == "Concat":
            return (torch.cat(_together(*x), a["axis"]),)
        if op == "Gather":
            return (_gather(first, x[1], a.get("axis", 0)),)
        if op == "Reshape":
            return (_reshape(first, x[1]),)
        if op == "Transpose":
            return (first.permute(a.get("perm", list(reversed(range(first.dim()))))),)
        if op == "Unsqueeze":
            y = first
            rank = first.dim() + x[1].numel()
            for axis in sorted(axis % rank for axis in _whole(x[1])):
                y = y.unsqueeze(axis)
            return (y,)
        if op == "Squeeze":
            axes = _whole(x[1]) if len(x) > 1 and x[1] is not None else None
            return (first.squeeze() if axes is None else first.squeeze(tuple(axes)),)
        if op == "Slice":
            return (_slice(first, x[1], x[2], *x[3:]),)
        if op == "Split":
            axis = a.get("axis", 0)
            if len(x) > 1 and x[1] is not None:
                return list(first.split(_whole(x[1]), axis))
            return list(first.tensor_split(a.get("num_outputs", len(outputs)), axis))
        if op == "Expand":
            return (first.expand(torch.broadcast_shapes(first.shape, tuple(_whole(x[1])))),)
        if op == "ConstantOfShape":
            value = a.get("value", torch.zeros(1))
            return (value.reshape(()).expand(_whole(first)).clone(),)
        if op == "Range":
            return (_range(first, x[1], x[2]),)
        if op == "Tile":
            return (first.repeat(_whole(x[1])),)
        if op == "Pad":
            return (self._pad(x, a),)
        if op == "Resize":
            scales = x[2] if len(x) > 2 else None
            return (_resize(first, scales, x[3] if len(x) > 3 else None, a),)
        if op == "Softmax":
            return (first.softmax(a.get("axis", -1)),)
        if op == "LeakyRelu":
            return (F.leaky_relu(first, a.get("alpha", 0.01)),)
        if op == "Clip":
            low, high = (x[i].item() if len(x) > i and x[i] is not None else None for i in (1, 2))
            return (first.clamp(low, high),)
        if op == "CumSum":
            assert not a.get("reverse")
            y = first.cumsum(int(x[1]))
            return (y - first if a.get("exclusive") else y,)
        if op == "LayerNormalization":
            dims = list(first.shape[a.get("axis", -1) :])
            return (F.layer_norm(first, dims, x[1], x[2] if len(x) > 2 else None, a["epsilon"]),)
        if op == "InstanceNormalization":
            return (F.instance_norm(first, None, None, x[1], x[2], eps=a.get("epsilon", 1e-5)),)
        if op in ("ReduceSum", "ReduceMean", "ReduceMax"):
            axes = _whole(x[1]) if len(x) > 1 and x[1] is not None else a.get("axes")
            reduce = _reduce(op.removeprefix("Reduce").lower())
            return (reduce(first, axes, bool(a.get("keepdims", 1))),)
        if op == "ScatterND":
            return (_scatter_nd(first, x[1], x[2]),)
        if op == "RandomNormalLike":
            return (a.get("mean", 0.0) + a.get("scale", 1.0) * torch.randn_like(first),)
        if op == "RandomUniformLike":
            low, high = a.get("low", 0.0), a.get("high", 1.0)
            return (low + (high - low) * torch.rand_like(first),)
        if op == "DequantizeLinear":
            scale, zero = x[1], x[2] if len(x) > 2 and x[2] is not None else torch.zeros(())
            if scale.numel() > 1:
                shape = [
                    -1 if i == a.get("axis", 1) % first.dim() else 1 for i in range(first.dim())
                ]
                scale, zero = scale.reshape(shape), zero.reshape(shape)
            value, zero, scale = _together(first, zero, scale)
            return ((value.float() - zero.float()) * scale,)
        if op == "FusedMatMul":
            left = first.transpose(-1, -2) if a.get("transA") else first
            right = x[1].transpose(-1, -2) if a.get("transB") else x[1]
            return (a.get("alpha", 1.0) * (left @ right),)
        if op == "SkipLayerNormalization":
            y = first + x[1]
            if len(x) > 4 and x[4] is not None:
                y = y + x[4]
            width = y.shape[-1:]
            return (F.layer_norm(y, width, x[2], x[3], a.get("epsilon", 1e-5)),)
        if op == "STFT":
            return (self._stft(x, a),)
        if op == "NonZero":
            return (first.nonzero().t().cpu(),)
        if op in ("FastGelu", "Gelu"):
            y = first if len(x) < 2 or x[1] is None else first + x[1]
            return (F.gelu(y, approximate="tanh" if op == "FastGelu" else "none"),)
        raise ValueError(f"torch does not run {op}")

    def _stft(self, x: list[Tensor | None], a: Attributes) -> Tensor:
        """Return spectra [B, frames, bins, 2]."""
        signal, window = x[0], x[2]
        hop = int(x[1])
        size = int(x[3]) if len(x) > 3 and x[3] is not None else window.numel()
        if signal.dim() == 3:
            signal = signal[..., 0]
        window = torch.ones(size, device=signal.device) if window is None else window
        half = bool(a.get("onesided", 1))
        spectrum = torch.stft(
            signal, size, hop, size, window, center=False, onesided=half, return_complex=True
        )
        return torch.view_as_real(spectrum.transpose(1, 2))

    def _pad(self, x: list[Tensor | None], a: Attributes) -> Tensor:
        value, pads = x[0], _whole(x[1])
        rank = value.dim()
        pairs = [pads[side + end * rank] for side in reversed(range(rank)) for end in (0, 1)]
        while len(pairs) > 2 and pairs[-2:] == [0, 0]:
            pairs = pairs[:-2]
        mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate"}[
            a.get("mode", b"constant")
        ]
        if mode == "constant":
            fill = float(x[2]) if len(x) > 2 and x[2] is not None and x[2].numel() else 0.0
            return F.pad(value, pairs, value=fill)
        return F.pad(value, pairs, mode=mode)
