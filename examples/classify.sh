#!/usr/bin/env bash
# Train a classifier of texts.
#
#   bash examples/classify.sh TRAINING VALIDATION FOLDER [flags of gpt2x train classify]
#
# The files are CSV or JSON lines with the columns "text" and "label". Labels may be names, numbers
# (then it is a regression, if they are not whole) or lists (several labels a text).
set -euo pipefail
training=$1 validation=$2 folder=$3
shift 3

gpt2x train classify --train-file "$training" --validation-file "$validation" \
	--output-dir "$folder" --learning-rate 2e-5 --num-train-epochs 3 "$@"

# The scores, and what the model says of each text of the validation data.
cat "$folder/eval_results.json"
head -n 3 "$folder/predictions.jsonl"
