#!/usr/bin/env bash
#SBATCH --job-name=pausept-130m
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Pretrains the 130M model on 200 billion tokens, with pauses (pausept, the default) or without (stdpt).
#
#   slurm/pretrain_130m.sh --dry-run [stdpt]                     print its command, layout, memory and time
#   slurm/pretrain_130m.sh [stdpt] [-- FLAGS]                    check the same, and queue it with the settings of env.sh
#   sbatch [OPTIONS] slurm/pretrain_130m.sh [stdpt] [-- FLAGS]   queue it with the #SBATCH lines above
#
# Needs: the tokenizer and the merged dataset (tokenizer.sh, preprocess_c4.sh, merge_c4.sh).
# Cost: about 0.7 days of 8 H100s at 40 % of their peak; a checkpoint of 1.6 GB every 1000 steps, two of them kept.
# Output: WORK/runs/pausept-130m. It saves 300 s before its time limit and is requeued until it is done.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

set_up_pretraining 130m "$PRETRAIN_130M_GPUS" --deepspeed zero1_bf16 \
    --global-batch-size 256 --micro-batch-size 16 --train-iters 381470
check() { check_pretraining; }
work() { work_pretraining; }
dispatch gpu
