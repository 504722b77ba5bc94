"""Procedural plankton: an embedded, labelled image set with a known truth, written as ordinary image files.

It behaves like a download: a folder per taxon, names that tell site, camera, time and number, samples that
share water and light, a long tail, a season, a second site and camera; it says nothing about real organisms.
"""

import tomllib
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from plankton_study.profile import PACKAGE, StudyError

Rng = np.random.Generator
Points = np.ndarray  # (n,) complex128 in body lengths: real along the body, its front positive, imaginary across
CIRCLE, WAY = np.linspace(0, 2 * np.pi, 37)[:-1], np.linspace(0, 1, 14)
FINE = 3  # organisms are drawn this many times finer than the pixels of the camera
NATURE = tomllib.loads((PACKAGE / "synthetic.toml").read_text("utf-8"))
TAXA, STRATA = NATURE["taxa"], NATURE["strata"]


def oval(centre: complex, rx: float, ry: float, power: float = 2.0, taper: float = 0.0) -> Points:
    """Outline an ellipse, or a boxier shape for a `power` above 2, that a `taper` makes wider in front."""
    cos, sin = (np.sign(v) * np.abs(v) ** (2 / power) for v in (np.cos(CIRCLE), np.sin(CIRCLE)))
    return centre + rx * cos + 1j * ry * sin * (1 + taper * cos)


def arc(root: complex, angle: float, length: float, curl: float = 0.0, wave: float = 0.0) -> Points:
    """Trace a hair or a tail that starts towards `angle`; `curl` and `wave` (radians) turn it on its way."""
    steps = np.exp(1j * (angle + curl * WAY + wave * np.sin(2 * np.pi * WAY))) * length / 13
    return root + np.cumsum(steps) - steps[0]


