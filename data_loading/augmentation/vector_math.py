"""Logarithm, power of two and cosine as short polynomials that compile into vector instructions.

The library's functions are called for one number at a time, five to ten times slower. All take and give
float32 and are inlined into the kernels that call them.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

SQRT_HALF_BITS = 0x3F3504F3  # of float32: mantissas are taken from [sqrt(1/2), sqrt(2))
LOWEST_EXPONENT = -126.0  # of a normal float32
# 2 / (k ln 2) for odd k: the series of log2(m) in (m - 1) / (m + 1).
LOG_1, LOG_3, LOG_5, LOG_7, LOG_9 = (2 / (k * math.log(2)) for k in (1, 3, 5, 7, 9))
EXP_1, EXP_2, EXP_3, EXP_4, EXP_5, EXP_6 = (math.log(2) ** k / math.factorial(k) for k in range(1, 7))
# The series of sin(2 pi x).
SIN_1, SIN_3, SIN_5, SIN_7, SIN_9, SIN_11 = (
    (-1) ** (k // 2) * (2 * math.pi) ** k / math.factorial(k) for k in (1, 3, 5, 7, 9, 11)
)

F32, I32 = np.float32, np.int32  # numba widens mixed arithmetic: every constant is narrowed where it stands


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy", inline="always")
def log2(x):  # type: ignore[no-untyped-def]
    """Binary logarithm of x > 0 within 2e-7 of its size; 0 gives -127."""
    bits = F32(x).view(I32)
    exponent = I32((bits - I32(SQRT_HALF_BITS)) >> I32(23))
    mantissa = I32(bits - I32(exponent << I32(23))).view(F32)
    s = (mantissa - F32(1)) / (mantissa + F32(1))
    q = s * s
    series = F32(LOG_1) + q * (F32(LOG_3) + q * (F32(LOG_5) + q * (F32(LOG_7) + q * F32(LOG_9))))
    return F32(exponent) + s * series


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy", inline="always")
def exp2(x):  # type: ignore[no-untyped-def]
    """2 to the power x < 128, within 3e-7 of it; below -126 as at -126."""
    x = max(x, F32(LOWEST_EXPONENT))
    whole = I32(math.floor(x + F32(0.5)))
    f = x - F32(whole)
    series = F32(1) + f * (
        F32(EXP_1) + f * (F32(EXP_2) + f * (F32(EXP_3) + f * (F32(EXP_4) + f * (F32(EXP_5) + f * F32(EXP_6)))))
    )
    return series * I32((whole + I32(127)) << I32(23)).view(F32)


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy", inline="always")
def cos_turns(x):  # type: ignore[no-untyped-def]
    """cos(2 pi x) for x in [0, 1], within 1e-6."""
    s = abs(x - F32(0.5)) - F32(0.25)  # cos(2 pi x) = sin(2 pi s), |s| at most a quarter turn
    q = s * s
    return s * (
        F32(SIN_1) + q * (F32(SIN_3) + q * (F32(SIN_5) + q * (F32(SIN_7) + q * (F32(SIN_9) + q * F32(SIN_11)))))
    )
