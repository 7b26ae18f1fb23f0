"""The checks of ``pause-megatron doctor``, in the order in which they start."""

from pause_megatron.doctor.check import Check

REF = ("cpu-step",)
"""The reference: training in fp32 on the CPU."""
EXPORT = ("export-gpt2",)

CHECKS = (
    Check("versions", "installed packages", "machine:versions_of_packages"),
    Check("gpus", "driver, CUDA, and kernels for the GPUs", "machine:gpus", device="cuda"),
    Check("compiler", "torch.compile", "machine:compiler", device="cuda"),
    Check("mpi", "MPI library", "machine:mpi"),
    Check("slurm", "Slurm commands, and GPUs of this job", "machine:slurm"),
    Check("ranks", "own GPU for each rank, gloo, NCCL", "rank:meet", ranks=0),
    Check("attention", "attention kernels against math in fp32", "attention:kernels"),
    Check("data", "tokenizer and dataset of the checks", "step:make_data", device="cpu"),
    Check("cpu-step", "training in fp32 on the CPU", "step:cpu", device="cpu", needs=("data",)),
    Check("fp32", "the same on a GPU", "step:fp32", device="cuda", needs=REF),
    Check("bf16", "the same in bf16", "step:bf16", needs=REF),
    Check("compiled", "the same with compiled layers", "step:compiled", device="cuda", needs=REF, timeout=240),
    Check("recomputation", "the same with recomputed activations", "step:recomputation", needs=REF),
    Check("layouts-2", "the same on two ranks, divided in every way", "step:layouts", ranks=2, needs=REF),
    Check("layouts-4", "the same on four ranks", "step:layouts", ranks=4, needs=REF),
    Check("save", "checkpoint of several ranks", "checkpoint:save", ranks=0, needs=REF),
    Check("load", "the same checkpoint on one rank", "checkpoint:load", needs=("save",)),
    Check("load-cpu", "the same checkpoint on the CPU", "checkpoint:load_on_cpu", device="cpu", needs=("save",)),
    Check("export-gpt2", "export of a GPT-2", "downstream:export_gpt2", needs=REF),
    Check("export-llama", "training and export of a Llama", "downstream:export_llama", needs=REF),
    Check("finetuning", "five steps of finetuning with pauses", "downstream:finetuning", needs=EXPORT),
    Check("generation", "text after pauses", "downstream:generation", needs=EXPORT),
    Check("speed", "tokens/s, MFU, memory against the plan", "speed:measure", needs=REF, timeout=240),
)
