# shellcheck shell=bash
# What the scripts of this folder share; they read it, nobody runs it. A script sets 'folder' (where its logs
# go), defines 'check' (what can be told before a job waits in a queue) and 'work' (what the job does), and calls
# 'dispatch cpu' or 'dispatch gpu'. Its arguments: [--dry-run] [SBATCH OPTIONS] [WORDS] [-- FLAGS of the Python command].

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SLURM_SCRIPTS=$REPOSITORY/slurm
: "${script:?}" # the path of the script that reads this
# shellcheck source=slurm/env.sh
. "$SLURM_SCRIPTS/env.sh"
export PYTHONPATH=$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}

PY=("${CONTAINER[@]}" "$PYTHON")
PAUSE_MEGATRON=("${PY[@]}" -m pause_megatron)
LONGEST_STANDSTILL=3  # times a job that loses processes is queued again at one and the same checkpoint
REQUEUE=85            # exit code of a command that was asked to stop, and has saved
LOST_PROCESS=86       # exit code of a run that has lost a process

die() {
    echo "error: $*" >&2
    exit 2
}

# Whether this is the script's own job: sbatch runs a copy of it. SLURM_JOB_ID may be that of a job it is called from.
in_own_job() { [[ $(readlink -f "$0") != "$script" ]]; }

# Divide a script's arguments into dry_run, sbatch_options, words and overrides.
read_arguments() {
    dry_run='' sbatch_options=() words=() overrides=()
    while [[ $# -gt 0 ]]; do
        case $1 in
            --) shift && overrides=("$@") && return ;;
            --dry-run) dry_run=yes ;;
            --*=*) sbatch_options+=("$1") ;;
            -*) die "$1: write options of sbatch as --option=value, and those of the Python command after --" ;;
            *) words+=("$1") ;;
        esac
        shift
    done
}

