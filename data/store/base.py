"""The contract of every store: tokens of documents, instruction examples, labelled examples."""

from typing import Literal

Split = Literal["train", "holdout"]
