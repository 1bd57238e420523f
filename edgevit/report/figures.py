"""Figures as people read them: three digits, the unit beside them, never an exponent for a size."""

from __future__ import annotations

import math

# Between a figure and its unit, so that no line breaks there.
NBSP = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"

# Two accuracies closer than this print alike.
SAME_POINTS = 0.005


def digits(value: float) -> str:
    """A value to three significant digits, thousands in full.

    >>> digits(0.01234), digits(1.1), digits(12.34), digits(4321.0), digits(0)
    ('0.0123', '1.10', '12.3', '4,321', '0')
    """
    if value == 0:
        return "0"
    # Rounded first: 9.996 prints as 10.0, not as 10.00.
    size = float(f"{abs(value):.3g}")
    decimals = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:,.{decimals}f}"


def milliseconds(value: float) -> str:
    """A time in milliseconds.

    >>> milliseconds(1.097748).replace(NBSP, " ")
    '1.10 ms'
    """
    return f"{digits(value)}{NBSP}ms"


def seconds(value: float) -> str:
    """A time in seconds, minutes from two minutes on.

    >>> seconds(9.04).replace(NBSP, " "), seconds(150).replace(NBSP, " ")
    ('9.04 s', '2 min 30 s')
    """
    if value < 120:
        return f"{digits(value)}{NBSP}s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes:,}{NBSP}min{NBSP}{rest}{NBSP}s"


def duration(value: float) -> str:
    """A time given in seconds: in milliseconds up to a second.

    >>> duration(0.0123).replace(NBSP, " "), duration(2.5).replace(NBSP, " ")
    ('12.3 ms', '2.50 s')
    """
    return milliseconds(1000 * value) if value < 1 else seconds(value)


def transfer(size: float) -> str:
    """What is sent: in bytes where it is little, else in megabytes (10^6).

    >>> transfer(40.0), transfer(605184).replace(NBSP, " ")
    ('40 bytes', '0.605 MB')
    """
    return counted(round(size), "byte") if size < 10_000 else memory(size / 1e6)


def memory(value: float) -> str:
    """Megabytes (10^6 bytes).

    >>> memory(76.84).replace(NBSP, " ")
    '76.8 MB'
    """
    return f"{digits(value)}{NBSP}MB"


def megabytes(size: int) -> str:
    """Bytes in megabytes (10^6).

    >>> megabytes(22883344).replace(NBSP, " ")
    '22.9 MB'
    """
    return memory(size / 1e6)


def magnitude(value: int) -> str:
    """A large count with its thousands, millions or billions (10^9).

    >>> [magnitude(value).replace(NBSP, " ") for value in (12, 20862336, 4250000000)]
    ['12', '20.9 M', '4.25 G']
    """
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= limit:
            return f"{digits(value / limit)}{NBSP}{unit}"
    return str(value)


def percent(value: float) -> str:
    """A percentage to two decimals.

    >>> percent(28.999999999999996).replace(NBSP, " ")
    '29.00 %'
    """
    return f"{value:.2f}{NBSP}%"


def points(value: float, reference: float) -> str:
    """How far a percentage lies from another, in percentage points.

    >>> points(79.5, 80.0).replace(NBSP, " ").replace(MINUS, "-"), points(80.0, 80.0)
    ('-0.50 points', 'no difference')
    """
    difference = value - reference
    if abs(difference) < SAME_POINTS:
        return "no difference"
    sign = MINUS if difference < 0 else "+"
    return f"{sign}{abs(difference):.2f}{NBSP}points"


def times(value: float) -> str:
    """How many times a reference something is.

    >>> times(0.498).replace(TIMES, "x")
    '0.50x'
    """
    return f"{value:.2f}{TIMES}"


def two_digits(value: float) -> str:
    """A divergence or a relative error: they lie orders of magnitude apart.

    >>> two_digits(0.01234), two_digits(1.2e-7)
    ('0.012', '1.2e-07')
    """
    return f"{value:.2g}"


def mebibytes(value: float) -> str:
    """Memory in MiB (2^20 bytes).

    >>> mebibytes(560.4).replace(NBSP, " ")
    '560 MiB'
    """
    return f"{digits(value)}{NBSP}MiB"


def size_ratio(size: int, reference: int) -> str:
    """How many times smaller or larger one size is than another.

    >>> size_ratio(25, 100), size_ratio(120, 100), size_ratio(100, 100)
    ('4.00 times smaller', '1.20 times larger', 'the same size')
    """
    if size <= 0 or reference <= 0:
        return "no size to compare with"
    ratio = size / reference
    if 0.995 < ratio < 1.005:
        return "the same size"
    return f"{digits(1 / ratio)} times smaller" if ratio < 1 else f"{digits(ratio)} times larger"


def chance(value: float) -> str:
    """A probability from 0 to 1 in whole percent; never a certainty it is not.

    >>> [chance(value).replace(NBSP, " ") for value in (0.1125, 0.9994, 0.0004)]
    ['11 %', 'over 99 %', 'under 1 %']
    """
    if value > 0.99:
        return f"over 99{NBSP}%"
    if value < 0.01:
        return f"under 1{NBSP}%"
    return f"{100 * value:.0f}{NBSP}%"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, plural where it must be.

    >>> counted(1, "thread"), counted(2349, "run"), counted(2, "class", "classes")
    ('1 thread', '2,349 runs', '2 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
