"""Schema of the JSON files that one stage writes and another stage reads.

Each file has one frozen dataclass here. The stage that writes the file constructs the record; every reader gets the
same class back from :func:`~pause_megatron.records.files.read_record`. For example, ``pause-megatron evaluate`` writes
an :class:`~pause_megatron.records.evaluation.EvaluationRecord`, and ``pause-megatron report`` reads it.

| file | record | written by |
|---|---|---|
| ``run.json`` | ``pretraining.RunRecord`` | ``pause-megatron pretrain`` |
| ``metrics.jsonl`` of a run | ``pretraining.TrainRecord`` and its kin | ``pause-megatron pretrain`` |
| ``conversion_report.json`` | ``conversion.ExportRecord``, ``conversion.ImportRecord`` | ``tools/convert_*_hf.py`` |
| ``finetune.json`` | ``finetuning.FinetuneRecord`` | ``pause-megatron finetune`` |
| ``metrics.jsonl`` of a finetuned model | ``finetuning.FinetuneStepRecord`` and its kin | ``pause-megatron finetune`` |
| ``doctor.json`` | ``doctor.DoctorRecord`` | ``pause-megatron doctor`` |
| result files | ``evaluation.EvaluationRecord`` | ``pause-megatron evaluate`` |
| ``state`` in a checkpoint's ``manifest.json`` | ``checkpoint_state.CheckpointState`` | ``pause-megatron pretrain`` |

Dataset manifests (``preprocess``) and checkpoint manifests (``checkpoint``) stay with the code that checks their files.
"""
