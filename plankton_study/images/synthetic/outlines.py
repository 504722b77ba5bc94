"""Outlines in body coordinates: the real axis points to the front, the imaginary one sideways."""

import numpy as np

Points = np.ndarray  # (n,) complex128, in body lengths

#: the angles of a closed outline
CIRCLE = np.linspace(0, 2 * np.pi, 37)[:-1]
#: the positions along a hair or a tail, from root to tip
WAY = np.linspace(0, 1, 14)


def oval(centre: complex, rx: float, ry: float, power: float = 2.0, taper: float = 0.0) -> Points:
    """Return an ellipse.

    Args:
        centre: centre of the ellipse; `rx` and `ry` are its semi-axes.
        power: values above 2 make the shape boxier.
        taper: values above 0 make the shape wider in front.
    """
    cos, sin = (
        np.sign(value) * np.abs(value) ** (2 / power) for value in (np.cos(CIRCLE), np.sin(CIRCLE))
    )
    return centre + rx * cos + 1j * ry * sin * (1 + taper * cos)


def arc(root: complex, angle: float, length: float, curl: float = 0.0, wave: float = 0.0) -> Points:
    """Return a hair or a tail that starts towards `angle`; `curl` and `wave` (radians) turn it."""
    turns = angle + curl * WAY + wave * np.sin(2 * np.pi * WAY)
    steps = np.exp(1j * turns) * length / 13
    return root + np.cumsum(steps) - steps[0]
