"""config.json of BERT and RoBERTa, field by field."""

import pytest

from gesso.export import FolderError
from gesso.export.families.bert_configs import read as read_fields
from gesso.export.tables.fields import Fields
from gesso.models import BERTConfig


def read(record):
    fields = Fields(record)
    config = read_fields(fields)
    fields.close()
    return config


PUBLISHED = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.2,
    "hidden_size": 48,
    "initializer_range": 0.03,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 50,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "type_vocab_size": 1,
    "vocab_size": 60,
    "position_embedding_type": "absolute",
    "use_cache": True,
    "pad_token_id": 1,
}


def test_a_published_config_is_read_field_by_field():
    shared = {
        "vocab": 60,
        "positions": 50,
        "token_types": 1,
        "layers": 3,
        "embed": 48,
        "heads": 4,
        "mlp": 96,
        "epsilon": 1e-5,
        "embedding_dropout": 0.2,
        "attention_dropout": 0.1,
        "residual_dropout": 0.2,
        "init_std": 0.03,
    }
    assert read(PUBLISHED) == BERTConfig(**shared)
    roberta = {**PUBLISHED, "model_type": "roberta", "hidden_act": "gelu_new"}
    roberta |= {
        "architectures": ["RobertaForTokenClassification"],
        "id2label": dict.fromkeys("abc"),
    }
    assert read(roberta) == BERTConfig(
        **shared,
        first_position=2,
        init="normal",
        outputs=("tag",),
        labels=3,
        head_dropout=0.2,
        activation="gelu_tanh",
    )
    first = {k: v for k, v in PUBLISHED.items() if k not in ("architectures", "model_type")}
    assert read(first).outputs == ("mlm", "nsp")
    regression = {"architectures": ["BertForSequenceClassification"], "num_labels": 1}
    made = read({**PUBLISHED, **regression, "classifier_dropout": 0.0})
    assert (made.outputs, made.labels, made.head_dropout) == (("classify",), 1, 0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: 'relative_key' is"),
        ({"hidden_act": "swish"}, "hidden_act: 'swish' is not supported .*'gelu'"),
        ({"is_decoder": True}, "is_decoder: True is not supported"),
        ({"architectures": ["BertForMultipleChoice"]}, "architectures: .* is none of"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder: True is not supported"),
        ({"embedding_size": 128}, "embedding_size: '128' is a field that is not known"),
        ({"hidden_act": "x", "pruned_heads": {"0": [1]}}, "(?s)pruned_heads.*hidden_act: 'x'"),
    ],
)
def test_what_a_published_config_says_and_no_model_does_is_refused(fields, message):
    with pytest.raises(FolderError, match=message):
        read({**PUBLISHED, **fields})


def test_a_published_config_without_a_field_it_needs_is_refused():
    with pytest.raises(FolderError, match="vocab_size is missing"):
        read({k: v for k, v in PUBLISHED.items() if k != "vocab_size"})
