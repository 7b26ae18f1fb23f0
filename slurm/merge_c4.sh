#!/usr/bin/env bash
#SBATCH --job-name=merge
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#
# Merges the shards of each preprocessed dataset into a few files.
#
#   slurm/merge_c4.sh [--dry-run] [--dependency=afterok:JOB] [-- FLAGS]   flags of "pause-megatron merge-datasets"
#   sbatch --dependency=afterok:JOB slurm/merge_c4.sh [-- FLAGS]          JOB: of preprocess_c4.sh
#
# Needs: WORK/data/pause and standard. Cost: reading and writing 312 GB twice. Output: WORK/data/*-merged.
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
check() {
    for data in pause standard; do
        show "${PAUSE_MEGATRON[@]}" merge-datasets --input "$folder/$data" --output "$folder/$data-merged" "${flags[@]}"
        check_flags merge-datasets --input "$folder/$data" --output "$folder/$data-merged" "${flags[@]}"
    done
}
work() {
    for data in pause standard; do
        if [[ -e $folder/$data-merged/dataset.json ]]; then continue; fi
        run_until_done TERM "${PAUSE_MEGATRON[@]}" merge-datasets --input "$folder/$data" \
            --output "$folder/$data-merged" "${flags[@]}"
    done
}
dispatch cpu
