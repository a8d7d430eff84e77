"""What the parity tests run in another Python, the one that has torch and peft.

python peft_side.py load|make BASE ADAPTER IN.npz OUT.npz [SETTINGS.json]
"""
# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path

import numpy as np


def base_model(folder):
    import transformers as t

    kind = json.loads((Path(folder) / "config.json").read_text())["model_type"]
    of = {"t5": t.AutoModelForSeq2SeqLM, "bert": t.AutoModelForMaskedLM}
    return of.get(kind, t.AutoModelForCausalLM).from_pretrained(folder, dtype="float32")


def main(mode, base, adapter, given, out, settings="{}"):
    import peft
    import torch

    model = base_model(base)
    batch = {name: torch.as_tensor(x) for name, x in np.load(given).items()}
    targets, weights = batch.pop("targets"), batch.pop("weights")
    if mode == "make":
        torch.manual_seed(0)
        settings = json.loads(settings)
        made = peft.LoraConfig if "r" in settings else peft.PromptTuningConfig
        model = peft.get_peft_model(model, made(**settings))
        for name, x in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                torch.nn.init.normal_(x, std=0.1)
        model.save_pretrained(adapter)
    else:
        record = json.loads((Path(adapter) / "adapter_config.json").read_text())
        # peft trains no prompt that it has loaded
        trained = record["peft_type"] == "LORA"
        model = peft.PeftModel.from_pretrained(model, adapter, is_trainable=trained)
    model.eval()
    logits = model(**batch).logits
    logits = logits[:, logits.shape[1] - targets.shape[1] :]
    nll = -torch.log_softmax(logits, -1).gather(-1, targets[..., None].long())[..., 0]
    loss = (nll * weights).sum() / weights.sum()
    if any(x.requires_grad for x in model.parameters()):
        loss.backward()
    found = {"logits": logits, "loss": loss}
    for name, x in model.named_parameters():
        if x.requires_grad:
            found[f"gradient/{name.replace('.default', '')}"] = x.grad
    if mode == "load" and hasattr(model, "merge_and_unload") and "lora" in str(list(found)):
        merged = model.merge_and_unload()
        found |= {f"merged/{name}": x for name, x in merged.state_dict().items()}
    np.savez(out, **{name: x.detach().numpy() for name, x in found.items()})


main(*sys.argv[1:])
