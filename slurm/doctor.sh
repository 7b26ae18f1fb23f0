#!/usr/bin/env bash
#SBATCH --job-name=doctor
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=0:20:00
#
# Checks a node before a long run: GPUs, network, training, checkpoints, exports, speed. With several nodes it also checks
# that all tasks meet.
#
#   slurm/doctor.sh [--dry-run] [--nodes=N] [-- FLAGS]    flags of "pause-megatron doctor"
#   sbatch [OPTIONS] slurm/doctor.sh [-- FLAGS]
#
# Needs: nothing. Cost: five minutes of a node. Output: WORK/doctor/doctor.json, and the lines in its log.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

folder=$WORK/doctor
site_options=(--nodes="$(value_of --nodes 1 "${sbatch_options[@]}")" --ntasks-per-node="$GPUS_PER_NODE")
site_options+=(--gpus-per-node="$GPUS_PER_NODE" --cpus-per-task="$CPUS_PER_GPU")
flags=(--output "$folder/doctor.json" "${overrides[@]}")
check() {
    show srun "${PAUSE_MEGATRON[@]}" doctor "${flags[@]}"
    show "${PAUSE_MEGATRON[@]}" doctor "${flags[@]}"
    check_flags doctor "${flags[@]}"
}
work() {
    if [[ ${SLURM_NTASKS:-1} -gt 1 ]]; then # all tasks meet; the doctor starts the processes of the other checks itself
        srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${PAUSE_MEGATRON[@]}" doctor "${flags[@]}"
    fi
    "${PAUSE_MEGATRON[@]}" doctor "${flags[@]}"
}
dispatch gpu
