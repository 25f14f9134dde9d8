"""Loads the adapters that the example `interop_models` wrote in Hugging Face PEFT and compares.

    cargo run -p engraft-peft --example interop_models -- DIRECTORY
    python interop/check_peft_models.py DIRECTORY

Needs torch, transformers, peft and safetensors. Exits with 1 if an adapter does not load or an output
differs by more than float32 rounding.
"""

import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.boft import layer as boft
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from check_peft import BlockDiagonal

MODELS = Path(__file__).resolve().parent.parent / "crates/engraft-peft/vectors/models"
CLASSES = {
    "llama": AutoModelForCausalLM,
    "gpt2": AutoModelForCausalLM,
    "bert_cls": AutoModelForSequenceClassification,
}
# Relative to the largest output.
TOLERANCE = 2e-5

boft.get_fbd_cuda = lambda: True
boft.FastBlockDiag = BlockDiagonal


def difference(directory):
    """The largest difference of PEFT's output from Engraft's, relative to its largest entry."""
    with safe_open(directory / "expected.safetensors", "pt") as file:
        name, expected = file.metadata()["model"], file.get_tensor("y")
    kind = CLASSES.get(name, AutoModel)
    base = kind.from_pretrained(MODELS / name, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, directory).eval()
    tensors = load_file(MODELS / name / "io.safetensors")
    keys = ("input_ids", "attention_mask", "pixel_values")
    inputs = {key: tensors[f"in.{key}"] for key in keys if f"in.{key}" in tensors}
    if model.active_peft_config.peft_type == "MULTITASK_PROMPT_TUNING":
        inputs["task_ids"] = torch.zeros(len(inputs["input_ids"]), dtype=torch.long)
    with torch.no_grad():
        output = model(**inputs)
    found = output.logits if "logits" in output else output.last_hidden_state
    if found.dim() == 3:
        # Virtual tokens lead the text's own.
        found = found[:, -expected.shape[1] :]
    return ((found - expected).abs().max() / expected.abs().max()).item()


def main():
    wrong = 0
    for directory in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = difference(directory)
            verdict = "" if found <= TOLERANCE else "DIFFERS"
            shown = f"{found:.1e}"
        except Exception as error:  # whatever PEFT raises is the finding
            verdict, shown = f"FAILS: {type(error).__name__}: {str(error)[:300]}", "       "
        wrong += bool(verdict)
        print(f"{shown}  {directory.name}  {verdict}")
    print(f"{wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
