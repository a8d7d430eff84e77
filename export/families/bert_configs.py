"""config.json of BERT and RoBERTa to BERTConfig and back.

What a model puts out is in its tensors as much as in `architectures`: bert-base-uncased says
BertForMaskedLM and holds the next-sentence head too. So `read` takes what the name promises, and
`settle` adds what is there.
"""

import dataclasses
from collections.abc import Collection
from typing import Literal

from gesso.export.files.tensors import Record
from gesso.export.tables.expressible import Expressible
from gesso.export.tables.fields import Fields
from gesso.models.bert.config import BERTConfig, Output

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
SPELLED = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
# The end of an architecture's name -> what it promises.
PROMISED: dict[str, tuple[Output, ...]] = {
    "Model": (),  # with or without its pooler
    "ForPreTraining": ("mlm", "nsp"),
    "ForMaskedLM": ("mlm",),
    "LMHeadModel": ("mlm",),
    "ForCausalLM": ("mlm",),
    "ForNextSentencePrediction": ("nsp",),
    "ForSequenceClassification": ("classify",),
    "ForTokenClassification": ("tag",),
    "ForQuestionAnswering": ("span",),
}
ROBERTAS = ("roberta", "xlm-roberta", "camembert")
_PREFIXES = ("XLMRoberta", "Roberta", "Camembert", "Bert")
Role = Literal["encoder", "decoder"]


