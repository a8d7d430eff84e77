"""A thing is found by two words, layer and trade: a module's name means the same in every room."""

from collections import defaultdict

from source_tree import MODULES

# name that several rooms have -> what it is in each of them
MEANING = {
    "adapter": "one LoRA, prompt or prefix over a base: its command, its start",
    "adapters": "small trained additions to a model",
    "base": "the contract that the other modules of the room fulfil",
    "bert": "BERT and RoBERTa",
    "build": "raw input to a store",
    "config": "settings of the room, read without JAX",
    "contextuality": "how much a word's vector depends on its sentence",
    "coordinates": "muP's coordinate check",
    "corpus": "a corpus of texts: the embedded one, the command",
    "count": "parameters and FLOPs of a family",
    "documents": "texts of a corpus, one after another",
    "elmo": "ELMo",
    "encoder_decoder": "two models of which one reads and one writes",
    "evaluations": "evaluations of a run: recorded, shown",
    "examples": "labelled or instruction examples",
    "facts": "what is known of a model, or of a run, without looking inside",
    "fields": "fields of a record that somebody else wrote, checked",
    "files": "the files that a room reads or writes",
    "finetune": "training that starts from another model",
    "gpt": "the decoders: GPT-1 to GPT-NeoX, OPT, Llama",
    "harness": "lm-evaluation-harness",
    "heldout": "text that is never trained on",
    "homes": "where each member of a list is defined: the one place to enter it in",
    "instructions": "instruction tuning",
    "kinds": "the kinds of a thing, by name",
    "labelled": "examples with labels: classes, tags, spans, numbers",
    "layers": "parts that models are made of",
    "llama": "Llama and Mistral",
    "metrics": "numbers of a run or an evaluation, by name",
    "mixed": "several objectives on one corpus",
    "model": "our model for another program, or for the rest of the house",
    "open": "a store or a run, opened by its folder",
    "opt": "OPT",
    "order": "which row comes when",
    "plan": "what a run would need, before it is run",
    "plots": "pictures of a page",
    "reading": "files of others to our parameters",
    "report": "an HTML page",
    "rows": "rows that a model reads, made from stored texts",
    "run": "one run: its page, what an evaluation needs of it",
    "samples": "texts that a run writes as it learns",
    "sentencepiece": "sentencepiece's models",
    "seq2seq": "source to target, T5 and the Transformer",
    "shapes": "the shapes that are known: of tensors, of published task files",
    "shards": "files of a corpus",
    "sources": "where text, or parameters, come from",
    "start": "what a run begins with",
    "store": "a store of examples, read",
    "sweep": "many runs of one experiment",
    "tasks": "tasks with labels",
    "tokenizer": "a tokenizer for another program; its command",
    "words": "words of a text",
    "writer": "a store of examples, written",
    "writing": "text, or a folder, is written",
}


def test_a_name_of_several_rooms_has_one_meaning() -> None:
    rooms = defaultdict(list)
    for module, path in MODULES.items():
        if path.name != "__init__.py":
            rooms[path.stem].append(module)
    shared = {name: found for name, found in rooms.items() if len(found) > 1}
    new = {name: found for name, found in shared.items() if name not in MEANING}
    assert not new, f"a plainer name, or one meaning for all, said here: {new}"
    assert not MEANING.keys() - shared.keys(), "these names are of one room now"
