"""Where the format of each published model type is: the one list in export that a new family is
entered in."""

# model_type -> the module whose FORMATS has it, in the order they are tried for a config of ours.
HOMES = {
    "openai-gpt": "gesso.export.families.gpt",
    "gpt2": "gesso.export.families.gpt",
    "gpt_neo": "gesso.export.families.gpt",
    "gptj": "gesso.export.families.gpt",
    "gpt_neox": "gesso.export.families.gpt",
    "opt": "gesso.export.families.opt",
    "llama": "gesso.export.families.llama",
    "mistral": "gesso.export.families.llama",
    "t5": "gesso.export.families.t5",
    "bert": "gesso.export.families.bert",
    "roberta": "gesso.export.families.bert",
    "xlm-roberta": "gesso.export.families.bert",
    "camembert": "gesso.export.families.bert",
    "encoder-decoder": "gesso.export.families.encoder_decoder",
}
