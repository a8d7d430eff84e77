"""Chat turns: whose token each is, for templates as published models have them."""

import numpy as np
import pytest

from gesso.data.tokenizers.load import load_tokenizer, train_bpe
from gesso.finetune.instructions.chat import ChatTemplate, plain_template, read_template
from gesso.finetune.instructions.fields import FieldError

# The shapes of published templates: roles as tokens; instructions in brackets with an end token
# after answers; a system text that is folded into the first turn.
ROLES = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant speak here') }}{% endif %}{% endfor %}"
)
FOLDED = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}{% if loop.first and system %}({{ system }}) {% endif %}"
    "{{ m.role }}: {{ m.content }};{% if m.role == 'assistant' %}{% continue %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %} "
    "{{ m.content.split('</think>')[-1] if not loop.last else m.content }}\n"
    "{% endgeneration %}{% else %}Q: {{ m.content }}\n{% endif %}{% endfor %}"
)
STRIPS = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
CHAT = [
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "It is 5."},
    {"role": "user", "content": "Und auf Deutsch, \u00e4h?"},
    {"role": "assistant", "content": "F\u00fcnf \U0001f642"},
]
SYSTEM = {"role": "system", "content": "Be brief."}


def predicted(template, messages):
    return [span.text for span in template.spans(messages) if span.predicted]


@pytest.mark.parametrize(
    ("source", "messages", "want"),
    [
        (ROLES, [SYSTEM, *CHAT], ["It is 5.<|im_end|>\n", "F\u00fcnf \U0001f642<|im_end|>\n"]),
        (BRACKETS, CHAT, [" It is 5.</s>", " F\u00fcnf \U0001f642</s>"]),
        (FOLDED, [SYSTEM, *CHAT], ["It is 5.;", "F\u00fcnf \U0001f642;"]),
        (MARKED, CHAT, [" It is 5.\n", " F\u00fcnf \U0001f642\n"]),
    ],
)
def test_the_assistants_texts_are_found_exactly(source, messages, want):
    template = ChatTemplate(source, bos="<s>", eos="</s>")
    assert predicted(template, messages) == want
    assert "".join(span.text for span in template.spans(messages)) == template.render(messages)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    # Merges across the borders of turns, were they not tokenized apart.
    texts = iter(["It is 5.<|im_end|>\n<|im_start|>user\nWhat is 2 + 3? assistant: It;\n" * 50])
    return train_bpe(texts, vocab_size=286, folder=tmp_path_factory.mktemp("bpe"))


@pytest.mark.parametrize("source", [ROLES, BRACKETS, FOLDED, MARKED])
def test_the_mask_agrees_with_the_offsets_of_the_tokens(source, bpe):
    for tokenizer in (bpe, load_tokenizer("bytes")):
        template = ChatTemplate(source, bos="<s>", eos="</s>")
        ids, mask = template.encode(CHAT, tokenizer)
        whole = template.render(CHAT).encode()
        assert tokenizer.decode(ids).encode() == whole
        # Byte by byte: the tokens that are predicted cover the assistant's bytes and no others.
        covered = np.repeat(mask, tokenizer.byte_lengths[ids])
        said = np.concatenate(
            [np.full(len(s.text.encode()), s.predicted) for s in template.spans(CHAT)]
        )
        assert covered.tolist() == said.tolist()
        assert 0 < mask.mean() < 1


def test_what_was_said_before_never_depends_on_what_follows(bpe):
    template = ChatTemplate(ROLES)
    ids, mask = template.encode(CHAT, bpe)
    first = int(np.argmax(mask))
    assert template.ids(template.prompt(CHAT[:1]), bpe).tolist() == ids[:first].tolist()


def test_special_texts_are_their_ids(bpe):
    special = {"<|im_start|>": 1, "<|im_end|>": 2}  # ids that this text has no use for
    template = ChatTemplate(ROLES, special=special)
    ids, mask = template.encode(CHAT, bpe)
    assert (ids == 1).sum() == (ids == 2).sum() == 4
    assert not mask[ids == 1].any()
    assert mask[ids == 2].tolist() == [0, 1, 0, 1]
    with pytest.raises(FieldError, match="spells the special token"):
        template.spans([{"role": "user", "content": "now <|im_end|>"}, *CHAT[1:]])


def test_our_own_template_ends_answers_with_the_end_of_document():
    tokenizer = load_tokenizer("bytes")
    ids, mask = plain_template(tokenizer).encode(CHAT, tokenizer)
    assert (ids == tokenizer.eos).sum() == 2 and ids[-1] == tokenizer.eos
    assert mask[ids == tokenizer.eos].all()


def test_a_template_that_rewrites_the_past_is_refused():
    thinking = [*CHAT[:1], {"role": "assistant", "content": "<think>hm</think>5"}, *CHAT[2:]]
    with pytest.raises(FieldError, match="turn 1 differently when more follows"):
        ChatTemplate(STRIPS).spans(thinking)
    assert predicted(ChatTemplate(MARKED), thinking)[0] == " 5\n"


def test_refusals_are_of_the_conversation():
    with pytest.raises(FieldError, match="only user and assistant") as error:
        ChatTemplate(BRACKETS).spans([SYSTEM, *CHAT])
    assert error.value.reason == "bad_chat"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% set _ = messages.append(messages[0]) %}",
    ],
)
def test_a_template_stays_in_its_sandbox(source):
    with pytest.raises(FieldError, match="refuses"):
        ChatTemplate(source).render(CHAT)


def test_templates_of_files(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert read_template(tmp_path / "tokenizer_config.json") == "{{ messages }}"
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(ValueError, match="no chat_template"):
        read_template(tmp_path / "none.json")
    with pytest.raises(ValueError, match="cannot be parsed"):
        ChatTemplate("{% for %}")
