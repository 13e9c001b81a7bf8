"""What a large set of pictures costs: taken in, captioned, versioned, and with one picture more.

    nice python -m benchmarks.large_sets [--pictures 2000] [--side 600] [--negatives]
    nice python -m benchmarks.large_sets --hashes 100000

Draws JPEGs with a caption each into a workspace in a temporary folder, and prints seconds on the
clock, seconds of the processor and the highest memory of one process of

- Pillow, decoding each of them once,
- the stages ``style_set`` and ``captions``, as ``nsync run`` (with ``--negatives`` also
  ``negative_set``, of two steps a picture by the embedded base),
- ``dvc add``, ``status``, ``push`` and ``pull`` of the style set as it is, and of the same
  pictures as single files,
- opening each picture of both in any order,
- all of these once one picture is added, and how many files changed.

Each is a process of its own, its start included. With ``--hashes``, what the search for
near-duplicates takes among so many.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

import numpy as np
from PIL import Image

from nsync_pipeline.files import file_sha256
from nsync_pipeline.pictures.layout import picture_file
from nsync_pipeline.pictures.manifest import STYLE_SET, read_manifest
from nsync_pipeline.pictures.near_duplicates import LOOK_SIDE, Look, LookIndex
from nsync_pipeline.workspace import MANIFEST_FILE, Workspace

STYLE = "hills"
PARAMS = """\
base_model: {device: cpu}
styles: {hills: {source: folder}}
variants: {lora: {update_rule: orthogonal}}
negative_set: {sampler: {steps: 2}}
"""
DECODE = """
import sys
from pathlib import Path
from PIL import Image
for file in Path(sys.argv[1]).glob("*.jpg"):
    with Image.open(file) as image:
        image.convert("RGB")
"""
READ = """
import random, sys
from pathlib import Path
from nsync_pipeline.pictures.pixels import open_picture
files = Path(sys.argv[1]).read_text().split()
random.Random(0).shuffle(files)
for file in files:
    open_picture(Path(file))
"""


def bring_in(folder: Path, numbers: range, side: int) -> None:
    """Drawn pictures that look different, and what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        picture = coarse.resize((side, side), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:06d}.jpg", quality=90)
        (folder / f"{number:06d}.txt").write_text(f"a hill with {number} trees")


def told(what: str, command: Sequence[str]) -> None:
    """Run Python in the workspace, which must succeed, and print what it cost."""
    began, root = time.monotonic(), str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=said, stderr=said
        )
        _, status, used = os.wait4(process.pid, 0)
        if status:
            said.seek(0)
            raise SystemExit(f"{what}: {said.read().decode()}")
    clock, processor = time.monotonic() - began, used.ru_utime + used.ru_stime
    print(
        f"{what:44} {clock:8.1f} s {processor:8.1f} s {used.ru_maxrss / 1024:8.0f} MiB", flush=True
    )


def stages(what: str, negatives: bool) -> None:
    for stage in ("style_set", "captions", "negative_set")[: 2 + negatives]:
        told(f"{stage}{what}", ("-m", "nsync_pipeline.cli", "run", stage, "--style", STYLE))


def versioned(what: str, folder: str, anew: bool) -> None:
    dvc = ("-m", "dvc")
    told(f"dvc add {what}", (*dvc, "add", "-q", folder))
    told(f"dvc status {what}", (*dvc, "status", "-q"))
    told(f"dvc push {what}", (*dvc, "push", "-q", f"{folder}.dvc"))
    if anew:
        shutil.rmtree(folder)
        shutil.rmtree(".dvc/cache")
        told(f"dvc pull {what}", (*dvc, "pull", "-q", f"{folder}.dvc"))


def searched(count: int) -> None:
    """So many random looks of one shape, each searched for among those before it."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (count, 2, 4), dtype=np.uint64)
    pixels = np.zeros((LOOK_SIDE, LOOK_SIDE, 3), np.uint8)
    index, began = LookIndex(), time.process_time()
    for own, mirrored in hashes:
        look = Look(1.0, own, mirrored, pixels)
        index.same(look)
        index.add(look)
    print(f"{count:,} looks searched: {time.process_time() - began:.1f} s of the processor")


def single_files(pictures: Sequence[Path], folder: Path) -> None:
    folder.mkdir()
    for path in pictures:
        found = picture_file(path)
        content = found.read_bytes() if isinstance(found, Path) else found.getvalue()
        (folder / path.name).write_bytes(content)


def digests(folder: Path) -> dict[Path, str]:
    return {path: file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--side", type=int, default=600, help="pixels")
    parser.add_argument("--negatives", action="store_true")
    parser.add_argument("--hashes", type=int, help="only search among so many")
    given = parser.parse_args()
    if given.hashes:
        searched(given.hashes)
        return
    with tempfile.TemporaryDirectory(prefix="large-sets-") as root, chdir(root):
        workspace = Workspace(Path(root))
        workspace.params_file.write_text(PARAMS)
        source = workspace.source(STYLE)
        bring_in(source, range(given.pictures), given.side)
        print(f"{given.pictures:,} JPEGs of {given.side} pixels; clock, processor, most memory")
        told("decoded by Pillow", ("-c", DECODE, str(source)))
        stages("", given.negatives)

        told("dvc init", ("-m", "dvc", "init", "-q", "--no-scm"))
        told("dvc remote", ("-m", "dvc", "remote", "add", "-q", "-d", "store", f"{root}/remote"))
        versioned("the set", f"data/{STYLE}/style_set", anew=True)
        before = digests(workspace.root / "data")
        rows = read_manifest(workspace.style_set(STYLE) / MANIFEST_FILE, STYLE_SET)
        stored = [workspace.style_set(STYLE) / row["file"] for row in rows]
        single_files(stored, Path("single"))
        for what, files in (
            ("the set", stored),
            ("single files", [Path("single", file.name) for file in stored]),
        ):
            Path("list").write_text("\n".join(map(str, files)))
            told(f"opened in any order: {what}", ("-c", READ, "list"))
        versioned("as single files", "single", anew=True)

        bring_in(source, range(given.pictures, given.pictures + 1), given.side)
        stages(", one picture more", given.negatives)
        after = digests(workspace.root / "data")
        for name in ("style_set", "captions", "negative_set"):
            those = {
                p: d for p, d in after.items() if p.is_relative_to(f"{root}/data/{STYLE}/{name}")
            }
            changed = sum(before.get(path) != digest for path, digest in those.items())
            print(f"{name}: {changed} of {len(those)} files changed")
        versioned("the set, one picture more", f"data/{STYLE}/style_set", anew=False)
        shutil.copy(source / f"{given.pictures:06d}.jpg", "single")
        versioned("as single files, one more", "single", anew=False)


if __name__ == "__main__":
    main()
