"""exp, ln, log10, power, sin, cos, tanh of doubles: the same bits on every machine.

NumPy's own differ in the last bit between processors, and with the stride of an array; C libraries differ from
one another. A model would be trained on one value and served another. Here each is a fixed sequence of additions,
multiplications and divisions of doubles, every one of which IEEE 754 defines to the last bit; none is left to
an instruction that fuses two. The error is below one unit in the last place, of tanh below one and a half.

The sequences are written once and run over two carriers: arrays, and plain Python floats for so few rows that
starting an array operation costs more than doing it. Methods and constants: exp, log, pow, sin, cos are
those of FDLIBM (Sun Microsystems, 1993: "Freely Distributable LIBM", permission to use, copy, modify, and
distribute is freely granted, provided that this notice is preserved), log10 that of FreeBSD's msun, tanh that of
Cephes (Moshier, 1984) with our exp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Kernel = Callable[..., Any]

FEW = 8
"""Up to this many rows are computed one by one, in Python floats: the same bits, and sooner."""
BLOCK = 4096
"""So many rows at a time, for what lies between the operations to stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class _Carrier:
    """What arithmetic alone does not say, for arrays or for floats; the same bits from either.

    `frexp` gives the exponent as a double, `ldexp` takes it as one and gives infinity beyond the range. `where` has
    both its values computed. `far` is `_far`, of each value.
    """

    where: Callable[[Any, Any, Any], Any]
    rint: Callable[[Any], Any]
    floor: Callable[[Any], Any]
    frexp: Callable[[Any], tuple[Any, Any]]
    ldexp: Callable[[Any, Any], Any]
    far: Callable[[Any, Any], tuple[Any, Any, Any]]


def _over(kernel: Kernel, *columns: Doubles) -> Doubles:
    """The kernel of each row. All columns are as long, or of length one."""
    lengths = [len(column) for column in columns]
    rows = max(lengths) if all(lengths) else 0
    if rows <= FEW:
        whole = [column.tolist() * (rows if len(column) == 1 else 1) for column in columns]
        return np.array([kernel(_FLOATS, *row) for row in zip(*whole, strict=True)], np.float64)
    result = np.empty(rows)
    for low in range(0, rows, BLOCK):
        part = slice(low, low + BLOCK)
        result[part] = kernel(_ARRAYS, *[column if len(column) == 1 else column[part] for column in columns])
    return result


def _function(kernel: Kernel) -> Callable[[Doubles], Doubles]:
    return lambda x: _over(kernel, x)


# ── exp, ln, log10 ──────────────────────────────────────────────────────────────────────────────────────────

_LN2_HI, _LN2_LO = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_INV_LN2 = 1.44269504088896338700
_P1, _P2, _P3 = 1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05
_P4, _P5 = -1.65339022054652515390e-06, 4.13813679705723846039e-08


def _exp(on: _Carrier, x: Any) -> Any:
    x = on.where(x < 720.0, x, 720.0)
    x = on.where(x > -760.0, x, -760.0)
    k = on.rint(x * _INV_LN2)
    hi = x - k * _LN2_HI
    lo = k * _LN2_LO
    r = hi - lo
    t = r * r
    c = r - t * (_P1 + t * (_P2 + t * (_P3 + t * (_P4 + t * _P5))))
    return on.ldexp(1.0 - ((lo - (r * c) / (2.0 - c)) - hi), k)


_LG1, _LG2, _LG3 = 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01
_LG4, _LG5, _LG6 = 2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01
_LG7 = 1.479819860511658591e-01
_SQRT_HALF = 0.7071067811865476


def _near_one(on: _Carrier, x: Any) -> tuple[Any, Any]:
    """`(1 + f) * 2^k`, which is x, with 1 + f between the roots of 1/2 and of 2; 1 for x that is not above zero."""
    m, k = on.frexp(on.where(x > 0.0, x, 1.0))
    small = m < _SQRT_HALF
    return on.where(small, 2.0 * m, m) - 1.0, on.where(small, k - 1.0, k)


