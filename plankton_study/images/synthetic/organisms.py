"""Drawing one individual: a canvas, a pose, and a method for each group of taxa."""

import numpy as np
from PIL import Image, ImageDraw

from plankton_study.images.synthetic.outlines import CIRCLE, WAY, Points, arc, oval

Rng = np.random.Generator

#: organisms are drawn at this multiple of the camera's resolution
FINE = 3


class Sketch:
    """One individual: a canvas for tissue, one for fine parts, and a random pose.

    The methods named after groups draw; their arguments are the `shape` of parameters.toml.

    Args:
        rng: random generator of this individual.
        length: of the body, in fine pixels.
        bend: standard deviation of the body's curvature, radians.
    """

    def __init__(self, rng: Rng, length: float, bend: float) -> None:
        self.rng = rng
        self.length = length
        self.side = FINE * int(2.7 * length / FINE)
        self.soft = Image.new("L", (self.side, self.side))
        self.fine = Image.new("L", (self.side, self.side))
        # the images depend on the order of these random draws
        self.bend = rng.normal(0, bend) + 1e-3
        self.opacity = rng.lognormal(0, 0.35)
        self.shift = 0.0
        self.tilt = rng.uniform(0.8, 1, 2) * (1, rng.choice([-1, 1]))
        self.turn = rng.uniform(0, 2 * np.pi)
        self.phase = rng.uniform(0, 2 * np.pi, 2)
        self.lost = rng.choice([0, 0.1, 0.4], p=[0.75, 0.15, 0.1])

    def vary(self, value: float, by: float = 0.15) -> float:
        """Return a value with random variation between individuals."""
        return value * self.rng.lognormal(0, by)

    def place(self, line: Points) -> list[float]:
        """Return the canvas coordinates x, y, x, y … of points on the bent, turned body."""
        # small irregularities
        x = self.tilt[0] * (line.real + 0.012 * np.sin(9 * line.imag + self.phase[0]))
        y = self.tilt[1] * (line.imag + 0.012 * np.sin(9 * line.real + self.phase[1]))
        along = np.exp(1j * self.bend * x)
        bent = 1j * ((1 - along) / self.bend + y * along)
        turned = bent * np.exp(1j * self.turn) + self.shift
        centre = (0.5 + 0.5j) * self.side
        return (turned * self.length + centre).view(float).tolist()

    def tissue(
        self, line: Points, fill: float, edge: int = 150, half_width: float | np.ndarray = 0.0
    ) -> None:
        """Fill an outline; with `half_width`, the line is the centre line of a band instead."""
        if np.any(half_width):
            across = 1j * half_width * np.exp(1j * np.angle(np.gradient(line)))
            line = np.concatenate([line + across, (line - across)[::-1]])
        placed = self.place(line)
        darkness = min(230, int(fill * self.opacity))
        ImageDraw.Draw(self.soft).polygon(placed, fill=darkness)
        closed = [*placed, *placed[:2]]
        ImageDraw.Draw(self.fine).line(closed, fill=edge, width=FINE - 1)

    def hair(self, line: Points, value: int = 110) -> None:
        """Draw a thin line, which may be broken off."""
        if self.rng.random() < self.lost:
            line = line[: self.rng.integers(2, len(line))]
        ImageDraw.Draw(self.fine).line(self.place(line), fill=value, width=FINE - 1, joint="curve")

    def bite(self) -> None:
        """Remove the rear of the organism."""
        rear = self.place(oval(-0.45, 0.2, 0.25, 4))
        for canvas in (self.soft, self.fine):
            ImageDraw.Draw(canvas).polygon(rear, fill=0)

    def chain(self, cells: int, aspect: float, gap: float, setae: float, box: float) -> None:
        """Draw a chain of diatoms, with or without setae."""
        count = max(2, round(self.vary(cells, 0.3)))
        rx = (1 - gap) / 2 / count
        ry = self.vary(min(0.5 / count / aspect, 0.12))
        for x in (np.arange(count) + 0.5) / count - 0.5:
            self.tissue(oval(x, rx, ry, box), 50)
            self.tissue(oval(x + self.rng.normal(0, rx / 4), rx / 2, ry / 2), 140, 60)
            if setae:
                self._setae(x, rx, ry, setae)

    def _setae(self, x: float, rx: float, ry: float, length: float) -> None:
        """Draw the four setae at the corners of a cell."""
        for side, end in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            root = x + end * rx + 1j * side * ry
            angle = side * (1.57 - end * self.rng.normal(0.35, 0.2))
            self.hair(arc(root, angle, self.vary(length), -side * end * 0.4), 75)

    def copepod(self, antenna: float, urosome: float, plump: float, eggs: float) -> None:
        """Draw a copepod, from above or from the side."""
        half = self.vary(0.31 * plump, 0.1)
        lateral = self.rng.random() < 0.4
        self.tissue(oval(0.1, 0.31, half, 2.3, 0.12), 120, 170)
        gut = oval(0.08 + self.rng.normal(0, 0.02) * 1j, self.vary(0.16), half * 0.4)
        self.tissue(gut, self.vary(190), 60)
        self.tissue(oval(0.37, 0.02, 0.02), 230)  # the eye
        for k in range(4):
            segment = oval(
                -0.21 - urosome * (k + 0.5) / 4, urosome / 7.5, half * (0.34 - 0.04 * k), 4
            )
            self.tissue(segment, 110)
        for lean in np.linspace(-1, 1, 5):
            root = -0.21 - urosome + 0.03j * lean
            self.hair(arc(root, np.pi + lean * 0.25, 0.1, lean * 0.2))
        legs = 5 if lateral else 2
        for k in range(legs):
            self.hair(arc(0.28 - 0.09 * k + 0.8j * half, 1.9, self.vary(0.15), 0.6), 130)
        foreshortening = 0.6 if lateral else 1.0
        for side, length in ((-1, antenna * foreshortening), (1, antenna)):
            angle, curl = side * self.rng.normal((1.35, 0.35), 0.25)
            self.hair(arc(0.37 + 0.35j * side * half, angle, self.vary(length, 0.1), curl), 190)
            if eggs:
                sac = oval(-0.34 + 1j * side * (half * 0.35 + 0.06), eggs, eggs * 0.45)
                self.tissue(sac, 150, 190)

    def radial(self, spines: int, reach: float, core: float, halo: float) -> None:
        """Draw an acantharian or a radiolarian: a core with spines all around."""
        count = round(self.vary(spines, 0.1))
        core = self.vary(core)
        self.tissue(oval(0, halo, halo), 45, 60)
        angles = np.arange(count) * 2 * np.pi / count + self.rng.normal(0, 0.12, count)
        for angle in angles:
            length = reach * self.rng.uniform(0.55, 1.1)
            self.hair(arc(0, angle, length, self.rng.normal(0, 0.05)), 120)
        self.tissue(oval(0, core, core * 0.9, 2, self.rng.normal(0, 0.1)), 150, 170)
        self.tissue(oval(self.rng.normal(0, core / 6), core * 0.55, core * 0.5), 220, 60)

    def horned(self, front: float, rear: float, other: float, splay: float, wide: float) -> None:
        """Draw a dinoflagellate with one front horn and two rear horns."""
        ry = self.vary(0.2 * wide, 0.1)
        taper = np.linspace(0.075, 0.012, 14)
        horns = ((0.1, 0, 0.0, front), (-0.1, 1, np.pi, rear), (-0.1, -1, np.pi, other))
        for x, side, direction, length in horns:
            angle = direction - side * splay
            curl = side * splay * 1.1
            horn = arc(x + 0.5j * side * ry, angle, self.vary(length) + 0.1, curl)
            self.tissue(horn, 120, 120, taper)
        self.tissue(oval(0, 0.2, ry, 2.2, 0.15), 110, 170)
        self.tissue(oval(self.rng.normal(-0.02, 0.03), 0.12, ry * 0.6), self.vary(200), 60)
        girdle = 0.02 * np.sin(3 * WAY) + 1j * ry * (2 * WAY - 1)
        self.hair(girdle, 210)

    def jelly(self, tentacles: int, reach: float, tall: float, gut: float, canals: int) -> None:
        """Draw a medusa: tentacles, bell, rim, canals and gut."""
        height = self.vary(0.64 * tall, 0.1)
        rim = oval(0, 0.32 * self.rng.uniform(0.15, 0.6), 0.32)
        roots = self.rng.permutation(rim)
        count = max(2, round(self.vary(tentacles)))
        for root in roots[:count]:
            angle, curl, wave = self.rng.normal((np.pi - 1.2 * root.imag, 0, 0), (0.15, 0.5, 0.4))
            self.hair(arc(root, angle, self.vary(reach, 0.3), curl, wave), 95)
        up, out = np.sin(CIRCLE[:19]), np.cos(CIRCLE[:19])
        self.tissue(height * up**0.8 + 0.32j * out, 30, 170)
        self.tissue(rim, 45, 130)
        for k in np.linspace(-0.24, 0.24, canals):
            self.hair(height * 0.92 * up[:10] + 1j * k * out[:10], 70)
        stomach = arc(height * 0.8, np.pi, gut * height, self.rng.normal(0, 0.3))
        self.tissue(stomach, 150, 120, 0.08 - 0.06 * WAY)

    def tailed(self, trunk: float, width: float, wave: float, fins: float) -> None:
        """Draw a larvacean or an arrow worm: a trunk with a long tail."""
        tail = arc(0.5 - trunk, np.pi, 1 - trunk, self.rng.normal(0, 0.3 + wave), wave)
        half = self.vary(width) * (0.6 + 0.6 * np.sin(np.pi * WAY**0.8))
        if fins:
            for where in (0.45, 0.72, 0.97):
                fin = fins * np.exp(-(((WAY - where) / 0.08) ** 2))
                self.tissue(tail, 45, 70, half + fin)
        self.tissue(tail, 90, 140, half)
        self.hair(tail, 150)
        self.tissue(oval(0.5 - trunk / 2, trunk / 2, trunk * 0.32, 2, 0.1), 140, 170)
        self.tissue(oval(0.5 - trunk * 0.6, trunk * 0.22, trunk * 0.2), 230, 60)
