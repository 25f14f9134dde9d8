"""The other side of the comparison: the same cases in Hugging Face PEFT, one line of JSON for each line read.

Started by `cargo xtask bench --against-peft PYTHON`. A request is {"case": ["train", NET, METHOD], "threads": N,
"runs": N}; each is answered by a forked child, so that memory is the case's own. Needs torch and peft on Linux; the
kinds and names of cases are those of shapes.toml and case.rs.
"""

import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import peft
import torch
from peft.tuners.boft import layer as boft
from torch import nn

TOKENS = (4, 128)
NETS = {"stack4": [768] * 5, "mlp": [768, 3072, 768]}


class Stack(nn.Module):
    """fc1, fc2, ... with GELU between them."""

    def __init__(self, dims):
        super().__init__()
        self.depth = len(dims) - 1
        for at in range(self.depth):
            setattr(self, f"fc{at + 1}", nn.Linear(dims[at], dims[at + 1]))

    def forward(self, x):
        for at in range(self.depth):
            x = getattr(self, f"fc{at + 1}")(x)
            if at + 1 < self.depth:
                x = nn.functional.gelu(x)
        return x

    def names(self):
        return [f"fc{at + 1}" for at in range(self.depth)]


METHODS = {
    "lora_r8": lambda **t: peft.LoraConfig(r=8, lora_alpha=16, **t),
    "lora_r16": lambda **t: peft.LoraConfig(r=16, lora_alpha=32, **t),
    "dora_r8": lambda **t: peft.LoraConfig(r=8, lora_alpha=16, use_dora=True, **t),
    "dora_r16": lambda **t: peft.LoraConfig(r=16, lora_alpha=32, use_dora=True, **t),
    "oft_b32_neumann5": lambda **t: peft.OFTConfig(r=0, oft_block_size=32, **t),
    "oft_b32_exact": lambda **t: peft.OFTConfig(r=0, oft_block_size=32, use_cayley_neumann=False, **t),
    "boft_m1_b8": lambda **t: peft.BOFTConfig(boft_block_size=8, boft_n_butterfly_factor=1, **t),
    "boft_m2_b32": lambda **t: peft.BOFTConfig(boft_block_size=32, boft_n_butterfly_factor=2, **t),
    "boft_m4_b8": lambda **t: peft.BOFTConfig(boft_block_size=8, boft_n_butterfly_factor=4, **t),
    "lokr_r8": lambda **t: peft.LoKrConfig(r=8, alpha=8, **t),
    "loha_r8": lambda **t: peft.LoHaConfig(r=8, alpha=8, **t),
    "vera_r256": lambda **t: peft.VeraConfig(r=256, **t),
    "vblora_r4": lambda **t: peft.VBLoRAConfig(r=4, num_vectors=256, vector_length=256, topk=2, **t),
    "fourierft_n1000": lambda **t: peft.FourierFTConfig(n_frequency=1000, scaling=150.0, **t),
    "road_1_g64": lambda **t: peft.RoadConfig(variant="road_1", group_size=64, **t),
    "ia3": lambda **t: peft.IA3Config(feedforward_modules=[], **t),
    "shira_r8": lambda **t: peft.ShiraConfig(r=8, random_seed=1, **t),
    "hra_r8": lambda **t: peft.HRAConfig(r=8, **t),
    "randlora_r32": lambda **t: peft.RandLoraConfig(r=32, **t),
    "c3a_b256": lambda **t: peft.C3AConfig(block_size=256, **t),
    "miss_r64": lambda **t: peft.MissConfig(r=64, **t),
    "gralora_r32_k2": lambda **t: peft.GraloraConfig(r=32, gralora_k=2, **t),
    "delora_r8": lambda **t: peft.DeloraConfig(r=8, **t),
    "hira_r8": lambda **t: peft.HiraConfig(r=8, **t),
}


class BlockDiagonal:
    """What PEFT's CUDA extension computes: without it, PEFT replaces several butterfly factors by one."""

    @staticmethod
    def blocks(dense, count, size):
        return dense.view(-1, count, size, count, size).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)

    def forward(self, blocks):
        factors, count, size, _ = blocks.shape
        dense = blocks.new_zeros(factors, count * size, count * size)
        self.blocks(dense, count, size).copy_(blocks)
        return [dense]

    def backward(self, gradient, blocks):
        return [self.blocks(gradient.contiguous(), blocks.shape[1], blocks.shape[2])]