def _log1p(f: Any, half_square: Any) -> Any:
    """ln(1 + f) - f + f^2 / 2."""
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    odd = w * (_LG2 + w * (_LG4 + w * _LG6))
    even = z * (_LG1 + w * (_LG3 + w * (_LG5 + w * _LG7)))
    return s * (half_square + (even + odd))


def _ln(on: _Carrier, x: Any) -> Any:
    f, k = _near_one(on, x)
    half_square = 0.5 * f * f
    return k * _LN2_HI - ((half_square - (_log1p(f, half_square) + k * _LN2_LO)) - f)


_IVLN10_HI, _IVLN10_LO = 4.34294481878168880939e-01, 2.50829467116452752298e-11
_LOG10_2_HI, _LOG10_2_LO = 3.01029995663611771306e-01, 3.69423907715893078616e-13


def _head(x: Any) -> Any:
    """Of x the first 21 bits: their product with another such, or with a constant of 32, is exact."""
    c = 4294967297.0 * x
    return c - (c - x)


def _log10(on: _Carrier, x: Any) -> Any:
    f, k = _near_one(on, x)
    half_square = 0.5 * f * f
    hi = _head(f - half_square)
    lo = ((f - hi) - half_square) + _log1p(f, half_square)
    main = hi * _IVLN10_HI
    two = k * _LOG10_2_HI
    rest = k * _LOG10_2_LO + (lo + hi) * _IVLN10_LO + lo * _IVLN10_HI
    total = two + main
    return (rest + ((two - total) + main)) + total


# ── power ───────────────────────────────────────────────────────────────────────────────────────────────────

_DP_H, _DP_L = 5.84962487220764160156e-01, 1.35003920212974897128e-08
_L1, _L2, _L3 = 5.99999999999994648725e-01, 4.28571428578550184252e-01, 3.33333329818377432918e-01
_L4, _L5, _L6 = 2.72728123808534006489e-01, 2.30660745775561754067e-01, 2.06975017800338417784e-01
_LG2_ALL, _LG2_H, _LG2_L = 6.93147180559945286227e-01, 6.93147182464599609375e-01, -1.90465429995776804525e-09
_CP, _CP_H, _CP_L = 9.61796693925975554329e-01, 9.61796700954437255859e-01, -7.02846165095275826516e-09


def _log2(on: _Carrier, x: Any) -> tuple[Any, Any]:
    """log2 of a number above zero in two parts, the first of 21 bits."""
    m, n = on.frexp(x)
    m, n = 2.0 * m, n - 1.0
    top = m >= 1.7320508075688772
    m, n = on.where(top, 0.5 * m, m), on.where(top, n + 1.0, n)
    middle = m >= 1.224744871391589
    bp, dp_h, dp_l = on.where(middle, 1.5, 1.0), on.where(middle, _DP_H, 0.0), on.where(middle, _DP_L, 0.0)
    u = m - bp
    v = 1.0 / (m + bp)
    s = u * v
    s_h = _head(s)
    t_h = _head(m + bp)
    t_l = m - (t_h - bp)
    s_l = v * ((u - s_h * t_h) - s_h * t_l)
    s2 = s * s
    r = s2 * s2 * (_L1 + s2 * (_L2 + s2 * (_L3 + s2 * (_L4 + s2 * (_L5 + s2 * _L6)))))
    r = r + s_l * (s_h + s)
    s2 = s_h * s_h
    t_h = _head(3.0 + s2 + r)
    t_l = r - ((t_h - 3.0) - s2)
    u = s_h * t_h
    v = s_l * t_h + t_l * s
    p_h = _head(u + v)
    p_l = v - (p_h - u)
    z_h = _CP_H * p_h
    z_l = _CP_L * p_h + p_l * _CP + dp_l
    t1 = _head(((z_h + z_l) + dp_h) + n)
    return t1, z_l - (((t1 - n) - dp_h) - z_h)


_HUGE = 2.0**64
"""To so great a power every number but one leaves the range."""


