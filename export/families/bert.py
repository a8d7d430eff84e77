"""BERT and RoBERTa as published: names, layouts, buffers, tied heads, old spellings."""

import re
from collections.abc import Collection

from gesso.export.families import bert_configs
from gesso.export.tables.format import Format, Tie
from gesso.export.tables.tables import Row
from gesso.models.bert.config import BERTConfig


def norm(ours: str, theirs: str) -> list[Row]:
    """A LayerNorm."""
    return [
        Row(f"{ours}/scale", f"{theirs}.weight", "D"),
        Row(f"{ours}/bias", f"{theirs}.bias", "D"),
    ]


def dense(ours: str, theirs: str, layout: str) -> list[Row]:
    """A product with a bias; layout: output letter, input letter."""
    return [
        Row(f"{ours}/weight", f"{theirs}.weight", layout),
        Row(f"{ours}/bias", f"{theirs}.bias", layout[0]),
    ]


def attention(ours: str, theirs: str) -> list[Row]:
    """Queries, keys, values and output, each with its bias."""
    named = (("q", "query"), ("k", "key"), ("v", "value"))
    return [
        *(Row(f"{ours}/{a}", f"{theirs}.self.{b}.weight", "(NH)D") for a, b in named),
        *(Row(f"{ours}/{a}_bias", f"{theirs}.self.{b}.bias", "(NH)") for a, b in named),
        Row(f"{ours}/out", f"{theirs}.output.dense.weight", "D(NH)"),
        Row(f"{ours}/out_bias", f"{theirs}.output.dense.bias", "D"),
    ]


def encoder(ours: str, theirs: str, config: BERTConfig) -> list[Row]:
    """Embeddings and blocks. ours, theirs: prefixes of the names ("", "bert.")."""
    layer, table = f"{theirs}encoder.layer.{{Z}}", f"{theirs}embeddings"
    types = Row(f"{ours}token_types", f"{table}.token_type_embeddings.weight", "TD")
    return [
        Row(f"{ours}embed", f"{table}.word_embeddings.weight", "VD"),
        Row(f"{ours}positions", f"{table}.position_embeddings.weight", "SD"),
        *([types] if config.token_types else []),
        *norm(f"{ours}embed_norm", f"{table}.LayerNorm"),
        *attention(f"{ours}blocks/attention", f"{layer}.attention"),
        *norm(f"{ours}blocks/attention_norm", f"{layer}.attention.output.LayerNorm"),
        Row(f"{ours}blocks/mlp/up", f"{layer}.intermediate.dense.weight", "FD"),
        Row(f"{ours}blocks/mlp/up_bias", f"{layer}.intermediate.dense.bias", "F"),
        Row(f"{ours}blocks/mlp/down", f"{layer}.output.dense.weight", "DF"),
        Row(f"{ours}blocks/mlp/down_bias", f"{layer}.output.dense.bias", "D"),
        *norm(f"{ours}blocks/mlp_norm", f"{layer}.output.LayerNorm"),
    ]


def masked_head(ours: str, theirs: str, config: BERTConfig, *, roberta: bool) -> list[Row]:
    """The head of masked tokens. theirs: "cls.predictions" or "lm_head"."""
    transform, its_norm = (
        ("dense", "layer_norm") if roberta else ("transform.dense", "transform.LayerNorm")
    )
    rows = [
        *dense(f"{ours}mlm/dense", f"{theirs}.{transform}", "FD"),
        *norm(f"{ours}mlm/norm", f"{theirs}.{its_norm}"),
        Row(f"{ours}mlm/bias", f"{theirs}.bias", "V"),
    ]
    if config.head == "untied":
        rows.append(Row(f"{ours}mlm/table", f"{theirs}.decoder.weight", "VD"))
    return rows


def table(config: BERTConfig, *, roberta: bool) -> list[Row]:
    """The rows of one model, its heads included."""
    base, head = ("roberta.", "lm_head") if roberta else ("bert.", "cls.predictions")
    rows = encoder("", base, config)
    outputs = set(config.outputs)
    if config.pools:
        # RoBERTa's classifier has a pooler of its own.
        own = roberta and "classify" in outputs
        rows += dense("pooler", "classifier.dense" if own else f"{base}pooler.dense", "FD")
    if "mlm" in outputs:
        rows += masked_head("", head, config, roberta=roberta)
    if "nsp" in outputs:
        rows += dense("nsp", "cls.seq_relationship", "YD")
    if "classify" in outputs:
        rows += dense("classifier", "classifier.out_proj" if roberta else "classifier", "YD")
    if "tag" in outputs:
        rows += dense("tagger", "classifier", "YD")
    if "span" in outputs:
        rows += dense("span", "qa_outputs", "YD")
    return rows


def ties(base: str, head: str, config: BERTConfig) -> list[Tie]:
    """The head's table and bias, which files may hold a second time."""
    if "mlm" not in config.outputs:
        return []
    words, again = f"{base}embeddings.word_embeddings.weight", f"{head}.decoder.weight"
    tied = [Tie(again, words, {"head": "untied"})] if config.head == "tied" else []
    # The product's own bias is the one that transformers adds, also where training has parted them.
    return [*tied, Tie(f"{head}.decoder.bias", f"{head}.bias", wins="other")]


def copies(head: str, config: BERTConfig) -> dict[str, str]:
    """The bias, again for a head of its own: transformers 5 draws it anew where it is missing."""
    untied = "mlm" in config.outputs and config.head == "untied"
    return {f"{head}.bias": f"{head}.decoder.bias"} if untied else {}


# Counters that older versions saved among the weights.
BUFFER = re.compile(r"embeddings\.(position_ids|token_type_ids)$")


def modern(name: str) -> str:
    """A name in today's spelling: TensorFlow's gamma and beta of a norm are weight and bias."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _canonical(base: str, name: str) -> str | None:
    if BUFFER.search(name):
        return None
    bare = name.startswith(("embeddings.", "encoder.", "pooler."))
    return modern(base + name if bare else name)


def _settle(config: BERTConfig, names: Collection[str], *, roberta: bool) -> BERTConfig:
    return bert_configs.settle(config, names, roberta=roberta)


def _format(model_type: str) -> Format:
    roberta = model_type != "bert"
    base, head = ("roberta.", "lm_head") if roberta else ("bert.", "cls.predictions")
    return Format(
        model_type=model_type,
        family="bert",
        expresses=bert_configs.expressible("roberta" if roberta else "bert"),
        read=bert_configs.read,
        write=lambda config: bert_configs.write(
            config, model_type="roberta" if roberta else "bert"
        ),
        table=lambda config: table(config, roberta=roberta),
        canonical=lambda name: _canonical(base, name),
        ties=lambda config: ties(base, head, config),
        copies=lambda config: copies(head, config),
        settle=lambda config, names: _settle(config, names, roberta=roberta),
        bare=lambda config: "" if set(config.outputs) - {"pooler"} else base,
    )


FORMATS = {name: _format(name) for name in ("bert", *bert_configs.ROBERTAS)}
