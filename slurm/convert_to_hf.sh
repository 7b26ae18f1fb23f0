#!/usr/bin/env bash
#SBATCH --job-name=convert
#SBATCH --cpus-per-task=8
#SBATCH --time=2:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#
# Exports a pretrained model to a Hugging Face folder, and verifies the export by its logits.
#
#   slurm/convert_to_hf.sh [--dry-run] MODEL [-- FLAGS]       flags of 'pause-megatron convert-to-hf'
#   sbatch [OPTIONS] slurm/convert_to_hf.sh MODEL [-- FLAGS]  MODEL: a folder of WORK/runs, such as pausept-1b
#
# Needs: a checkpoint in WORK/runs/MODEL. Cost: minutes on one node without a GPU. Output: WORK/hf/MODEL.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

if [[ ${#words[@]} -ne 1 ]]; then die "MODEL: give one folder of $WORK/runs, such as pausept-1b"; fi
folder=$WORK/hf
site_options=(--job-name="convert-${words[0]}")
flags=(--checkpoint "$WORK/runs/${words[0]}" --output "$WORK/hf/${words[0]}" "${overrides[@]}")
check() {
    show "${PAUSE_MEGATRON[@]}" convert-to-hf "${flags[@]}"
    check_flags convert-to-hf "${flags[@]}"
}
work() { run_until_done TERM "${PAUSE_MEGATRON[@]}" convert-to-hf "${flags[@]}"; }
dispatch cpu
