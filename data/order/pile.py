"""The Pile's 22 components: raw size and epochs, as in Table 1 of the paper (arXiv:2101.00027).

Names are those of `meta.pile_set_name` in the released shards. The released train shards may
already hold a component as often as its epochs say; do not apply the epochs twice. Check with
`gesso corpus inspect`: the share of duplicates tells. Later versions of the corpus have fewer
components, so a store's own list decides, never this table.
"""

from typing import NamedTuple


class Component(NamedTuple):
    """gibibytes: raw size in GiB. epochs: how often it is seen in one epoch of the whole."""

    gibibytes: float
    epochs: float


PILE = {
    "Pile-CC": Component(227.12, 1.0),
    "PubMed Central": Component(90.27, 2.0),
    "Books3": Component(100.96, 1.5),
    "OpenWebText2": Component(62.77, 2.0),
    "ArXiv": Component(56.21, 2.0),
    "Github": Component(95.16, 1.0),
    "FreeLaw": Component(51.15, 1.5),
    "StackExchange": Component(32.20, 2.0),
    "USPTO Backgrounds": Component(22.90, 2.0),
    "PubMed Abstracts": Component(19.26, 2.0),
    "Gutenberg (PG-19)": Component(10.88, 2.5),
    "OpenSubtitles": Component(12.98, 1.5),
    "Wikipedia (en)": Component(6.38, 3.0),
    "DM Mathematics": Component(7.75, 2.0),
    "Ubuntu IRC": Component(5.52, 2.0),
    "BookCorpus2": Component(6.30, 1.5),
    "EuroParl": Component(4.59, 2.0),
    "HackerNews": Component(3.90, 2.0),
    "YoutubeSubtitles": Component(3.73, 2.0),
    "PhilPapers": Component(2.38, 2.0),
    "NIH ExPorter": Component(1.89, 2.0),
    "Enron Emails": Component(0.88, 2.0),
}
