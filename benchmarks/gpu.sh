#!/usr/bin/env bash
# Checks and measures one GPU in at most eight minutes: pause-megatron doctor, then a training step of the 130M and the 1B
# model, compiled, in bf16, with several micro-batch sizes, and transformers with a compiled plain loop.
#
#   benchmarks/gpu.sh FOLDER
#
# Output: FOLDER/doctor.json, FOLDER/results/train-step-gpu.json, and the table in FOLDER/report.md. PYTHON is .venv's.
set -uo pipefail
folder=${1:?give a folder for the results}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$repository/.venv/bin/python}
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
SECONDS=0 LIMIT=470 # seconds
mkdir -p "$folder"
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,power.limit,clocks.max.sm --format=csv | tee "$folder/gpu.csv"
fi
timeout 210 "$python" -m pause_megatron doctor --gpus 1 --output "$folder/doctor.json" 2>&1 | tee "$folder/doctor.log"
checked=${PIPESTATUS[0]}
"$python" "$repository/benchmarks/train_step.py" --work "$folder" --only-compiled --micro-batch-sizes 4 8 16 32 \
    --seconds $((LIMIT - SECONDS)) | tee "$folder/report.md"
measured=${PIPESTATUS[0]}
echo "doctor ended with $checked, the measurement with $measured, after $SECONDS s"
exit $((checked || measured))