def _power(on: _Carrier, x: Any, y: Any) -> Any:
    """NaN of a number below zero to a power that is not whole; infinity beyond the range, and of zero below zero."""
    size = on.where(x < 0.0, -x, x)
    t1, t2 = _log2(on, on.where(size > 0.0, size, 1.0))
    y = on.where(y < _HUGE, y, _HUGE)
    y = on.where(y > -_HUGE, y, -_HUGE)
    y1 = _head(y)
    p_l = (y - y1) * t1 + y * t2
    p_h = y1 * t1
    z = p_l + p_h
    inside = (z < 1030.0) & (z > -1090.0)
    p_l, p_h = on.where(inside, p_l, 0.0), on.where(inside, p_h, 0.0)
    n = on.rint(p_l + p_h)
    p_h = p_h - n
    t = _head(p_l + p_h)
    u = t * _LG2_H
    v = (p_l - (t - p_h)) * _LG2_ALL + t * _LG2_L
    e = u + v
    w = v - (e - u)
    t = e * e
    t = e - t * (_P1 + t * (_P2 + t * (_P3 + t * (_P4 + t * _P5))))
    r = (e * t) / (t - 2.0) - (w + e * w)
    result = on.ldexp(1.0 - (r - e), n)
    result = on.where(inside, result, on.where(z > 0.0, math.inf, 0.0))
    result = on.where(size > 0.0, result, on.where(y > 0.0, 0.0, on.where(y < 0.0, math.inf, 1.0)))
    whole, odd = on.floor(y) == y, on.floor(0.5 * y) != 0.5 * y
    return on.where(x < 0.0, on.where(whole, on.where(odd, -result, result), math.nan), result)


# ── sin, cos ────────────────────────────────────────────────────────────────────────────────────────────────

_INV_PIO2 = 6.36619772367581382433e-01
_PIO2 = (
    1.57079632673412561417e00,
    6.07710050630396597660e-11,
    2.02226624871116645580e-21,
    8.47842766036889956997e-32,
)
"""pi / 2 in three parts of 33 bits and a rest."""
_NEAR = 1.0e6
"""So far a multiple of the parts is exact."""


def _less(a: Any, b: Any) -> tuple[Any, Any]:
    """The difference a - b and its rounding error (Knuth)."""
    d = a - b
    back = a - d
    return d, (a - (d + back)) + (back - b)


def _quarters(on: _Carrier, x: Any) -> tuple[Any, Any, Any]:
    """The parts of x = n * pi / 2 + a + b: n modulo 4, and the rest, at most pi / 4, in two parts."""
    near = on.where((x < _NEAR) & (x > -_NEAR), x, 0.0)
    n = on.rint(near * _INV_PIO2)
    r = near - n * _PIO2[0]
    r, e2 = _less(r, n * _PIO2[1])
    r, e3 = _less(r, n * _PIO2[2])
    rest = (e2 + e3) - n * _PIO2[3]
    a = r + rest
    return on.far(x, (n - 4.0 * on.floor(0.25 * n), a, (r - a) + rest))


