"""Counted random numbers: the published stream, uniform, without order."""

import numpy as np

from gesso.data.order.counter_hash import below, draw, fraction


def test_the_published_stream():
    """The first outputs of SplitMix64 seeded with 0, as published with the algorithm."""
    want = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(x) for x in draw(np.uint64(0), np.arange(3))] == want


def test_keys_broadcast_and_order_does_not_matter():
    keys = draw(np.uint64(7), np.arange(5))
    table = draw(keys[:, None], np.arange(9))
    assert table.shape == (5, 9) and table.dtype == np.uint64
    assert len(np.unique(table)) == table.size
    for row in (0, 4):
        assert np.array_equal(draw(keys[row], np.arange(8, -1, -1)), table[row, ::-1])


def test_uniform():
    drawn = draw(np.uint64(3), np.arange(200_000))
    # A mean of n uniform numbers has the standard deviation 0.2887 / sqrt(n) = 6.5e-4.
    assert abs(fraction(drawn).mean() - 0.5) < 4 * 6.5e-4
    assert fraction(drawn).max() < 1
    counts = np.bincount(below(drawn, 7), minlength=7)
    assert len(counts) == 7 and abs(counts / len(drawn) - 1 / 7).max() < 4 * 7.9e-4
    assert below(drawn[:3], np.array([1, 1, 1])).tolist() == [0, 0, 0]
