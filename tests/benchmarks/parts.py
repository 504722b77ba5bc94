"""Write finished networks that were not written before to a few tar files, for slices.sh.

The weights are written as float16, as those of a published denoiser: a GPU trains small networks
faster than some connections carry them. Tensors with numbers too large for float16 stay float32.
"""

import argparse
import io
import tarfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save

MIB = 1 << 20
#: stages of the cache that hold trained networks
STAGES = ("denoiser", "encoder")
#: tar's header of a file and its padding, at most
OVERHEAD = 1 << 10


def main() -> None:
    """Write the next networks, oldest first, and say how many are still to be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="the cache folder with the finished networks")
    parser.add_argument("results", type=Path, help="gets networks.0.tar and so on")
    parser.add_argument("parts", type=int, help="the largest number of files")
    parser.add_argument("mib", type=float, help="the largest size of a file")
    chosen = parser.parse_args()

    chosen.cache.mkdir(parents=True, exist_ok=True)  # nothing may be trained yet
    record = chosen.cache / "written.txt"
    written = record.read_text().split() if record.exists() else []
    waiting = [folder for folder in finished(chosen.cache) if name_of(folder) not in written]
    parts = fill_parts(waiting, chosen.parts, round(chosen.mib * MIB))

    chosen.results.mkdir(parents=True, exist_ok=True)
    for old in chosen.results.glob("networks.*.tar"):
        old.unlink()
    for number, folders in enumerate(parts):
        write_part(chosen.results / f"networks.{number}.tar", folders)
    now = [name_of(folder) for folders in parts for folder in folders]
    record.write_text("\n".join([*written, *now]))
    print(f"{len(now)} finished networks written, {len(waiting) - len(now)} still to be written")


def finished(cache: Path) -> list[Path]:
    """Return the folders of all finished networks in a cache, oldest first."""
    origins = [origin for stage in STAGES for origin in cache.glob(f"{stage}/*/origin.json")]
    folders = [origin.parent for origin in origins if not origin.parent.suffix]
    return sorted(folders, key=lambda folder: (folder.stat().st_mtime, folder))


def name_of(folder: Path) -> str:
    """Return `<stage>/<key>` of a network."""
    return f"{folder.parent.name}/{folder.name}"


def fill_parts(folders: list[Path], most: int, limit: int) -> list[list[Path]]:
    """Distribute networks over parts: each goes to the first part with enough room.

    Args:
        folders: the networks, the most urgent first.
        most: the largest number of parts.
        limit: the largest size of a part, bytes.

    Returns:
        The networks of each part. What finds no room is left out, but a network that is larger
        than the limit gets a part of its own.
    """
    parts: list[list[Path]] = []
    sizes: list[int] = []
    for folder in folders:
        size = halved_size(folder)
        with_room = [place for place, used in enumerate(sizes) if used + size <= limit]
        if with_room:
            parts[with_room[0]].append(folder)
            sizes[with_room[0]] += size
        elif len(parts) < most:
            parts.append([folder])
            sizes.append(size)
    return parts


def halved_size(folder: Path) -> int:
    """Return the size of a network with halved weights, bytes, slightly too large."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    sizes = [file.stat().st_size // (1 + is_weights(file)) for file in files]
    return sum(sizes) + len(files) * OVERHEAD


def is_weights(file: Path) -> bool:
    """Return whether a file holds the weights of a network."""
    return file.suffix == ".safetensors"


def write_part(path: Path, folders: list[Path]) -> None:
    """Write networks to a tar file, in which each has its name in the cache."""
    with tarfile.open(path, "w") as part:
        for folder in folders:
            for file in sorted(folder.rglob("*")):
                if not file.is_file():
                    continue
                content = halved(file) if is_weights(file) else file.read_bytes()
                entry = tarfile.TarInfo(f"{name_of(folder)}/{file.relative_to(folder)}")
                entry.size = len(content)
                part.addfile(entry, io.BytesIO(content))


def halved(file: Path) -> bytes:
    """Return the content of a file of weights with float16 for float32."""
    weights = {name: light(tensor) for name, tensor in load_file(file).items()}
    return save(weights, metadata={"format": "pt"})


def light(tensor: torch.Tensor) -> torch.Tensor:
    """Return a float32 tensor as float16, unless it holds numbers too large for that."""
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if torch.isfinite(half).all() else tensor


if __name__ == "__main__":
    main()
