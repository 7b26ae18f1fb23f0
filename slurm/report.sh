#!/usr/bin/env bash
#SBATCH --job-name=report
#SBATCH --cpus-per-task=4
#SBATCH --time=1:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#
# Writes the report on both models of a size: their pretraining, and the table of the four variants.
#
#   slurm/report.sh [--dry-run] SIZE [-- FLAGS]       flags of "pause-megatron report"
#   sbatch [OPTIONS] slurm/report.sh SIZE [-- FLAGS]  SIZE: 130m or 1b
#
# Needs: WORK/runs/*-SIZE and WORK/grids/*-SIZE. Cost: a minute of one node. Output: WORK/report-SIZE/report.html.
set -euo pipefail
script=$(readlink -f "${BASH_SOURCE[0]}")
if [[ ! -f ${script%/*}/lib.sh ]]; then # sbatch runs a copy of the script in another folder
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n "/^ *Command=/{s///;s/ .*//;p;q}")
fi
# shellcheck source=slurm/lib.sh
. "${script%/*}/lib.sh"
read_arguments "$@"

if [[ ${#words[@]} -ne 1 ]]; then die "SIZE: give one size, 130m or 1b"; fi
size=${words[0]}
folder=$WORK/report-$size-logs
site_options=(--job-name="report-$size")
runs=("$WORK/runs/stdpt-$size" "$WORK/runs/pausept-$size")
check() {
    show "${PAUSE_MEGATRON[@]}" report --pretrain "${runs[@]}" --evaluations "$WORK/grids/*-$size/evaluate/*/*.json" \
        --output "$WORK/report-$size" "${overrides[@]}"
}
work() {
    run_until_done TERM "${PAUSE_MEGATRON[@]}" report --pretrain "${runs[@]}" \
        --evaluations "$WORK"/grids/*-"$size"/evaluate/*/*.json --output "$WORK/report-$size" "${overrides[@]}"
}
dispatch cpu
