"""The held-out examples of a store of instructions as exercises: a prompt, and what was to be
written."""

from collections.abc import Sequence

import numpy as np

from gesso.data.instructions.store import InstructionStore
from gesso.data.store.base import Store
from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.questions.files import Exercise


def heldout_exercises(
    store: Store, *, components: Sequence[str] | None = None, limit: int = 0
) -> tuple[list[Exercise], list[str]]:
    """The held-out examples in their first rendering, and the cluster of each; at most `limit`,
    evenly spread, 0: all. Of a conversation its first answer.

    Prompts are token ids, uncut; answers are decoded, without the white space around them. Raises
    ValueError for a store of something else, an unknown cluster, and fewer than 2 examples.
    """
    if not isinstance(store, InstructionStore):
        raise ValueError(
            f"{store.folder} holds no instruction examples; name a store that gesso instructions"
            ' build made, or a file of {"prompt": ..., "answer": ...}, one a line'
        )
    if unknown := sorted(set(components or ()) - set(store.components)):
        raise ValueError(f"the store has no component {unknown}; it has {store.components}")
    pieces, clusters, tasks = [], [], store.tasks
    for task, cluster in enumerate(tasks.components):
        if components is None or cluster in components:
            examples = tasks.train[task] + np.arange(tasks.holdout[task])
            pieces += (tasks.first[task] + examples * store.renderings).tolist()
            clusters += [cluster] * len(examples)
    if len(pieces) < 2:
        raise ValueError(
            f"{len(pieces)} examples are held out in {store.folder}; build it with a larger holdout"
        )
    count = min(limit or len(pieces), len(pieces))
    chosen = [i * len(pieces) // count for i in range(count)]
    tokenizer = store.tokenizer()
    made = [_exercise(store, tokenizer, pieces[i]) for i in chosen]
    return made, [clusters[i] for i in chosen]


def _exercise(store: InstructionStore, tokenizer: Tokenizer, piece: int) -> Exercise:
    size, head = store.lengths[piece], int(store.heads[piece])
    tokens, predicted = store.read(store.ends[[piece]] - size, np.array([size]))
    rest = predicted[head:] == 0
    end = head + int(np.argmax(rest)) if rest.any() else len(tokens)
    answer = tokens[head:end]
    text = tokenizer.decode(answer[answer != tokenizer.eos])
    return Exercise(prompt=tuple(tokens[:head].tolist()), answers=(text.strip(),))
