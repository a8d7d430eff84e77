"""What the chain's test runs in another Python: the same texts in transformers, or in peft.

python chain_side.py BASE ADAPTER|"" PROMPTS.json TOKENS OUT.npz
"""
# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path

import numpy as np


def main(base, adapter, prompts, tokens, out):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    if adapter:
        import peft

        model = peft.PeftModel.from_pretrained(model, adapter)
    model.eval()
    found = {}
    for number, prompt in enumerate(json.loads(Path(prompts).read_text())):
        asked = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            found[f"logits/{number}"] = model(**asked).logits[0].numpy()
            written = model.generate(**asked, max_new_tokens=int(tokens), do_sample=False)
        found[f"tokens/{number}"] = asked["input_ids"][0].numpy()
        new = written[0, asked["input_ids"].shape[1] :]
        found[f"text/{number}"] = tokenizer.decode(new, skip_special_tokens=True)
    np.savez(out, **found)


main(*sys.argv[1:])
