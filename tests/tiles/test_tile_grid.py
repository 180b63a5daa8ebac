"""Grouping tiles for reading: laws on pure numbers."""

from hypothesis import given
from hypothesis import strategies as st

from tiles.cutting import tile_grid


@given(
    size=st.sampled_from([8, 16, 32]),
    block=st.tuples(st.sampled_from([4, 8, 16, 64]), st.sampled_from([4, 8, 16, 64])),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_a_source_block_that_fits_tiles_belongs_to_one_read(size, block, shape):
    """Blocks and tiles divide each other, and a block fits into one read: none is decoded twice."""
    height, width = (count * max(side, size) for count, side in zip(shape, block, strict=True))
    groups = tile_grid.row_groups(height, size, block[0])
    reads = list(tile_grid.chunks(groups, width, size, block[1], 3))
    for top in range(0, height, block[0]):
        for left in range(0, width, block[1]):
            touching = [
                read
                for read in reads
                if read.window.row_off < top + block[0]
                and top < read.window.row_off + read.window.height
                and read.window.col_off < left + block[1]
                and left < read.window.col_off + read.window.width
            ]
            assert len(touching) == 1


@given(
    size=st.integers(8, 40),
    shape=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    block=st.tuples(st.integers(1, 99), st.integers(1, 99)),
)
def test_reads_hold_every_tile_once_and_nothing_beyond_need(size, shape, block):
    reads = list(tile_grid.chunks(tile_grid.row_groups(shape[0], size, block[0]), shape[1], size, block[1], 3))
    tiles = [(t.row_off, t.col_off) for read in reads for t in read.tiles]
    assert sorted(tiles) == [(w.row_off, w.col_off) for w in tile_grid.windows(*shape, size)]
    for read in reads:
        rows, columns = [t.row_off for t in read.tiles], [t.col_off for t in read.tiles]
        assert (read.window.row_off, read.window.col_off) == (min(rows), min(columns))
        assert read.window.height == max(rows) + size - min(rows)
        assert read.window.width == max(columns) + size - min(columns)