def read(
    f: Fields, *, role: Role = "encoder", outputs: tuple[Output, ...] | None = None
) -> BERTConfig:
    """Their config to ours. outputs: None takes what `architectures` promises, and without any, as
    in the first release, what BERT is pretrained with."""
    roberta = f.record.get("model_type") in ROBERTAS
    outputs = _promise(f) if outputs is None else outputs
    dropout = f.number("hidden_dropout_prob", 0.1)
    labelled = bool({"classify", "tag"} & set(outputs))
    f.only("position_embedding_type", "absolute")
    f.only("directionality", "bidi")
    f.only("pooler_type", "first_token_transform")
    f.only("is_decoder", role == "decoder")
    f.only("add_cross_attention", role == "decoder")
    f.only("is_encoder_decoder", False)
    f.only("tie_encoder_decoder", False)
    f.only("pruned_heads", {}, None)
    f.harmless(
        *("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
        *("pooler_size_per_head", "cls_token_id"),
    )
    head_dropout = f.value("classifier_dropout", None)
    if head_dropout is not None:
        head_dropout = f.number("classifier_dropout")
    names = f.record.get("id2label")
    labels = f.record.get("num_labels", len(names) if names else 2)
    tied = f.switch("tie_word_embeddings", True)
    return BERTConfig(
        vocab=f.integer("vocab_size"),
        positions=f.integer("max_position_embeddings"),
        # RoBERTa counts positions from its padding's id on.
        first_position=f.index("pad_token_id", 1) + 1 if roberta else 0,
        token_types=f.integer("type_vocab_size", 2),
        layers=f.integer("num_hidden_layers"),
        embed=f.integer("hidden_size"),
        heads=f.integer("num_attention_heads"),
        mlp=f.integer("intermediate_size"),
        outputs=outputs,
        labels=labels if labelled else 0,
        head="tied" if tied or "mlm" not in outputs else "untied",
        activation=f.choice("hidden_act", ACTIVATIONS, "gelu"),
        epsilon=f.number("layer_norm_eps", 1e-12),
        embedding_dropout=dropout,
        attention_dropout=f.number("attention_probs_dropout_prob", 0.1),
        residual_dropout=dropout,
        head_dropout=(dropout if head_dropout is None else head_dropout) if labelled else 0.0,
        init_std=f.number("initializer_range", 0.02),
        init="normal" if roberta else "truncated",
    )


def settle(config: BERTConfig, names: Collection[str], *, roberta: bool) -> BERTConfig:
    """The config with the outputs whose tensors are there, as the table spells them."""
    head, base = ("lm_head", "roberta") if roberta else ("cls.predictions", "bert")
    found = list(config.outputs)
    here = {
        "mlm": any(name.startswith(f"{head}.") for name in names),
        "nsp": "cls.seq_relationship.weight" in names,
        "span": "qa_outputs.weight" in names,
    }
    found += [output for output, there in here.items() if there and output not in found]
    if f"{base}.pooler.dense.weight" in names and not {"nsp", "classify", "pooler"} & set(found):
        found.append("pooler")
    return dataclasses.replace(config, outputs=tuple(found))


# Fields of the model's computation, start and training, which no output depends on.
_NEUTRAL = frozenset(
    (
        *("remat", "unroll", "attention", "init", "init_std"),
        *("embedding_dropout", "attention_dropout", "residual_dropout", "head_dropout"),
    )
)


def neutral(config: BERTConfig) -> frozenset[str]:
    """The fields that change no output of this config."""
    return _NEUTRAL


def expressible(model_type: Literal["bert", "roberta"]) -> Expressible:
    """The settings that one of the two expresses."""
    roberta = model_type == "roberta"

    def first_position(config: BERTConfig) -> str:
        if roberta and config.first_position < 1:
            return "positions begin behind the padding id: first_position >= 1"
        return "only 0" if config.first_position and not roberta else ""

    def outputs(config: BERTConfig) -> str:
        return "" if _end(config, roberta=roberta) is not None else "no architecture has all of it"

    return Expressible(
        format=model_type,
        family="bert",
        fields=(
            *("vocab", "positions", "layers", "embed", "heads", "mlp"),
            *("labels", "head", "activation", "epsilon"),
        ),
        only={"activation": list(SPELLED)},
        rules={
            "first_position": first_position,
            "token_types": lambda config: (
                "" if config.token_types else f"{model_type} has a table of token types"
            ),
            "outputs": outputs,
        },
        neutral=neutral,
    )


def write(config: BERTConfig, *, model_type: str, role: Role = "encoder") -> Record:
    """Our config to theirs."""
    roberta = model_type == "roberta"
    end = _end(config, roberta=roberta) or "Model"
    record: Record = {
        "model_type": model_type,
        "architectures": [("Roberta" if roberta else "Bert") + end],
        "vocab_size": config.vocab,
        "max_position_embeddings": config.positions,
        "position_embedding_type": "absolute",  # CTranslate2 asks for it
        "type_vocab_size": config.token_types,
        "num_hidden_layers": config.layers,
        "hidden_size": config.embed,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp,
        "hidden_act": SPELLED[config.activation],
        "layer_norm_eps": config.epsilon,
        "hidden_dropout_prob": config.residual_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "classifier_dropout": config.head_dropout if config.labels else None,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.head == "tied",
        "is_decoder": role == "decoder",
        "add_cross_attention": role == "decoder",
        "use_cache": True,
    }
    if roberta:
        record["pad_token_id"] = config.first_position - 1
    if config.labels:
        record["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.labels)}
        record["label2id"] = {f"LABEL_{i}": i for i in range(config.labels)}
    return record


def _promise(f: Fields) -> tuple[Output, ...]:
    asked = f.record.get("architectures") or ["BertForPreTraining"]
    for prefix in _PREFIXES:
        if str(asked[0]).startswith(prefix) and asked[0][len(prefix) :] in PROMISED:
            return PROMISED[asked[0][len(prefix) :]]
    f.problem(f"architectures: {asked!r} is none of {', '.join(f'*{end}' for end in PROMISED)}")
    return ()


def _end(config: BERTConfig, *, roberta: bool) -> str | None:
    """The end of the architecture's name that has these outputs; None where none has."""
    ends: dict[frozenset[Output], str] = {
        frozenset(): "Model",
        frozenset({"mlm"}): "ForMaskedLM",
        frozenset({"classify"}): "ForSequenceClassification",
        frozenset({"tag"}): "ForTokenClassification",
        frozenset({"span"}): "ForQuestionAnswering",
    }
    if not roberta:
        ends |= {
            frozenset({"mlm", "nsp"}): "ForPreTraining",
            frozenset({"nsp"}): "ForNextSentencePrediction",
        }
    return ends.get(frozenset(config.outputs) - {"pooler"})
