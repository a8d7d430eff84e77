"""BERT2BERT, BERT2GPT and RoBERTa's kin as transformers' EncoderDecoderModel writes them.

Each side has its family's names behind "encoder." and "decoder."; the decoder's layers carry the
cross-attention.
"""

import dataclasses
import re
from collections.abc import Collection
from typing import Literal

from gesso.export.families import bert, bert_configs, gpt, gpt_configs
from gesso.export.files.tensors import Record
from gesso.export.tables.expressible import Expressible
from gesso.export.tables.fields import Fields
from gesso.export.tables.format import Format, Tie
from gesso.export.tables.tables import Row
from gesso.models.bert.config import BERTConfig
from gesso.models.encoder_decoder.config import EncoderDecoderConfig
from gesso.models.gpt.config import GPTConfig


def read(f: Fields) -> EncoderDecoderConfig:
    """Their config, which holds one for each side, to ours."""
    f.only("is_encoder_decoder", True)
    f.only("tie_encoder_decoder", False)
    f.harmless("tie_word_embeddings", "vocab_size")
    start = f.index("decoder_start_token_id", 0)
    sides = {}
    for role in ("encoder", "decoder"):
        inner = Fields(f.value(role, {}) or {}, source=f"{f.source}: {role}")
        kind = inner.record.get("model_type")
        if kind in ("bert", *bert_configs.ROBERTAS):
            outputs = () if role == "encoder" else ("mlm",)
            sides[role] = bert_configs.read(inner, role=role, outputs=outputs)
        elif kind == "gpt2" and role == "decoder":
            sides[role] = gpt_configs.read_gpt2(inner, cross=True)
        else:
            known = "bert, roberta" + (", gpt2" if role == "decoder" else "")
            f.problem(f"{role}: model_type {kind!r} is not supported (of {known})")
            continue
        inner.close()
    if len(sides) < 2:
        return EncoderDecoderConfig()
    return EncoderDecoderConfig(**sides, start=start)


def _side(config: BERTConfig | GPTConfig) -> Expressible:
    if isinstance(config, BERTConfig):
        return bert_configs.expressible(_kind(config))
    return dataclasses.replace(
        gpt_configs.GPT2, rules={**gpt_configs.GPT2.rules, "outputs": _no_labels}
    )


def _no_labels(config: GPTConfig) -> str:
    return "the decoder of two has no labels" if config.outputs else ""


EXPRESSES = Expressible(
    format="encoder-decoder",
    family="encoder_decoder",
    fields=("start",),
    sides={"encoder": _side, "decoder": _side},
)


def write(config: EncoderDecoderConfig) -> Record:
    """Our config to theirs."""
    encoder = bert_configs.write(config.encoder, model_type=_kind(config.encoder))
    if isinstance(config.decoder, BERTConfig):
        kind = _kind(config.decoder)
        decoder = bert_configs.write(config.decoder, model_type=kind, role="decoder")
        decoder["architectures"] = [f"{'Bert' if kind == 'bert' else 'Roberta'}LMHeadModel"]
    else:
        decoder = gpt_configs.write_gpt2(config.decoder)
        decoder |= {"is_decoder": True, "add_cross_attention": True}
    return {
        "model_type": "encoder-decoder",
        "architectures": ["EncoderDecoderModel"],
        "is_encoder_decoder": True,
        "decoder_start_token_id": config.start,
        "encoder": encoder,
        "decoder": decoder,
    }


