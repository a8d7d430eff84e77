"""A published config.json read field by field: honoured, known to change no number, or refused.

Nothing is passed over in silence: what no family's reader has asked for is refused by name.
"""

from collections.abc import Collection, Mapping
from typing import Any

from gesso.export.files.tensors import FolderError, Record

# What transformers writes into every config.json and no forward pass depends on.
_NAMES = """
    model_type architectures transformers_version torch_dtype dtype _name_or_path _commit_hash
    use_cache return_dict use_return_dict torchscript output_attentions output_hidden_states
    output_scores return_dict_in_generate use_bfloat16 gradient_checkpointing tokenizer_class
    finetuning_task problem_type id2label label2id num_labels tf_legacy_loss
    chunk_size_feed_forward cross_attention_hidden_size _attn_implementation
    _attn_implementation_autoset
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id prefix
    forced_bos_token_id forced_eos_token_id task_specific_params
    output_past eos_token_ids _num_labels
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout
    """
_HARMLESS = frozenset(_NAMES.split())
_REQUIRED: Any = object()


class Fields:
    """The fields of one config. What is wrong is collected; `close` raises it all together."""

    def __init__(
        self,
        record: Record,
        *,
        source: str = "config.json",
        of: str = "this model",
        harmless: Collection[str] = _HARMLESS,
    ) -> None:
        """of: what the config is of, where it names no model_type. harmless: fields that change no
        number; those of transformers' configs by default."""
        self.record, self.source, self._of = record, source, of
        self._left = set(record).difference(harmless)
        self._problems: list[str] = []

    def integer(self, name: str, default: Any = _REQUIRED) -> int:
        """A positive whole number."""
        value = self._take(name, default)
        if type(value) is not int or value < 1:
            return self._wrong(name, value, "must be a whole number of at least 1", 1)
        return value

    def index(self, name: str, default: Any = _REQUIRED) -> int:
        """A whole number from 0 on: a token's id."""
        value = self._take(name, default)
        if type(value) is not int or value < 0:
            return self._wrong(name, value, "must be a token's id", 0)
        return value

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """A number that is not negative."""
        value = self._take(name, default)
        if type(value) not in (int, float) or not value >= 0:
            return self._wrong(name, value, "must be a number of at least 0", 0.0)
        return float(value)

    def choice(self, name: str, known: Mapping[Any, Any], default: Any = _REQUIRED) -> Any:
        """What a value of theirs is called here. A value that is not known is refused."""
        value = self._take(name, default)
        if isinstance(value, (list, dict)) or value not in known:
            said = " or ".join(repr(each) for each in known)
            return self._wrong(name, value, f"is not supported (it must be {said})", None)
        return known[value]

    def switch(self, name: str, default: Any = _REQUIRED) -> bool:
        """True or false."""
        return bool(self.choice(name, {True: True, False: False}, default))

    def only(self, name: str, *allowed: Any) -> None:
        """A field that may be absent, and otherwise must be one of these: no model here differs."""
        self._left.discard(name)
        if name in self.record and self.record[name] not in allowed:
            said = " or ".join(repr(each) for each in allowed)
            self._wrong(name, self.record[name], f"is not supported (it must be {said})", None)

    def value(self, name: str, default: Any = _REQUIRED) -> Any:
        """Whatever it is; the caller looks at it."""
        return self._take(name, default)

    def harmless(self, *names: str) -> None:
        """Fields of this family that change no number."""
        self._left.difference_update(names)

    def problem(self, message: str) -> None:
        """Something else that is wrong."""
        self._problems.append(message)

    def close(self) -> None:
        """Raise FolderError listing every invalid field and every field that was not read."""
        unknown = [
            f"{name}: {str(self.record[name])[:60]!r} is a field that is not known for"
            f" {self.record.get('model_type', self._of)}, so what it changes would be lost;"
            " remove it where it changes nothing"
            for name in sorted(self._left)
        ]
        if found := [*dict.fromkeys(self._problems), *unknown]:
            listed = "".join(f"\n  - {each}" for each in found)
            raise FolderError(f"{self.source} cannot be honoured:{listed}")

    def _take(self, name: str, default: Any) -> Any:
        self._left.discard(name)
        if name in self.record:
            return self.record[name]
        if default is _REQUIRED:
            self._problems.append(f"{name} is missing")
            return None
        return default

    def _wrong(self, name: str, value: Any, told: str, instead: Any) -> Any:
        if value is not None or name in self.record:
            self._problems.append(f"{name}: {value!r} {told}")
        return instead
