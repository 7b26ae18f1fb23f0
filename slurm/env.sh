# shellcheck shell=bash disable=SC2034  # what is set here is used by the scripts that read this file
# The one file to edit for a new site. All scripts of this folder read it, on the submit host and in their jobs.
# 'source slurm/env.sh' before a plain 'sbatch slurm/SCRIPT.sh': the last lines set what sbatch reads by itself.

# --- Slurm ------------------------------------------------------------------------------------------------------------
ACCOUNT=                        # account to charge (sbatch --account); empty: your default one
GPU_PARTITION=                  # partition of the GPU nodes (sinfo shows them); empty: the site's default
CPU_PARTITION=                  # partition for preprocessing, conversion of small models and reports; empty: the default
GPUS_PER_NODE=8                 # GPUs of a node; one task is started for each
CPUS_PER_GPU=8                  # processors a GPU's task gets; a node's processors divided by its GPUs, or fewer
GPU_TIME=24:00:00               # longest time the GPU partition grants a job; jobs queue themselves again until they are done
CPU_TIME=12:00:00               # the same for the CPU partition
GPU_OPTIONS=()                  # more options of sbatch for GPU jobs, such as (--qos=long --constraint=h100 --exclusive)
CPU_OPTIONS=()                  # the same for CPU jobs

# --- how many ---------------------------------------------------------------------------------------------------------
PRETRAIN_130M_GPUS=8            # GPUs of a pretraining of the 130M model: a multiple of GPUS_PER_NODE that divides the batch
PRETRAIN_1B_GPUS=64             # the same for the 1B model
PREPROCESS_TASKS=16             # jobs that preprocessing is divided into
PREPROCESS_CPUS=32              # processors of each; every one works on a shard of its own

# --- where ------------------------------------------------------------------------------------------------------------
WORK=$REPOSITORY/work           # all that is made: data, runs, models, results, logs; on a disk that all nodes share
C4='c4/en/c4-train.*.json.gz'   # the training text: a glob, in quotes, of an absolute path
C4_VALIDATION='c4/en/c4-validation.*.json.gz'  # held-out text, also a glob; empty: none
TASKS=tasks                     # absolute path of the downstream tasks' data, one folder for each (docs/tasks.md)

# --- software ---------------------------------------------------------------------------------------------------------
# module purge && module load cuda/12.4  # what has to be loaded on this site before Python starts, if anything
PYTHON=$REPOSITORY/.venv/bin/python      # the interpreter with this project's packages ('make install'), on a shared disk
CONTAINER=()                             # put before PYTHON, such as (apptainer exec --nv image.sif); PYTHON is then in it

# --- interconnect -----------------------------------------------------------------------------------------------------
# export NCCL_SOCKET_IFNAME=ib0          # network NCCL's processes meet on, where the default is a slow one
# export GLOO_SOCKET_IFNAME=ib0          # the same for the exchanges of CPU tensors
# export NCCL_IB_HCA=mlx5                # InfiniBand adapters, where not all of them are for computing
# export NCCL_DEBUG=WARN                 # what NCCL says; INFO says which network it took

# --- for a plain sbatch -----------------------------------------------------------------------------------------------
[[ -z $ACCOUNT ]] || export SBATCH_ACCOUNT=$ACCOUNT                # an option of the command line wins over these
[[ -z $GPU_PARTITION ]] || export SBATCH_PARTITION=$GPU_PARTITION  # with --partition=CPU_PARTITION for CPU jobs
