"""Sixteen floats at a time inside Numba functions: the vector type that the CPU kernels are written in.

Numba leaves vectorisation to LLVM's heuristics, which pick narrow registers on wide machines and give up where arrays
may overlap. A value of :data:`vector` is sixteen fp32 lanes instead, whatever the machine: LLVM makes one AVX-512
register of it, two of AVX2, four of NEON. Memory is what :mod:`tstar.ops.cpu_rows` says, addressed by position, without
bounds; bfloat16 is widened on loading, and rounded to nearest even on storing.

Only what the kernels need is here. Polynomials are minimax fits; each states its error.
"""

import functools
import hashlib
import operator
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.extending import intrinsic, overload, register_model

from tstar.ops.cpu_rows import LANES, Floats

_FLOAT, _INT, _HALF = ir.FloatType(), ir.IntType(32), ir.IntType(16)
_FLOATS, _INTS, _HALVES = (ir.VectorType(part, LANES) for part in (_FLOAT, _INT, _HALF))

_ROUND = 12582912.0
"""1.5 * 2^23: a float near it has its whole part in the low mantissa bits, so adding it rounds."""
_LOWEST = -126.0
"""Smallest exponent of a normal float; smaller powers of two count as this one."""
_EXP2 = (0.0013333538732232045, 0.009666245425790861, 0.05550500213429321, 0.24022351343132514, 0.6931471435061587, 1.0)
"""2^f for |f| <= 1/2, highest power first; 2^f - 1 is right to 4.3e-7 of itself, also near zero."""
_ATANH = (0.13980301354410238, 0.2001245514273012, 0.33333157340951375, 1.0)
"""atanh(r)/r in r^2 <= 1/9, but for the highest power below; right to 4e-9."""
_ATANH_TOP = 0.1408916755241143
LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


vector = _Vector()


@register_model(_Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, manager: Any, frontend: Any) -> None:
        super().__init__(manager, frontend, _FLOATS)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [float(np.float32(value))] * LANES)


def _whole(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * LANES)


def _call(b: Any, name: str, result: Any, *args: Any) -> Any:
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(function, args)


def _fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    return _call(b, f"llvm.fma.v{LANES}f32", _FLOATS, x, y, z)


def _splat(b: Any, scalar: Any) -> Any:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    return b.shuffle_vector(b.insert_element(undefined, scalar, ir.Constant(_INT, 0)), undefined, _whole(0))


def _at_least(b: Any, x: Any, low: float) -> Any:
    return b.select(b.fcmp_unordered(">", x, _constant(low)), x, _constant(low))  # a NaN stays one


def _address(b: Any, memory: Any, position: Any, pointee: Any) -> Any:
    """Pointer to a ``pointee`` that starts at the given one of its elements."""
    element = getattr(pointee, "element", pointee)
    start = b.inttoptr(b.extract_value(memory, 0), element.as_pointer())
    return b.bitcast(b.gep(start, [position]), pointee.as_pointer())


def _kind(sig: Any) -> type:
    """Which of the memory types of :mod:`tstar.ops.cpu_rows` the first argument is."""
    kind: type = sig.args[0].instance_class
    return kind


def _exp2(b: Any, exponents: list[Any], rounded: list[Any], remainders: list[Any]) -> list[Any]:
    """2^x of several vectors, operation by operation over all of them, so that their latencies overlap."""
    powers = [_constant(_EXP2[0])] * len(exponents)
    for coefficient in _EXP2[1:]:
        powers = [_fma(b, p, f, _constant(coefficient)) for p, f in zip(powers, remainders, strict=True)]
    shifts = [b.shl(b.bitcast(t, _INTS), _whole(23)) for t in rounded]
    return [b.bitcast(b.add(b.bitcast(p, _INTS), s), _FLOATS) for p, s in zip(powers, shifts, strict=True)]


def _exp2_clamped(b: Any, exponents: list[Any]) -> list[Any]:
    exponents = [_at_least(b, x, _LOWEST) for x in exponents]
    rounded = [b.fadd(x, _constant(_ROUND)) for x in exponents]
    whole = [b.fsub(t, _constant(_ROUND)) for t in rounded]
    return _exp2(b, exponents, rounded, [b.fsub(x, n) for x, n in zip(exponents, whole, strict=True)])


def _exp_negative(b: Any, x: Any) -> Any:
    """exp(-|x|)."""
    magnitude = _call(b, f"llvm.fabs.v{LANES}f32", _FLOATS, x)
    (result,) = _exp2_clamped(b, [b.fmul(magnitude, _constant(-LOG2_E))])
    return result


def _sigmoid(b: Any, x: Any) -> Any:
    small = _exp_negative(b, x)
    share = b.fdiv(_constant(1.0), b.fadd(_constant(1.0), small))
    return b.select(b.fcmp_ordered(">=", x, _constant(0.0)), share, b.fmul(small, share))


