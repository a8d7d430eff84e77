"""ELMo's options.json to ELMoConfig and back, as bilm-tf and AllenNLP spell it.

https://github.com/allenai/bilm-tf (bilm/training.py writes it, bilm/model.py reads it) and
https://github.com/allenai/allennlp (modules/elmo.py).
"""

from typing import Any

from gesso.export.files.tensors import Record
from gesso.export.tables.expressible import Expressible
from gesso.export.tables.fields import Fields
from gesso.models.elmo.config import ELMoConfig

# Of the training, not of the model.
_TRAINING = (
    *("all_clip_norm_val", "n_epochs", "n_train_tokens", "batch_size", "unroll_steps"),
    *("n_negative_samples_batch", "sample_softmax", "learning_rate", "milestones"),
)


def read(f: Fields) -> ELMoConfig:
    """The options to our config; whether there is a softmax, the tensors say."""
    f.only("bidirectional", True)
    f.harmless(*_TRAINING)
    lstm = _inside(f, "lstm")
    by_characters = "char_cnn" in f.record
    shape: dict[str, Any] = {"reads": "characters" if by_characters else "words"}
    if by_characters:
        shape |= _characters(_inside(f, "char_cnn"), f)
    tied = f.switch("share_embedding_softmax", False)
    if tied and by_characters:
        f.problem("share_embedding_softmax: characters have no table of words to share")
    config = ELMoConfig(
        **shape,
        vocab=f.integer("n_tokens_vocab", 1),
        embed=lstm.integer("projection_dim"),
        cell=lstm.integer("dim"),
        layers=lstm.integer("n_layers", 1),
        cell_clip=_clip(lstm, "cell_clip"),
        projection_clip=_clip(lstm, "proj_clip"),
        residuals="layers" if lstm.switch("use_skip_connections", False) else "none",
        head="tied" if tied else "shared",
        dropout=f.number("dropout", 0.0),
    )
    lstm.close()
    return config


_CHARACTERS = ("characters", "character_embed", "filters", "activation", "highways")


def neutral(config: ELMoConfig) -> frozenset[str]:
    """The fields that change no output of this config."""
    return frozenset(
        ("dropout", "chunk_words", "unroll", *(_CHARACTERS if config.reads == "words" else ()))
    )


EXPRESSES = Expressible(
    format="options.json",
    family="elmo",
    fields=(
        *("vocab", "reads", *_CHARACTERS, "embed", "layers", "cell"),
        *("cell_clip", "projection_clip", "residuals"),
    ),
    only={"head": ["shared", "tied", "none"]},
    neutral=neutral,
)


def write(config: ELMoConfig) -> Record:
    """Our config as options."""
    options: Record = {
        "bidirectional": True,
        "dropout": config.dropout,
        "lstm": {
            "cell_clip": config.cell_clip or None,
            "dim": config.cell,
            "n_layers": config.layers,
            "proj_clip": config.projection_clip or None,
            "projection_dim": config.embed,
            "use_skip_connections": config.residuals == "layers",
        },
        "n_tokens_vocab": config.vocab,
    }
    if config.reads == "characters":
        options["char_cnn"] = {
            "activation": config.activation,
            "embedding": {"dim": config.character_embed},
            "filters": [list(each) for each in config.filters],
            "max_characters_per_token": config.characters,
            "n_characters": 262,  # 261 rows are in the file; readers put one for padding before
            "n_highway": config.highways,
        }
    elif config.head == "tied":
        options["share_embedding_softmax"] = True
    return options


def _characters(cnn: Fields, f: Fields) -> Record:
    embedding = _inside(cnn, "embedding")
    filters = cnn.value("filters", [])
    whole = isinstance(filters, list) and all(
        isinstance(each, list) and [type(n) for n in each] == [int, int] for each in filters
    )
    if not whole:
        f.problem(f"char_cnn: filters: {filters!r} must be pairs of a width and a count")
    cnn.only("n_characters", 261, 262)
    made = {
        "characters": cnn.integer("max_characters_per_token"),
        "character_embed": embedding.integer("dim"),
        "filters": tuple((width, count) for width, count in filters) if whole else (),
        "activation": cnn.choice("activation", {"relu": "relu", "tanh": "tanh"}),
        "highways": cnn.index("n_highway", 0),
    }
    embedding.close()
    cnn.close()
    return made


def _inside(f: Fields, name: str) -> Fields:
    """The fields of an object among the fields."""
    value = f.value(name)
    return Fields(value if isinstance(value, dict) else {}, source=f"{f.source}: {name}")


def _clip(lstm: Fields, name: str) -> float:
    """Their null, or nothing at all, is our 0: never clipped."""
    return 0.0 if lstm.value(name, None) is None else lstm.number(name)