def table(config: EncoderDecoderConfig) -> list[Row]:
    """The rows of both sides, the cross-attention and the projection between them."""
    rows = bert.encoder("encoder/", "encoder.", config.encoder)
    if config.encoder.pools:
        rows += bert.dense("encoder/pooler", "encoder.pooler.dense", "FD")
    decoder = config.decoder
    if isinstance(decoder, BERTConfig):
        roberta, base, head = _names(decoder)
        cross = f"{base}encoder.layer.{{Z}}.crossattention"
        rows += bert.encoder("decoder/", base, decoder)
        rows += bert.masked_head("decoder/", head, decoder, roberta=roberta)
        rows += bert.attention("source/attention", cross)
        rows += bert.norm("source/norm", f"{cross}.output.LayerNorm")
    else:
        rows += [
            dataclasses.replace(row, ours=f"decoder/{row.ours}", theirs=f"decoder.{row.theirs}")
            for row in gpt.table("gpt2", decoder)
        ]
        rows += _gpt2_cross("decoder.transformer.h.{Z}")
    if config.encoder.embed != decoder.embed:
        rows += [
            Row("projection/weight", "enc_to_dec_proj.weight", "DE"),
            Row("projection/bias", "enc_to_dec_proj.bias", "D"),
        ]
    return rows


def _gpt2_cross(layer: str) -> list[Row]:
    ours, theirs = "source/attention", f"{layer}.crossattention"
    return [
        Row(f"{ours}/q", f"{theirs}.q_attn.weight", "D(NH)"),
        Row(f"{ours}/q_bias", f"{theirs}.q_attn.bias", "(NH)"),
        Row(f"{ours}/{{k,v}}", f"{theirs}.c_attn.weight", "D(*NH)"),
        Row(f"{ours}/{{k,v}}_bias", f"{theirs}.c_attn.bias", "(*NH)"),
        Row(f"{ours}/out", f"{theirs}.c_proj.weight", "(NH)D"),
        Row(f"{ours}/out_bias", f"{theirs}.c_proj.bias", "D"),
        Row("source/norm/scale", f"{layer}.ln_cross_attn.weight", "D"),
        Row("source/norm/bias", f"{layer}.ln_cross_attn.bias", "D"),
    ]


def _kind(config: BERTConfig) -> Literal["bert", "roberta"]:
    return "roberta" if config.first_position else "bert"


def _names(config: BERTConfig) -> tuple[bool, str, str]:
    """(whether it is RoBERTa, the decoder's prefix, its head's)."""
    if _kind(config) == "roberta":
        return True, "decoder.roberta.", "decoder.lm_head"
    return False, "decoder.bert.", "decoder.cls.predictions"


_BUFFER = re.compile(r"\.(cross)?att(entio)?n\.(masked_)?bias$")


def _canonical(name: str) -> str | None:
    return None if bert.BUFFER.search(name) or _BUFFER.search(name) else bert.modern(name)


def _ties(config: EncoderDecoderConfig) -> list[Tie]:
    decoder = config.decoder
    untied = {"decoder": dataclasses.replace(decoder, head="untied")}
    if not isinstance(decoder, BERTConfig):
        words = "decoder.transformer.wte.weight"
        return [Tie("decoder.lm_head.weight", words, untied)] if decoder.head == "tied" else []
    _, base, head = _names(decoder)
    found = bert.ties(base, head, decoder)
    return [dataclasses.replace(tie, differs=untied if tie.differs else {}) for tie in found]


def _copies(config: EncoderDecoderConfig) -> dict[str, str]:
    decoder = config.decoder
    return bert.copies(_names(decoder)[2], decoder) if isinstance(decoder, BERTConfig) else {}


def _settle(config: EncoderDecoderConfig, names: Collection[str]) -> EncoderDecoderConfig:
    """The encoder's pooler is there or not; nothing reads it."""
    if "encoder.pooler.dense.weight" not in names:
        return config
    encoder = dataclasses.replace(config.encoder, outputs=("pooler",))
    return dataclasses.replace(config, encoder=encoder)


FORMATS = {
    "encoder-decoder": Format(
        model_type="encoder-decoder",
        family="encoder_decoder",
        expresses=EXPRESSES,
        read=read,
        write=write,
        table=table,
        canonical=_canonical,
        ties=_ties,
        copies=_copies,
        settle=_settle,
    )
}