def resident_mb():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(run, runs, warm=3, limit=8.0):
    """Median and least milliseconds; a slow case is warmed up once."""
    start = time.perf_counter()
    for _ in range(warm):
        run()
        if time.perf_counter() - start > 2:
            break
    taken, start = [], time.perf_counter()
    while not taken or (len(taken) < runs and time.perf_counter() - start < limit):
        begin = time.perf_counter()
        run()
        taken.append((time.perf_counter() - begin) * 1e3)
    return {"ms": statistics.median(taken), "ms_min": min(taken), "n": len(taken)}


def adapted(base, method):
    return peft.get_peft_model(base, METHODS[method](target_modules=base.names()))


def train(net, method, runs):
    base = Stack(NETS[net])
    x, target = torch.randn(*TOKENS, NETS[net][0]), torch.randn(*TOKENS, NETS[net][-1])
    start = resident_mb()
    if method == "frozen":
        model = base.requires_grad_(False)
        x.requires_grad_(True)
    else:
        model = base if method == "full" else adapted(base, method)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-3) if params else None
    model.train()

    def step():
        nn.functional.mse_loss(model(x), target).backward()
        if optimizer:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        else:
            x.grad = None

    timing = timed(step, runs)
    return {**timing, "trainable": sum(p.numel() for p in params), "rss_delta_mb": peak_mb() - start}


def init(size, how, runs):
    size = int(size)
    net = Stack([size, size])
    weight = net.fc1.weight.data.clone()

    def run():
        net.fc1.weight.data = weight.clone()
        extra = {}
        if how == "corda":
            from peft.tuners.lora.config import CordaConfig
            from peft.tuners.lora.corda import preprocess_corda

            extra["corda_config"] = CordaConfig(corda_method="ipm", verbose=False)
        config = peft.LoraConfig(r=16, lora_alpha=16, target_modules=["fc1"], init_lora_weights=how, **extra)
        if how == "corda":
            rows = torch.randn(2 * size, size)
            preprocess_corda(net, config, run_model=lambda: net(rows))
        peft.get_peft_model(net, config).unload()

    return timed(run, runs, warm=1 if size <= 1024 else 0, limit=4.0)


def merge(size, method, runs):
    size = int(size)
    base = Stack([size, size])
    layer = adapted(base, method).base_model.model.fc1
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn_like(parameter)
    linear = layer.get_base_layer()
    weight, bias = linear.weight.data, linear.bias.data

    def run():
        linear.weight.data, linear.bias.data = weight.clone(), bias.clone()
        with torch.no_grad():
            layer.merge()
        layer.merged_adapters.clear()

    return timed(run, runs, warm=1, limit=4.0)


def weighted(size, runs):
    size = int(size)
    net, ranks = Stack([size, size]), [8, 16, 8]
    make = lambda r: peft.LoraConfig(r=r, target_modules=["fc1"], init_lora_weights=False)
    model = peft.get_peft_model(net, make(ranks[0]), adapter_name="a0")
    for at, rank in enumerate(ranks[1:], 1):
        model.add_adapter(f"a{at}", make(rank))

    def run():
        model.base_model.add_weighted_adapter(["a0", "a1", "a2"], [0.5, 0.3, 0.2], "merged", combination_type="svd")
        model.delete_adapter("merged")

    return timed(run, runs, warm=0, limit=4.0)


def mixed(seq, what, runs):
    net = Stack([768] * 5).eval()
    x = torch.randn(64, int(seq), 768)
    make = lambda: peft.LoraConfig(r=8, target_modules=net.names(), init_lora_weights=False)
    names = {}
    if what == "base":
        model = net
    else:
        config = make()
        model = peft.get_peft_model(net, config, adapter_name="a0")
        for at in range(1, 16):
            model.add_adapter(f"a{at}", config)
        model.eval().set_adapter("a0")
        if what == "mixed":
            names = {"adapter_names": [f"a{(at * 7) % 16}" for at in range(64)]}

    @torch.no_grad()
    def run():
        model(x, **names)

    return timed(run, runs)


KINDS = {"train": train, "init": init, "merge": merge, "weighted": weighted, "mixed": mixed}


def child(queue, request):
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    kind, *what = request["case"]
    try:
        queue.put(KINDS[kind](*what, request["runs"]))
    except Exception as error:  # the caller prints it beside the case
        queue.put({"error": f"{type(error).__name__}: {error}"[:300]})


def main():
    boft._FBD_CUDA = BlockDiagonal()
    context = multiprocessing.get_context("fork")
    hello = {"torch": torch.__version__, "peft": peft.__version__, "python": sys.version.split()[0]}
    print(json.dumps(hello), flush=True)
    for line in sys.stdin:
        queue = context.Queue()
        process = context.Process(target=child, args=(queue, json.loads(line)))
        process.start()
        answer = queue.get()
        process.join()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
