"""Loads adapters that Engraft wrote in Hugging Face PEFT and compares outputs.

    cargo run -p engraft-peft --example interop -- DIRECTORY
    python interop/check_peft.py DIRECTORY

PEFT's BOFT falls back to one butterfly factor where its CUDA extension cannot be built; its block-diagonal
kernel is replaced by torch.block_diag here.

Needs torch, peft 0.21.2 and safetensors. Each subdirectory holds an adapter as PEFT reads it and
io.safetensors: the base network, an input and the output that Engraft computed. Exits with 1 if
an adapter does not load or an output differs by more than float32 rounding.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.boft import layer as boft
from safetensors.torch import load_file

# Relative to the largest output; sums of 40 products in float32 and a few factors more.
TOLERANCE = 2e-5


class BlockDiagonal:
    @staticmethod
    def apply(blocks):
        return torch.stack([torch.block_diag(*factor) for factor in blocks])


boft.get_fbd_cuda = lambda: True
boft.FastBlockDiag = BlockDiagonal


class Mlp(torch.nn.Module):
    def __init__(self, tensors):
        super().__init__()
        for name in ("fc1", "fc2"):
            weight = tensors[f"{name}.weight"]
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
            layer.weight.data, layer.bias.data = weight.clone(), tensors[f"{name}.bias"].clone()
            setattr(self, name, layer)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


def is_checkable(directory):
    """LoftQ quantises through bitsandbytes on a GPU when PEFT reads it."""
    config = json.loads((directory / "adapter_config.json").read_text())
    return config.get("init_lora_weights") != "loftq" or torch.cuda.is_available()


def check(directory):
    tensors = load_file(directory / "io.safetensors")
    model = PeftModel.from_pretrained(Mlp(tensors), directory).eval()
    with torch.no_grad():
        found = model(tensors["x"])
    return ((found - tensors["y"]).abs().max() / tensors["y"].abs().max()).item(), model


def main():
    root = Path(sys.argv[1])
    wrong = 0
    print("| adapter | PEFT type | largest relative difference | |")
    print("|---|---|---|---|")
    for directory in sorted(path for path in root.iterdir() if path.is_dir()):
        kind = ""
        if not is_checkable(directory):
            print(f"| {directory.name} | LORA | | not checked: LoftQ needs bitsandbytes and a GPU |")
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                difference, model = check(directory)
            kind = model.peft_config["default"].peft_type.value
            verdict = "equal" if difference <= TOLERANCE else "DIFFERS"
            shown = f"{difference:.1e}"
        except Exception as error:  # whatever PEFT raises is the finding
            verdict, shown = f"FAILS: {type(error).__name__}: {str(error)[:200]}", ""
        wrong += verdict != "equal"
        print(f"| {directory.name} | {kind} | {shown} | {verdict} |")
    print(f"\n{wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