class Sketch:
    """One individual on paper: a canvas for tissue, one for fine parts, a pose; a drawing method per group."""

    def __init__(self, rng: Rng, length: float, bend: float) -> None:
        self.rng, self.length, self.side = rng, length, FINE * int(2.7 * length / FINE)
        self.soft, self.fine = (Image.new("L", (self.side, self.side)) for _ in range(2))
        self.bend, self.opacity, self.shift = rng.normal(0, bend) + 1e-3, rng.lognormal(0, 0.35), 0.0
        self.tilt, self.turn = rng.uniform(0.8, 1, 2) * (1, rng.choice([-1, 1])), rng.uniform(0, 2 * np.pi)
        self.phase, self.lost = rng.uniform(0, 2 * np.pi, 2), rng.choice([0, 0.1, 0.4], p=[0.75, 0.15, 0.1])

    def vary(self, value: float, by: float = 0.15) -> float:
        return value * self.rng.lognormal(0, by)

    def place(self, line: Points) -> list[float]:
        x = self.tilt[0] * (line.real + 0.012 * np.sin(9 * line.imag + self.phase[0]))  # life is not regular
        y = self.tilt[1] * (line.imag + 0.012 * np.sin(9 * line.real + self.phase[1]))
        along = np.exp(1j * self.bend * x)
        z = 1j * ((1 - along) / self.bend + y * along) * np.exp(1j * self.turn) + self.shift
        return (z * self.length + (0.5 + 0.5j) * self.side).view(float).tolist()

    def tissue(self, line: Points, fill: float, edge: int = 150, half: float | np.ndarray = 0.0) -> None:
        if np.any(half):  # the outline of a band of this half width around the line, else the line is the outline
            across = 1j * half * np.exp(1j * np.angle(np.gradient(line)))
            line = np.concatenate([line + across, (line - across)[::-1]])
        placed = self.place(line)
        ImageDraw.Draw(self.soft).polygon(placed, fill=min(230, int(fill * self.opacity)))
        ImageDraw.Draw(self.fine).line([*placed, *placed[:2]], fill=edge, width=FINE - 1)

    def hair(self, line: Points, value: int = 110) -> None:
        if self.rng.random() < self.lost:  # broken off
            line = line[: self.rng.integers(2, len(line))]
        ImageDraw.Draw(self.fine).line(self.place(line), fill=value, width=FINE - 1, joint="curve")

    def chain(self, cells: int, aspect: float, gap: float, setae: float, box: float) -> None:
        count = max(2, round(self.vary(cells, 0.3)))
        rx, ry = (1 - gap) / 2 / count, self.vary(min(0.5 / count / aspect, 0.12))
        for x in (np.arange(count) + 0.5) / count - 0.5:
            self.tissue(oval(x, rx, ry, box), 50)
            self.tissue(oval(x + self.rng.normal(0, rx / 4), rx / 2, ry / 2), 140, 60)
            for side, end in ((-1, -1), (-1, 1), (1, -1), (1, 1)) if setae else ():
                root, angle = x + end * rx + 1j * side * ry, side * (1.57 - end * self.rng.normal(0.35, 0.2))
                self.hair(arc(root, angle, self.vary(setae), -side * end * 0.4), 75)

    def copepod(self, antenna: float, urosome: float, plump: float, eggs: float) -> None:
        half, lateral = self.vary(0.31 * plump, 0.1), self.rng.random() < 0.4
        self.tissue(oval(0.1, 0.31, half, 2.3, 0.12), 120, 170)
        self.tissue(oval(0.08 + self.rng.normal(0, 0.02) * 1j, self.vary(0.16), half * 0.4), self.vary(190), 60)
        self.tissue(oval(0.37, 0.02, 0.02), 230)  # the eye
        for k in range(4):
            self.tissue(oval(-0.21 - urosome * (k + 0.5) / 4, urosome / 7.5, half * (0.34 - 0.04 * k), 4), 110)
        for lean in np.linspace(-1, 1, 5):
            self.hair(arc(-0.21 - urosome + 0.03j * lean, np.pi + lean * 0.25, 0.1, lean * 0.2))
        for k in range(5 if lateral else 2):
            self.hair(arc(0.28 - 0.09 * k + 0.8j * half, 1.9, self.vary(0.15), 0.6), 130)
        for side, far in ((-1, antenna * (0.6 if lateral else 1)), (1, antenna)):
            angle, curl = side * self.rng.normal((1.35, 0.35), 0.25)
            self.hair(arc(0.37 + 0.35j * side * half, angle, self.vary(far, 0.1), curl), 190)
            if eggs:
                self.tissue(oval(-0.34 + 1j * side * (half * 0.35 + 0.06), eggs, eggs * 0.45), 150, 190)

    def radial(self, spines: int, reach: float, core: float, halo: float) -> None:
        count, core = round(self.vary(spines, 0.1)), self.vary(core)
        self.tissue(oval(0, halo, halo), 45, 60)
        for angle in np.arange(count) * 2 * np.pi / count + self.rng.normal(0, 0.12, count):
            self.hair(arc(0, angle, reach * self.rng.uniform(0.55, 1.1), self.rng.normal(0, 0.05)), 120)
        self.tissue(oval(0, core, core * 0.9, 2, self.rng.normal(0, 0.1)), 150, 170)
        self.tissue(oval(self.rng.normal(0, core / 6), core * 0.55, core * 0.5), 220, 60)

    def horned(self, front: float, rear: float, other: float, splay: float, wide: float) -> None:
        ry, taper = self.vary(0.2 * wide, 0.1), np.linspace(0.075, 0.012, 14)
        for x, side, far in ((0.1, 0, front), (-0.1, 1, rear), (-0.1, -1, other)):
            angle, curl = np.pi * (x < 0) - side * splay, side * splay * 1.1
            self.tissue(arc(x + 0.5j * side * ry, angle, self.vary(far) + 0.1, curl), 120, 120, taper)
        self.tissue(oval(0, 0.2, ry, 2.2, 0.15), 110, 170)
        self.tissue(oval(self.rng.normal(-0.02, 0.03), 0.12, ry * 0.6), self.vary(200), 60)
        self.hair(0.02 * np.sin(3 * WAY) + 1j * ry * (2 * WAY - 1), 210)  # the girdle

    def jelly(self, tentacles: int, reach: float, tall: float, gut: float, canals: int) -> None:
        height, rim = self.vary(0.64 * tall, 0.1), oval(0, 0.32 * self.rng.uniform(0.15, 0.6), 0.32)
        for root in self.rng.permutation(rim)[: max(2, round(self.vary(tentacles)))]:
            angle, curl, wave = self.rng.normal((np.pi - 1.2 * root.imag, 0, 0), (0.15, 0.5, 0.4))
            self.hair(arc(root, angle, self.vary(reach, 0.3), curl, wave), 95)
        up, out = np.sin(CIRCLE[:19]), np.cos(CIRCLE[:19])
        self.tissue(height * up**0.8 + 0.32j * out, 30, 170)
        self.tissue(rim, 45, 130)
        for k in np.linspace(-0.24, 0.24, canals):
            self.hair(height * 0.92 * up[:10] + 1j * k * out[:10], 70)
        self.tissue(arc(height * 0.8, np.pi, gut * height, self.rng.normal(0, 0.3)), 150, 120, 0.08 - 0.06 * WAY)

    def tailed(self, trunk: float, width: float, wave: float, fins: float) -> None:
        tail = arc(0.5 - trunk, np.pi, 1 - trunk, self.rng.normal(0, 0.3 + wave), wave)
        half = self.vary(width) * (0.6 + 0.6 * np.sin(np.pi * WAY**0.8))
        for where in (0.45, 0.72, 0.97) if fins else ():
            self.tissue(tail, 45, 70, half + fins * np.exp(-(((WAY - where) / 0.08) ** 2)))
        self.tissue(tail, 90, 140, half)
        self.hair(tail, 150)
        self.tissue(oval(0.5 - trunk / 2, trunk / 2, trunk * 0.32, 2, 0.1), 140, 170)
        self.tissue(oval(0.5 - trunk * 0.6, trunk * 0.22, trunk * 0.2), 230, 60)


