"""Loads the adapters that the example `interop_models` wrote in Hugging Face PEFT and compares.

    cargo run -p engraft-peft --example interop_models -- DIRECTORY
    python interop/check_peft_models.py DIRECTORY

Needs torch, transformers, peft and safetensors.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

MODELS = Path(__file__).resolve().parent.parent / "crates/engraft-peft/vectors/models"
CAUSAL = {"llama", "gpt2"}
TOLERANCE = 1e-5


def difference(directory: Path) -> float:
    """The largest difference of PEFT's output from Engraft's, relative to its largest entry."""
    with safe_open(directory / "expected.safetensors", "pt") as file:
        name, expected = file.metadata()["model"], file.get_tensor("y")
    kind = AutoModelForCausalLM if name in CAUSAL else AutoModel
    base = kind.from_pretrained(MODELS / name, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, directory).eval()
    tensors = load_file(MODELS / name / "io.safetensors")
    keys = ("input_ids", "attention_mask", "pixel_values")
    inputs = {key: tensors[f"in.{key}"] for key in keys if f"in.{key}" in tensors}
    with torch.no_grad():
        output = model(**inputs)
    found = output.logits if name in CAUSAL else output.last_hidden_state
    return ((found - expected).abs().max() / expected.abs().max()).item()


def main() -> None:
    differences = {path.name: difference(path) for path in sorted(Path(sys.argv[1]).iterdir())}
    for name, found in differences.items():
        print(f"{found:.1e}  {name}")
    if any(not found < TOLERANCE for found in differences.values()):
        sys.exit(f"some differ by more than {TOLERANCE}")


if __name__ == "__main__":
    main()