def _softplus(b: Any, x: Any) -> Any:
    """max(x, 0) + log1p(exp(-|x|)), the logarithm by atanh: right to 2e-7 of itself also where it is tiny."""
    small = _exp_negative(b, x)
    r = b.fdiv(small, b.fadd(_constant(2.0), small))
    square, series = b.fmul(r, r), _constant(_ATANH_TOP)
    for coefficient in _ATANH:
        series = _fma(b, series, square, _constant(coefficient))
    return _fma(b, b.fmul(series, r), _constant(2.0), _at_least(b, x, 0.0))


@intrinsic
def load(typingctx: Any, array: Any, position: Any) -> Any:
    """Sixteen neighbours of a float32 or bfloat16 memory."""

    def emit(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        if _kind(sig) is Floats:
            return b.load(_address(b, *args, _FLOATS), align=4)
        halves = b.load(_address(b, *args, _HALVES), align=2)
        return b.bitcast(b.shl(b.zext(halves, _INTS), _whole(16)), _FLOATS)

    return vector(array, types.intp), emit


@intrinsic
def store(typingctx: Any, array: Any, position: Any, value: Any) -> Any:
    """Write sixteen neighbours of a float32 or bfloat16 memory."""

    def emit(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        array, position, value = args
        if _kind(sig) is Floats:
            b.store(value, _address(b, array, position, _FLOATS), align=4)
        else:
            bits = b.bitcast(value, _INTS)
            odd = b.and_(b.lshr(bits, _whole(16)), _whole(1))
            nearest = b.lshr(b.add(bits, b.add(odd, _whole(0x7FFF))), _whole(16))
            nearest = b.select(b.fcmp_unordered("uno", value, value), _whole(0x7FC0), nearest)
            b.store(b.trunc(nearest, _HALVES), _address(b, array, position, _HALVES), align=2)
        return ctx.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@intrinsic
def broadcast(typingctx: Any, array: Any, position: Any) -> Any:
    """One float32 in every lane."""

    def emit(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        return _splat(b, b.load(_address(b, *args, _FLOAT), align=4))

    return vector(array, types.intp), emit


@intrinsic
def get(typingctx: Any, array: Any, position: Any) -> Any:
    """One float32."""
    return types.float32(array, types.intp), lambda ctx, b, sig, args: b.load(_address(b, *args, _FLOAT), align=4)


@intrinsic
def put(typingctx: Any, array: Any, position: Any, value: Any) -> Any:
    """Write one float32."""

    def emit(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        array, position, value = args
        b.store(value, _address(b, array, position, _FLOAT), align=4)
        return ctx.get_dummy_value()

    return types.void(array, types.intp, types.float32), emit


@intrinsic
def get_byte(typingctx: Any, array: Any, position: Any) -> Any:
    """One byte."""
    return types.uint8(array, types.intp), lambda ctx, b, sig, args: b.load(_address(b, *args, ir.IntType(8)))


@intrinsic
def splat(typingctx: Any, scalar: Any) -> Any:
    """A scalar in every lane."""
    return vector(types.float32), lambda ctx, b, sig, args: _splat(b, args[0])


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z, rounded once."""
    return vector(vector, vector, vector), lambda ctx, b, sig, args: _fma(b, *args)


def _reduce(b: Any, x: Any, combine: Any) -> Any:
    """All lanes combined into one: halves onto halves."""
    width = LANES
    while width > 1:
        width //= 2
        lanes = [ir.Constant(ir.VectorType(_INT, width), list(range(low, low + width))) for low in (0, width)]
        x = combine(*(b.shuffle_vector(x, x, half) for half in lanes))
    return b.extract_element(x, ir.Constant(_INT, 0))


def _greater(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_unordered(">", x, y), x, y)


@intrinsic
def total(typingctx: Any, x: Any) -> Any:
    """Sum of the lanes."""
    return types.float32(vector), lambda ctx, b, sig, args: _reduce(b, args[0], b.fadd)


@intrinsic
def greatest(typingctx: Any, x: Any) -> Any:
    """Greatest of the lanes."""
    return types.float32(vector), lambda ctx, b, sig, args: _reduce(b, args[0], lambda x, y: _greater(b, x, y))


@intrinsic
def store_totals(typingctx: Any, array: Any, position: Any, x0: Any, x1: Any, x2: Any, x3: Any) -> Any:
    """Write the sums of four vectors' lanes to four neighbours of float32 memory, halving all of them at once."""

    def emit(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        array, position, *x = args

        def halve(left: Any, right: Any, first: list[int], distance: int) -> Any:
            """Lanes ``first`` of two vectors end to end, plus the lanes a distance after them."""
            parts = [
                b.shuffle_vector(left, right, ir.Constant(ir.VectorType(_INT, len(first)), [i + d for i in first]))
                for d in (0, distance)
            ]
            return b.fadd(*parts)

        low, high = [*range(8)], [*range(16, 24)]
        pairs = [halve(x[k], x[k + 1], low + high, 8) for k in (0, 2)]  # eight parts of each of two
        quads = halve(*pairs, [i for start in (0, 8, 16, 24) for i in range(start, start + 4)], 4)
        twos = halve(quads, quads, [0, 1, 4, 5, 8, 9, 12, 13], 2)
        sums = halve(twos, twos, [0, 2, 4, 6], 1)
        b.store(sums, _address(b, array, position, ir.VectorType(_FLOAT, 4)), align=4)
        return ctx.get_dummy_value()

    return types.void(array, types.intp, *[vector] * 4), emit


@intrinsic
def largest(typingctx: Any, x: Any, y: Any) -> Any:
    """The greater of each two lanes."""
    return vector(vector, vector), lambda ctx, b, sig, args: _greater(b, *args)


@intrinsic
def sigmoid(typingctx: Any, x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return vector(vector), lambda ctx, b, sig, args: _sigmoid(b, args[0])


@intrinsic
def softplus(typingctx: Any, x: Any) -> Any:
    """log(1 + exp(x))."""
    return vector(vector), lambda ctx, b, sig, args: _softplus(b, args[0])


@intrinsic
def exp2_products(typingctx: Any, x: Any, y0: Any, y1: Any, y2: Any, y3: Any) -> Any:
    """2^(x y) for four y; right only where every product lies in [-126, 0]."""

    def emit(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        x, *ys = args
        rounded = [_fma(b, x, y, _constant(_ROUND)) for y in ys]
        minus_whole = [b.fsub(_constant(_ROUND), t) for t in rounded]
        remainders = [_fma(b, x, y, n) for y, n in zip(ys, minus_whole, strict=True)]
        return ctx.make_tuple(b, sig.return_type, _exp2(b, ys, rounded, remainders))

    return types.UniTuple(vector, 4)(*[vector] * 5), emit


@intrinsic
def exp2_products_clamped(typingctx: Any, x: Any, y0: Any, y1: Any, y2: Any, y3: Any) -> Any:
    """2^max(x y, -126) for four y; products must not be positive."""

    def emit(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        x, *ys = args
        return ctx.make_tuple(b, sig.return_type, _exp2_clamped(b, [b.fmul(x, y) for y in ys]))

    return types.UniTuple(vector, 4)(*[vector] * 5), emit


inline = njit(inline="always")
"""Decorator of a function that kernels call: it becomes part of them."""


def kernel(function: Any) -> Any:
    """Decorator of a function that Python calls: compiled at its first call, without Python's lock, and kept on disk.

    What is kept counts as stale when any file of kernels, this one or that of the memory types has changed. Numba would
    look at the time of modification of the function's own file alone, though kernels are made of all of these.
    """
    compiled = njit(nogil=True, cache=True, error_model="numpy")(function)
    compiled._cache._cache_file._source_stamp = _digest()
    return compiled


@functools.cache
def _digest() -> str:
    folder = Path(__file__).parent
    sources = [folder / "simd.py", folder / "cpu_rows.py", *sorted(folder.glob("*_kernels*.py"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


@inline
def clear(memory, first, count):
    """Write zeros to ``count`` neighbours, a multiple of sixteen."""
    for i in range(first, first + count, LANES):
        store(memory, i, splat(np.float32(0.0)))


@inline
def row(rows, t):
    """Where the t-th row scanned starts in ``rows.data``; see :class:`tstar.ops.cpu_rows.Rows`."""
    return rows.first + t * rows.step


@intrinsic
def _multiply(typingctx: Any, x: Any, y: Any) -> Any:
    return vector(vector, vector), lambda ctx, b, sig, args: b.fmul(*args)


@intrinsic
def _add(typingctx: Any, x: Any, y: Any) -> Any:
    return vector(vector, vector), lambda ctx, b, sig, args: b.fadd(*args)


@intrinsic
def _subtract(typingctx: Any, x: Any, y: Any) -> Any:
    return vector(vector, vector), lambda ctx, b, sig, args: b.fsub(*args)


@overload(operator.mul, strict=False)
def _overload_mul(x: Any, y: Any) -> Any:
    return (lambda x, y: _multiply(x, y)) if x == vector == y else None


@overload(operator.add, strict=False)
def _overload_add(x: Any, y: Any) -> Any:
    return (lambda x, y: _add(x, y)) if x == vector == y else None


@overload(operator.sub, strict=False)
def _overload_sub(x: Any, y: Any) -> Any:
    return (lambda x, y: _subtract(x, y)) if x == vector == y else None
