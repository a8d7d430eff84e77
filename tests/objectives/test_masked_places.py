"""Which places are predicted: the right share, whole units, never a special token, always the same
for a row's number."""

import numpy as np
import pytest
from masked_rows import CLS, FIRST, MASK, SEP, VOCAB, make_rows, tokenizer, unmasked

from gesso.objectives import MaskedLM, MaskedLMConfig
from gesso.objectives.masking import _unit_starts

UNITS = ["token", "word", "span"]


def continued(share=0.45):
    """Tokens that go on with a word, by a hash of the token: words of about two tokens."""
    ids = np.arange(VOCAB, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    found = (ids >> np.uint64(40)) % np.uint64(1000) < 1000 * share
    found[:FIRST] = False
    return found


CONTINUES = continued()


def masked(*, rows=180, length=512, mean=300.0, first_row=0, **settings):
    config = MaskedLMConfig(**settings)
    objective = MaskedLM(config, tokenizer=tokenizer(continues=CONTINUES))
    made = make_rows(
        rows=rows,
        length=length,
        overhead=objective.overhead,
        companions=objective.companions,
        mean=mean,
        first_row=first_row,
    )
    return objective, made, objective.host_batch(made)


def candidates(batch):
    tokens = unmasked(batch)
    return (tokens >= FIRST) & (batch["segments"] > 0)


@pytest.mark.parametrize("rate", [0.15, 0.4])
@pytest.mark.parametrize("unit", UNITS)
def test_the_rate(unit, rate):
    _, _, batch = masked(unit=unit, mask_rate=rate)
    there, taken = candidates(batch).sum(1), batch["mlm_weight"].sum(1)
    # A row differs from its budget by less than a unit, words here having up to a few tokens.
    assert (abs(taken - rate * there) < (1 if unit == "token" else 17)).all()
    # Of the whole the share is exact but for the luck of each row's last unit.
    spread = np.std(taken - rate * there) * np.sqrt(len(there))
    assert abs((taken - rate * there).sum()) < 4 * spread + 1
    assert taken.sum() / there.sum() == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("unit", UNITS)
def test_shares_of_what_is_read_instead(unit):
    _, _, batch = masked(unit=unit)
    row, column = np.nonzero(batch["mlm_weight"])
    read = batch["tokens"][row, batch["masked_places"][row, column]]
    targets = batch["targets"][row, column]
    n = len(read)
    shares = {"mask": (read == MASK).mean(), "same": (read == targets).mean()}
    shares["other"] = 1 - sum(shares.values())
    # Spans are replaced as a whole: fewer independent draws, here about four tokens each (of
    # unequal sizes).
    effective = n / 12 if unit == "span" else n
    for name, share in (("mask", 0.8), ("same", 0.1), ("other", 0.1)):
        assert abs(shares[name] - share) < 4 * np.sqrt(share * (1 - share) / effective), name
    other = read[(read != MASK) & (read != targets)]
    assert other.min() >= FIRST  # never a special token
    assert len(np.unique(other)) > 0.99 * len(other)
    assert abs(np.mean(other) / VOCAB - 0.5) < 4 * 0.29 / np.sqrt(
        len(other) / (4 if unit == "span" else 1)
    )


@pytest.mark.parametrize("pairs", ["none", "nsp"])
@pytest.mark.parametrize("unit", UNITS)
def test_places(unit, pairs):
    objective, _, batch = masked(unit=unit, pairs=pairs, mean=60.0, length=128, rows=60)
    weight, places = batch["mlm_weight"] > 0, batch["masked_places"]
    assert places.shape[1] == objective.masking.places(128) == (24 if unit == "token" else 40)
    assert not places[~weight].any() and not batch["targets"][~weight].any()
    assert (batch["targets"][weight] >= FIRST).all()
    for row in range(len(places)):
        mine = places[row][weight[row]]
        assert (np.diff(mine) > 0).all() and (batch["segments"][row][mine] > 0).all()
        assert weight[row].argmin() == weight[row].sum()  # used columns come first
    tokens = unmasked(batch)
    elsewhere = np.ones_like(tokens, bool)
    row, column = np.nonzero(weight)
    elsewhere[row, places[row, column]] = False
    assert np.array_equal(tokens[elsewhere], batch["tokens"][elsewhere])
    # [CLS], [SEP] and padding stay what they are.
    assert not np.isin(tokens[~elsewhere], [0, CLS, SEP]).any()


def words_of(tokens, there):
    """A number for every word of a row; a word ends where one begins or the text stops."""
    begins = there & (~CONTINUES[tokens] | ~np.pad(there, (1, 0))[:-1])
    return np.where(there, np.cumsum(begins), 0)


@pytest.mark.parametrize("unit", ["word", "span"])
def test_words_are_whole(unit):
    _, _, batch = masked(unit=unit)
    tokens, there = unmasked(batch), candidates(batch)
    partly = cut = 0
    for row in range(len(tokens)):
        words = words_of(tokens[row], there[row])
        predicted = np.zeros(len(words), bool)
        predicted[batch["masked_places"][row][batch["mlm_weight"][row] > 0]] = True
        touched = np.unique(words[predicted])
        inside = np.isin(words, touched)
        assert np.array_equal(inside & there[row], predicted)
        partly += len(touched)
        cut += (np.bincount(words)[touched] > 1).sum()
    assert partly > 1000 and cut > 300  # the test saw words of several tokens


def test_where_units_begin():
    """A word also begins where the text before it stops, though its token continues one."""
    tokens = np.array([[CLS, 6, 7, 8, SEP, 7, 8, 6, SEP, 0]])
    continues = np.zeros(VOCAB, bool)
    continues[[7, 8]] = True
    objective = MaskedLM(MaskedLMConfig(unit="word"), tokenizer=tokenizer(continues=continues))
    there = tokens >= FIRST
    starts = _unit_starts(tokens, there, np.zeros((1, 1), np.uint64), objective.masking)
    assert starts[there].tolist() == [1, 1, 1, 5, 5, 7]


def test_span_lengths():
    """Runs of predicted words are geometric, of mean 3.8 and at most 10 words, where each token is
    a word. Neighbouring spans make longer runs, so few are drawn."""
    config = MaskedLMConfig(unit="span", mask_rate=0.04)
    objective = MaskedLM(config, tokenizer=tokenizer())
    made = make_rows(rows=60, length=2048, overhead=2, mean=1500.0)
    batches = [objective.host_batch(made | {"row": made["row"] + 60 * k}) for k in range(6)]
    lengths, mixed = [], 0
    for batch in batches:
        kept = unmasked(batch) == batch["tokens"]
        for row in range(60):
            places = batch["masked_places"][row][batch["mlm_weight"][row] > 0]
            runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
            lengths += [len(run) for run in runs]
            whole = [batch["tokens"][row][run] == MASK for run in runs]
            mixed += sum(len(set(each.tolist())) > 1 for each in whole)
            mixed += sum(len(set(kept[row][run].tolist())) > 1 for run in runs)
    lengths = np.array(lengths)
    assert mixed < 0.05 * len(lengths)  # a span is masked, replaced or kept as a whole
    whole = lengths[lengths <= 10]
    assert len(whole) > 0.93 * len(lengths)
    chance = 0.8 ** np.arange(10)
    chance /= chance.sum()
    # Runs made of two spans are up to 7 % of all, so each share is right to about that.
    shares = np.bincount(whole, minlength=11)[1:] / len(whole)
    assert abs(shares - chance).max() < 0.025
    assert np.mean(lengths) == pytest.approx(3.8, rel=0.1)


@pytest.mark.parametrize("unit", UNITS)
def test_a_row_is_a_function_of_its_number(unit):
    objective, made, whole = masked(unit=unit, pairs="nsp", rows=30, length=128, mean=60.0)
    for size in (1, 7, 16):
        parts = [
            objective.host_batch({name: leaf[i : i + size] for name, leaf in made.items()})
            for i in range(0, 30, size)
        ]
        for name, leaf in whole.items():
            assert np.array_equal(leaf, np.concatenate([part[name] for part in parts])), name
    backwards = objective.host_batch({name: leaf[::-1] for name, leaf in made.items()})
    assert all(np.array_equal(leaf, backwards[name][::-1]) for name, leaf in whole.items())
    # Another number (the same text in another epoch) and another seed mask other places.
    epoch = objective.host_batch(made | {"row": made["row"] + 10_000})
    _, _, seed = masked(unit=unit, pairs="nsp", rows=30, length=128, mean=60.0, seed=1)
    for other in (epoch, seed):
        same = (whole["masked_places"] == other["masked_places"]).all(1)
        assert same.mean() < 0.1
        assert not np.array_equal(whole["pair_labels"], other["pair_labels"])


def test_every_place_is_equally_likely():
    objective, made, batch = masked(rows=40, length=64, mean=200.0)
    hits = np.zeros((40, 64))
    n = 200
    for k in range(n):
        batch = objective.host_batch(made | {"row": made["row"] + 40 * k})
        row, column = np.nonzero(batch["mlm_weight"])
        np.add.at(hits, (row, batch["masked_places"][row, column]), 1)
    there = candidates(batch)
    rates = hits[there] / n
    # A rate of 0.15 seen n times; the largest of 2,400 deviations lies within 5 of its own.
    assert abs(rates - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / n)
    assert not hits[~there].any()


def test_a_word_that_needs_more_than_m_places_is_left_out():
    """Words of 30 tokens: the budget of 15 of 100 tokens is crossed by the first, and M is 32."""
    continues = np.zeros(VOCAB, bool)
    continues[FIRST:] = np.arange(VOCAB - FIRST) % 30 > 0
    objective = MaskedLM(MaskedLMConfig(unit="word"), tokenizer=tokenizer(continues=continues))
    size = objective.masking.places(100)
    assert size == 32

    def drawn(words, tokens_each):
        text = np.concatenate([FIRST + 30 * k + np.arange(tokens_each) for k in range(words)])
        rows = {
            "tokens": np.pad(text, (0, 100 - len(text)))[None].repeat(400, 0),
            "segments": np.pad(np.ones(len(text), int), (0, 100 - len(text)))[None].repeat(400, 0),
            "positions": np.pad(np.arange(len(text)), (0, 100 - len(text)))[None].repeat(400, 0),
            "component": np.zeros(400, np.int32),
            "row": np.arange(400),
        }
        return objective.host_batch(rows)["mlm_weight"].sum(1)

    fits = drawn(3, 30)  # one word of 30 fits in 32 places: none or one, 13.5 on average
    assert set(fits) == {0, 30}
    assert abs(fits.mean() - 0.15 * 90) < 4 * 15 / np.sqrt(400)
    fits = drawn(4, 20)  # a second word of 20 would need 40 places: at most one
    assert set(fits) == {0, 20}
    too_long = MaskedLM(
        MaskedLMConfig(unit="word", mask_rate=0.05), tokenizer=tokenizer(continues=continues)
    )
    assert too_long.masking.places(100) == 24
    objective = too_long
    assert set(drawn(3, 30)) == {0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_rate": 0.0}, "mask_rate must be in"),
        ({"mask_rate": 1.0}, "mask_rate must be in"),
        ({"span_end": 0.0}, "span_end must be in"),
        ({"span_longest": 0}, "span_longest must be at least 1"),
        ({"pair_tokens": 0}, "pair_tokens must be at least 1"),
        ({"chunk_tokens": -1}, "chunk_tokens must be at least 0"),
        ({"mask_share": 0.95}, "shares of one whole"),
        ({"random_share": -0.1}, "shares of one whole"),
    ],
)
def test_fields_that_cannot_be(fields, message):
    (problem,) = MaskedLMConfig(**fields).problems()
    assert message in problem