# The value that the last of the flags NAME has among FLAGS, or DEFAULT: value_of NAME DEFAULT FLAGS...
value_of() {
    local name=$1 value=$2
    shift 2
    while [[ $# -gt 0 ]]; do
        case $1 in
            "$name") value=${2:-} ;;
            "$name"=*) value=${1#*=} ;;
        esac
        shift
    done
    echo "$value"
}

# Print a command as it can be typed.
show() {
    printf '%q ' "$@"
    echo
}

# Refuse wrong flags of a command without running it: check_flags COMMAND FLAGS...
check_flags() { "${PY[@]}" -m pause_megatron check "$@"; }

# Check what can be told now; queue the script; or, in the job, do its work: dispatch KIND (cpu or gpu).
dispatch() {
    if [[ -n $dry_run ]]; then
        check
    elif in_own_job; then
        log_to "$folder/logs"
        work
    else
        check >&2
        queue "$1"
    fi
}

# Queue the running script with the site's options for its KIND; prints the job's id.
queue() {
    local kind=$1 options=(--output="$folder/logs/%x-%j.log")
    if [[ -n $ACCOUNT ]]; then options+=(--account="$ACCOUNT"); fi
    if [[ $kind == gpu ]]; then
        if [[ -n $GPU_PARTITION ]]; then options+=(--partition="$GPU_PARTITION"); fi
        options+=(--time="$GPU_TIME" "${GPU_OPTIONS[@]}")
    else
        if [[ -n $CPU_PARTITION ]]; then options+=(--partition="$CPU_PARTITION"); fi
        options+=(--time="$CPU_TIME" "${CPU_OPTIONS[@]}")
    fi
    mkdir -p "$folder/logs"
    sbatch --parsable "${options[@]}" "${site_options[@]}" "${sbatch_options[@]}" \
        "$script" "${words[@]}" -- "${overrides[@]}"
}

# Everything the job prints from now on goes to one file a job in FOLDER, also after it has been queued again.
log_to() {
    local log=$1/${SLURM_JOB_NAME:-job}-$SLURM_JOB_ID.log
    mkdir -p "$1"
    if [[ ! /dev/stdout -ef $log ]]; then
        echo "the log is $log"
        exec >>"$log" 2>&1
    fi
    echo "job $SLURM_JOB_ID on ${SLURM_JOB_NODELIST:-$(hostname)}, restart ${SLURM_RESTART_COUNT:-0}, $(date)"
}

# Run COMMAND; when Slurm warns of the end (--signal=B:USR1@...), pass SIGNAL on to it, and wait. What was stopped so, or
# has lost a process, is queued again: run_until_done SIGNAL COMMAND...
run_until_done() {
    local signal=$1 warned='' code=0 again=0
    shift
    show "$@"
    trap 'warned=yes; echo "warned by Slurm: $signal to the command"; kill -s "$signal" "$child" || true' USR1
    "$@" &
    local child=$!
    wait "$child" || code=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ended the waiting, not the command
        code=0
        wait "$child" || code=$?
    done
    wait "$child" || again=$? # the shell remembers how it ended, where a signal came at that moment
    if [[ $again -ne 127 ]]; then code=$again; fi
    trap '' USR1
    echo "exit code $code, $(date)"
    if [[ $code -eq $REQUEUE || (-n $warned && $code -gt $REQUEUE) ]]; then
        requeue
    elif [[ $code -eq $LOST_PROCESS || $code -gt 128 ]]; then
        requeue_if_it_gets_on
    fi
    return "$code"
}

requeue() {
    echo "queueing job $SLURM_JOB_ID again"
    if scontrol requeue "$SLURM_JOB_ID"; then
        sleep 300 # until Slurm ends this
    fi
}

# Print the name of the newest checkpoint in 'folder', for example iter_0001000, or none.
newest_checkpoint() {
    local names
    names=$(find "$folder/checkpoints" -maxdepth 1 -regex '.*/iter_[0-9]+' -printf '%f\n' 2>/dev/null | sort --version-sort) || true
    [[ -n $names ]] && tail -n 1 <<<"$names" || echo none
}

# A broken node will not be given again, memory that runs out will run out again: give up where nothing is gained.
requeue_if_it_gets_on() {
    local newest losses=$folder/logs/lost-$SLURM_JOB_ID
    newest=$(newest_checkpoint)
    echo "$newest" >>"$losses"
    if [[ $(grep --count --fixed-strings --line-regexp "$newest" "$losses") -gt $LONGEST_STANDSTILL ]]; then
        echo "queued again $LONGEST_STANDSTILL times, and still at checkpoint $newest: giving up"
    else
        requeue
    fi
}

# --- pretraining --------------------------------------------------------------------------------------------------------

# Set up the pretraining of the first word's model, pausept by default: set_up_pretraining SIZE GPUS FLAGS...
set_up_pretraining() {
    local size=$1 gpus=$2 model=${words[0]:-pausept} data held_out=()
    shift 2
    case $model in
        pausept) data=pause ;;
        stdpt) data=standard ;;
        *) die "$model: pausept or stdpt" ;;
    esac
    if [[ -n $C4_VALIDATION ]]; then
        held_out=(--validation-data "$WORK/data/validation-standard" "$WORK/data/validation-pause")
    fi
    flags=(--preset "$size" --data "$WORK/data/$data-merged" "${held_out[@]}" --tokenizer "$WORK/tokenizer")
    flags+=(--output "$WORK/runs/$model-$size" "$@" "${overrides[@]}")
    folder=$(value_of --output "" "${flags[@]}")
    if ((gpus % GPUS_PER_NODE)); then die "$gpus GPUs are not a multiple of GPUS_PER_NODE=$GPUS_PER_NODE (slurm/env.sh)"; fi
    nodes=$(value_of --nodes $((gpus / GPUS_PER_NODE)) "${sbatch_options[@]}")
    tasks=$(value_of --ntasks-per-node "$GPUS_PER_NODE" "${sbatch_options[@]}")
    site_options=(--job-name="$model-$size" --nodes="$nodes" --ntasks-per-node="$tasks")
    site_options+=(--gpus-per-node="$GPUS_PER_NODE" --cpus-per-task="$CPUS_PER_GPU")
}

# What a pretraining will be, need and take.
check_pretraining() {
    echo "$nodes nodes with $tasks tasks each, $(value_of --time "$GPU_TIME" "${sbatch_options[@]}") at a time"
    show srun "${PAUSE_MEGATRON[@]}" pretrain "${flags[@]}"
    if [[ -e $(value_of --tokenizer "" "${flags[@]}") ]]; then
        "${PAUSE_MEGATRON[@]}" pretrain "${flags[@]}" --dry-run --num-gpus $((nodes * tasks))
    else
        echo "the tokenizer is not there yet: only the flags were checked"
        check_flags pretrain "${flags[@]}"
    fi
}

# Pretrain, with one task a GPU. (srun does not take --cpus-per-task from its job.)
work_pretraining() {
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
    run_until_done USR1 srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        "${PAUSE_MEGATRON[@]}" pretrain "${flags[@]}"
}

# --- one GPU ------------------------------------------------------------------------------------------------------------

# Options of a job that computes on one GPU.
one_gpu() { site_options=(--gpus-per-node=1 --cpus-per-task="$CPUS_PER_GPU" "$@"); }

# The folder of a task's data, which may be named as the data set is (as for "pause-megatron grid"): task_folder TASK
task_folder() {
    local folder=$TASKS/$1 other=''
    case $1 in
        lambada) other=lambada_openai ;;
        web_questions) other=webqs ;;
        natural_questions) other=nq_open ;;
    esac
    if [[ -n $other && ! -d $folder && -d $TASKS/$other ]]; then folder=$TASKS/$other; fi
    echo "$folder"
}
