#!/usr/bin/env bash
#SBATCH --job-name=pausept-1b
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Pretrains the 1B model on 200 billion tokens, with pauses (pausept, the default) or without (stdpt).
#
#   slurm/pretrain_1b.sh --dry-run [stdpt]                     print its command, layout, memory and time
#   slurm/pretrain_1b.sh [stdpt] [-- FLAGS]                    check the same, and queue it with the settings of env.sh
#   sbatch [OPTIONS] slurm/pretrain_1b.sh [stdpt] [-- FLAGS]   queue it with the #SBATCH lines above
#
# Needs: the tokenizer and the merged dataset (tokenizer.sh, preprocess_c4.sh, merge_c4.sh).
# Cost: about 0.8 days of 64 H100s at 40 % of their peak, or 6.5 of 8; a checkpoint of 16 GB every 1000 steps, two kept.
# Output: WORK/runs/pausept-1b. It saves 600 s before its time limit and is requeued until it is done.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

set_up_pretraining 1b "$PRETRAIN_1B_GPUS" --deepspeed zero1_bf16 \
    --global-batch-size 256 --micro-batch-size 4 --train-iters 381470 --async-save
check() { check_pretraining; }
work() { work_pretraining; }
dispatch gpu
