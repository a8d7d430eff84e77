"""The table of The Pile's components against the totals of its paper."""

import pytest

from gesso.data.order.pile import PILE
from gesso.data.store.parts import slug


def test_the_table_adds_up_to_the_paper():
    assert len(PILE) == len({slug(name) for name in PILE}) == 22
    assert sum(c.gibibytes for c in PILE.values()) == pytest.approx(825.18)
    # The paper prints 1254.20: its rows are rounded.
    effective = sum(c.gibibytes * c.epochs for c in PILE.values())
    assert effective == pytest.approx(1254.20, abs=0.01)
    # Shares of training that the paper prints beside them.
    for name, share in {"Pile-CC": 18.11, "PubMed Central": 14.40, "Enron Emails": 0.14}.items():
        mine = PILE[name].gibibytes * PILE[name].epochs / effective * 100
        assert mine == pytest.approx(share, abs=0.01)
