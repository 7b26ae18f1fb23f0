#!/usr/bin/env bash
#SBATCH --job-name=merge
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#
# Merges the shards of each preprocessed dataset into a few files, and verifies all datasets: every token, pause and hash.
#
#   slurm/merge_c4.sh [--dry-run] [--dependency=afterok:JOB] [-- FLAGS]   flags of "pause-megatron merge-datasets"
#   sbatch --dependency=afterok:JOB slurm/merge_c4.sh [-- FLAGS]          JOB: of preprocess_c4.sh
#
# Needs: WORK/data/pause and standard. Cost: reading and writing 312 GB twice; to verify, about 5 hours of one core.
# Output: WORK/data/*-merged; WORK/data/logs/verified if all datasets are sound.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

folder=$WORK/data
site_options=()
flags=(--files 8 "${overrides[@]}")
datasets=(standard-merged pause-merged)
if [[ -n $C4_VALIDATION ]]; then datasets+=(validation-standard validation-pause); fi

# Set verification to the flags for DATA; a dataset with pauses must have the text of the one without: set_verification DATA
set_verification() {
    verification=(--data "$folder/$1")
    if [[ $1 == *pause* ]]; then verification+=(--standard "$folder/${1/pause/standard}"); fi
}
check() {
    for data in pause standard; do
        show "${PAUSE_MEGATRON[@]}" merge-datasets --input "$folder/$data" --output "$folder/$data-merged" "${flags[@]}"
        check_flags merge-datasets --input "$folder/$data" --output "$folder/$data-merged" "${flags[@]}"
    done
    for data in "${datasets[@]}"; do
        set_verification "$data"
        show "${PAUSE_MEGATRON[@]}" verify-dataset "${verification[@]}"
        check_flags verify-dataset "${verification[@]}"
    done
}
work() {
    for data in pause standard; do
        if [[ -e $folder/$data-merged/dataset.json ]]; then continue; fi
        run_until_done TERM "${PAUSE_MEGATRON[@]}" merge-datasets --input "$folder/$data" \
            --output "$folder/$data-merged" "${flags[@]}"
    done
    for data in "${datasets[@]}"; do
        set_verification "$data"
        run_until_done TERM "${PAUSE_MEGATRON[@]}" verify-dataset "${verification[@]}"
    done
    touch "$folder/logs/verified"
}
dispatch cpu