def _far(x: float) -> tuple[float, float, float]:
    """`_quarters` of one large number, in whole numbers."""
    top, bottom = x.as_integer_ratio()
    unit = _half_pi()
    n, r = divmod(2 * (top << _PI_BITS) + unit * bottom, 2 * unit * bottom)
    r = (r - unit * bottom) // (2 * bottom)
    a = r / (1 << _PI_BITS)
    top, bottom = a.as_integer_ratio()
    return float(n % 4), a, (r - top * ((1 << _PI_BITS) // bottom)) / (1 << _PI_BITS)


_PI_BITS = 1300
"""1,024 for the largest double, and enough to say the rest of it to 200 bits."""


@cache
def _half_pi() -> int:
    """Half of pi in units of 2^-1300 (Machin)."""
    unit = 1 << (_PI_BITS + 16)

    def arctan_of_one_over(n: int) -> int:
        power, k, total = unit // n, 1, 0
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power, k = power // (n * n), k + 2
        return total

    return (8 * arctan_of_one_over(5) - 2 * arctan_of_one_over(239)) >> 16


_S1, _S2, _S3 = -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04
_S4, _S5, _S6 = 2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10
_C1, _C2, _C3 = 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05
_C4, _C5, _C6 = -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11


def _wave(on: _Carrier, x: Any, turn: float) -> Any:
    """The sine of x and `turn` quarters."""
    n, a, b = _quarters(on, x)
    n = n + turn
    z = a * a
    v = z * a
    r = _S2 + z * (_S3 + z * (_S4 + z * (_S5 + z * _S6)))
    sine = a - ((z * (0.5 * b - v * r) - b) - v * _S1)
    r = z * (_C1 + z * (_C2 + z * (_C3 + z * (_C4 + z * (_C5 + z * _C6)))))
    half = 0.5 * z
    w = 1.0 - half
    cosine = w + (((1.0 - w) - half) + (z * r - a * b))
    value = on.where((n == 1.0) | (n == 3.0), cosine, sine)  # n is from 0 to 4
    return on.where((n == 2.0) | (n == 3.0), -value, value)


# ── tanh ────────────────────────────────────────────────────────────────────────────────────────────────────

_TP0, _TP1, _TP2 = -9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3
_TQ1, _TQ2, _TQ3 = 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3


def _tanh(on: _Carrier, x: Any) -> Any:
    size = on.where(x < 0.0, -x, x)
    low, high = on.where(size < 0.625, size, 0.0), on.where(size < 22.0, size, 22.0)
    z = low * low
    top = (_TP0 * z + _TP1) * z + _TP2
    bottom = ((z + _TQ1) * z + _TQ2) * z + _TQ3
    small = low + low * z * (top / bottom)
    large = 1.0 - 2.0 / (_exp(on, high + high) + 1.0)
    value = on.where(size < 0.625, small, large)
    return on.where(x < 0.0, -value, value)


# ── the carriers, and the functions ─────────────────────────────────────────────────────────────────────────


def _array_frexp(x: Doubles) -> tuple[Doubles, Doubles]:
    m, k = np.frexp(x)
    return m, k.astype(np.float64)


def _array_far(x: Doubles, near: tuple[Doubles, Doubles, Doubles]) -> tuple[Doubles, Doubles, Doubles]:
    for i in np.flatnonzero(np.isfinite(x) & (np.abs(x) >= _NEAR)).tolist():
        near[0][i], near[1][i], near[2][i] = _far(float(x[i]))
    return near


def _float_frexp(x: float) -> tuple[float, float]:
    m, k = math.frexp(x)
    return m, float(k)


def _float_ldexp(m: float, k: float) -> float:
    try:
        return math.ldexp(m, int(k))
    except OverflowError:  # where C gives infinity; all that is scaled here is above zero
        return math.inf


_ARRAYS = _Carrier(
    where=np.where,
    rint=np.rint,
    floor=np.floor,
    frexp=_array_frexp,
    ldexp=lambda m, k: np.ldexp(m, k.astype(np.int32)),
    far=_array_far,
)
_FLOATS = _Carrier(
    where=lambda condition, a, b: a if condition else b,
    rint=lambda x: float(round(x)),
    floor=lambda x: float(math.floor(x)),
    frexp=_float_frexp,
    ldexp=_float_ldexp,
    far=lambda x, near: _far(x) if math.isfinite(x) and abs(x) >= _NEAR else near,
)

exp = _function(_exp)
"""e to the power of x; infinity beyond the range, zero below it."""
ln = _function(_ln)
"""The natural logarithm; 0 where x is not above zero."""
log10 = _function(_log10)
"""The decimal logarithm; 0 where x is not above zero."""
sin = _function(lambda on, x: _wave(on, x, 0.0))
"""The sine of radians, however many."""
cos = _function(lambda on, x: _wave(on, x, 1.0))
"""The cosine of radians, however many."""
tanh = _function(_tanh)
"""The hyperbolic tangent."""


def power(x: Doubles, y: Doubles) -> Doubles:
    """What x is to the power of y; one of them may have length one.

    Whole powers of numbers below zero have a value, others are NaN; anything to the power of zero is one. Infinity beyond
    the range, and of zero to a power below zero.
    """
    return _over(_power, x, y)
