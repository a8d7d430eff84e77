"""The keyed permutation: a bijection, and the same one for ever."""

import numpy as np
import pytest

from gesso.data.order.permutation import make_key, permute

SIZES = [1, 2, 3, 4, 5, 7, 16, 17, 1000, 65_536, 100_003]


@pytest.mark.parametrize("n", SIZES)
def test_is_a_bijection(n):
    out = permute(np.arange(n), n, key=make_key("row", 0))
    assert np.array_equal(np.sort(out), np.arange(n))


def test_an_index_goes_where_it_goes_in_a_batch():
    key = make_key("row", 3, "Code")
    whole = permute(np.arange(1000), 1000, key=key)
    alone = [permute(np.array([i]), 1000, key=key)[0] for i in range(0, 1000, 37)]
    assert whole[::37].tolist() == alone


def test_keys_differ_by_every_part():
    keys = [make_key(*parts) for parts in [("a", 1), ("a", 2), ("a1",), ("a", 1, 0), (1, "a")]]
    orders = {tuple(permute(np.arange(50), 50, key=key)) for key in keys}
    assert len(orders) == len(keys)


def test_looks_random():
    n = 100_003
    out = permute(np.arange(n), n, key=make_key("row", 0)).astype(float)
    neighbours = np.corrcoef(out[:-1], out[1:])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(n)  # five standard deviations of independent draws
    assert abs(np.corrcoef(np.arange(n), out)[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("index", [-1, 10, 11])
def test_an_index_outside_is_refused(index):
    with pytest.raises(ValueError, match="outside the permutation"):
        permute(np.array([0, index]), 10, key=make_key(0))


def test_golden():
    message = (
        "the permutation has changed: every training order changes with it. Only accept new numbers"
        " together with a new VERSION in data/order/order.py"
    )
    assert make_key("row", 0, "Code", 1, 2)[0] == GOLDEN_KEY, message
    for n, expected in GOLDEN.items():
        out = permute(np.arange(8) % n, n, key=make_key("golden", n))
        assert out.tolist() == expected, message


GOLDEN_KEY = 1260039488341067975
GOLDEN = {
    7: [1, 3, 4, 0, 5, 6, 2, 1],
    65_536: [47675, 27018, 13588, 22628, 51782, 53989, 6218, 49874],
    1 << 40: [
        *(713632973447, 1085339914131, 181517188419, 164821201343),
        *(30806689021, 630265728540, 31197797553, 209715854403),
    ],
}