def true_mix(site: str, month: int) -> dict[str, float]:
    """Give the expected share of each taxon at the site "bay" or "sound" in a month (1 to 12); they sum to 1."""
    share, peak, factor = np.array([(taxon["share"], taxon["peak"], taxon["sound"]) for taxon in TAXA.values()]).T
    share = share * np.exp(1.1 * np.cos(2 * np.pi * (month - peak) / 12)) * factor ** (site == "sound")
    return dict(zip(TAXA, (share / share.sum()).tolist(), strict=True))


def photograph(taxon: str, camera: str, water: Rng, rng: Rng, size: int) -> Image.Image:
    """Take one region of interest; `water` starts alike for all images of a sample, `rng` for none."""
    setting = list(NATURE["cameras"][camera].values()) * water.lognormal(0, (0.015, 0.2, 0.3, 0.2, 0.02, 0.1))
    level, gradient, noise, blur, zoom, contrast = setting.tolist()
    lit_from, snow = water.uniform(0, 2 * np.pi), water.lognormal(1.7, 0.7)
    known = TAXA[taxon]
    s = Sketch(rng, FINE * size * zoom * known["length"] * rng.lognormal(0, 0.25), known["bend"])
    getattr(s, known["group"])(**known["shape"])
    for canvas in (s.soft, s.fine) if rng.random() < 0.08 else ():  # its rear is bitten off
        ImageDraw.Draw(canvas).polygon(s.place(oval(-0.45, 0.2, 0.25, 4)), fill=0)
    box = ImageChops.lighter(s.soft, s.fine).getbbox() + FINE * rng.integers(2, 8, 4) * (-1, -1, 1, 1)
    if rng.random() < 0.1:  # a smaller organism, beside it and perhaps cut
        s.length, s.turn, s.shift = 0.6 * s.length, 3 * s.turn, np.exp(2j * s.turn)
        known = TAXA[rng.choice(list(TAXA))]
        getattr(s, known["group"])(**known["shape"])
    for _ in range(rng.poisson(snow)):
        (x, y), r = rng.uniform(0, s.side, 2), FINE * rng.lognormal(0, 0.5)
        ImageDraw.Draw(s.fine).ellipse((x - r, y - r, x + r, y + r), fill=int(rng.integers(40, 200)))
    scene = ImageChops.add(s.soft.reduce(FINE), s.fine.reduce(FINE))
    mottle = Image.fromarray(rng.integers(50, 255, (16, 16), dtype=np.uint8)).resize(scene.size)
    scene = ImageChops.multiply(scene, mottle)  # uneven tissue, interrupted outlines
    scene = scene.filter(ImageFilter.GaussianBlur(blur * rng.lognormal(0, 0.4))).crop((box // FINE).tolist())
    y, x = np.mgrid[: scene.height, : scene.width] / size - 0.5
    light = level + gradient * (x * np.cos(lit_from) + y * np.sin(lit_from) + rng.normal(0, 0.4))
    light *= np.exp(-np.asarray(scene, float) / 255 * contrast * rng.lognormal(0, 0.3))
    return Image.fromarray(np.clip(light + rng.normal(0, noise, light.shape), 0, 255).astype(np.uint8))


def catch(images: int, seed: int) -> list[list]:
    """List [taxon, site, camera, time, number of its sample] per image; taxa are drawn from `true_mix`."""
    rng, rows = np.random.default_rng([seed, 0]), []
    for where in STRATA.values():
        count, start = round(where["until"] * images) - len(rows), datetime(2021, where["first"], 1, 6)
        span = (datetime(2021, where["last"] + 1, 1) - start).days + 1
        days = rng.choice(span, min(span, 1 + count // 9), replace=False)
        for day, number in zip(*np.unique(rng.choice(days, count), return_counts=True), strict=True):
            time, sample = start + timedelta(days=int(day), minutes=int(rng.integers(720))), len(rows)
            mix = true_mix(where["site"], time.month)
            for k, taxon in enumerate(rng.choice(list(mix), number, p=list(mix.values())).tolist()):
                rows.append([taxon, where["site"], where["camera"], time + timedelta(seconds=7 * k), sample])
    home = rows[: round(STRATA["home"]["until"] * images)]
    rng.shuffle(home)
    for taxon in TAXA:  # a small set could not split its rarest taxa: the most common one lends some images
        for _ in range(max(4, images // 300) - sum(row[0] == taxon for row in rows)):
            common = Counter(row[0] for row in rows).most_common(1)[0][0]
            next(row for row in home if row[0] == common)[0] = taxon
    return rows


def write(folder: Path, images: int, seed: int, size: int = 64) -> None:
    """Write `images` grey PNG files, about `size` px long, as <taxon>/SYN-<site>-<camera>-<time>-<number>.png.

    Every byte follows from `seed`. Raises: StudyError for too few images to hold every taxon.
    """
    if images < 10 * len(TAXA):
        raise StudyError(f"Synthetic data: {images} images for {len(TAXA)} taxa are too few; ask for 240.")
    for number, (taxon, site, camera, time, sample) in enumerate(catch(images, seed)):
        water, rng = (np.random.default_rng([seed, *key]) for key in ((1, sample), (2, number)))
        file = folder / taxon / f"SYN-{site}-{camera}-{time:%Y%m%dT%H%M%S}-{number:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph(taxon, camera, water, rng, size).save(file)
