"""Reading tiles: random access over copies out of a bare memory map, and opening an index of a million rows.

Run as ``python benchmarks/cut_access.py [--tiles 4000] [--rows 1000000]``.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
from cut import interleaved

from tiles.archive.dataset import TileDataset
from tiles.archive.index import About, read_table, table_of, write_about, write_tables
from tiles.archive.shard import ShardWriter, open_shard, pack

SIZE = 256


def write_tiles(folder: Path, count: int) -> None:
    """A tile set of random tiles in shards of a thousand."""
    generator = np.random.default_rng(0)
    bits = pack(np.ones((SIZE, SIZE), bool))
    shards = {}
    for number, first in enumerate(range(0, count, 1000)):
        with ShardWriter(folder, number, 3, SIZE, np.dtype(np.uint8)) as writer:
            for _ in range(min(1000, count - first)):
                writer.append(generator.integers(0, 256, (1, 3, SIZE, SIZE), np.uint8), bits[None])
            shards[number] = writer.records
    write_index(folder, count, shards)


def write_index(folder: Path, count: int, shards: dict[int, int]) -> None:
    """An index as a cut writes it, with statistics and footprints."""
    number = np.repeat(list(shards), list(shards.values()))
    row = np.concatenate([np.arange(tiles) for tiles in shards.values()])
    generator = np.random.default_rng(1)
    triple = [[0.3, 0.4, 0.5]] * count
    rows = {
        "tile_id": [f"scene-{i // 400:06d}_{i % 400}" for i in range(count)],
        "shard": number.tolist(),
        "row": row.tolist(),
        "geometry": [bytes(93)] * count,
        "crs": [f"EPSG:326{i // 400 % 60 + 1:02d}" for i in range(count)],
        "transform": [[10.0, 0.0, float(i), 0.0, -10.0, 0.0] for i in range(count)],
        "gsd_m": [10.0] * count,
        "valid_fraction": generator.random(count).tolist(),
        "mean": triple,
        "std": triple,
        "scale": [[1 / 255] * 3] * count,
        "offset": [[0.0] * 3] * count,
        "source": [f"/archive/scene-{i // 400:06d}.tif" for i in range(count)],
        "sensor": [("sentinel-2-l2a", "naip")[i // 400 % 2] for i in range(count)],
        "bands": ["red,green,blue"] * count,
        "datetime": [f"2020-{i // 400 % 12 + 1:02d}-01" for i in range(count)],
        "cell": [f"{i // 40 % 700}U_{i // 40 % 900}R" for i in range(count)],
        "checksum": [0] * count,
    }
    write_tables([table_of(rows)], folder / "index.parquet")
    write_about(About(SIZE, ("red", "green", "blue"), count, 1, (0.3,) * 3, (0.2,) * 3, shards), folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="geodino-bench-"))
    try:
        write_tiles(folder, options.tiles)
        tiles = TileDataset(folder)
        order = np.random.default_rng(2).permutation(options.tiles)
        maps = {number: open_shard(folder, number) for number in tiles.about.shards}
        target = np.empty((3, SIZE, SIZE), np.uint8)
        target_bits = np.empty((SIZE, SIZE // 8), np.uint8)

        def bare() -> None:
            for i in order:
                values, bits = maps[int(i) // 1000]
                np.copyto(target, values[int(i) % 1000])
                np.copyto(target_bits, bits[int(i) % 1000])

        def ours() -> None:
            for i in order:
                values, bits = tiles.raw(int(i))
                np.copyto(target, values)
                np.copyto(target_bits, bits)

        bare()
        seconds = interleaved({"bare": bare, "ours": ours}, options.rounds)
        print(f"random tile access / bare memory-map copies {seconds['bare'] / seconds['ours']:.2f} (aim ≥ 0.8)")

        shutil.rmtree(folder)
        folder.mkdir()
        write_index(folder, options.rows, {i: 1000 for i in range(options.rows // 1000)})

        def opening() -> None:
            TileDataset(folder)

        def filtering() -> None:
            table = read_table(folder, ["sensor", "valid_fraction"])
            chosen = pa.compute.and_(
                pa.compute.equal(table.column("sensor").cast(pa.string()), "naip"),
                pa.compute.greater(table.column("valid_fraction"), 0.9),
            )
            assert pa.compute.sum(chosen).as_py()

        def whole() -> None:
            read_table(folder)

        seconds = interleaved({"opening": opening, "filtering": filtering, "whole": whole}, options.rounds)
        print(
            f"index of {options.rows} rows: opening / reading it whole {seconds['opening'] / seconds['whole']:.3f}, "
            f"filtering on two columns / reading it whole {seconds['filtering'] / seconds['whole']:.3f} "
            f"(medians {seconds['opening']:.3f} s and {seconds['filtering']:.3f} s; aims 1 s and 0.2 s)"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
