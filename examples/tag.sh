#!/usr/bin/env bash
# Train a tagger of words, for named entities say.
#
#   bash examples/tag.sh TRAINING VALIDATION FOLDER [flags of gpt2x train tag]
#
# The files are JSON lines with a list of words ("tokens") and a list of their labels ("tags"), such
# as B-PER, I-PER and O. A word may be several tokens; the label stands on the first.
set -euo pipefail
training=$1 validation=$2 folder=$3
shift 3

gpt2x train tag --train-file "$training" --validation-file "$validation" \
	--output-dir "$folder" --learning-rate 5e-5 --num-train-epochs 3 "$@"

# Precision, recall and F1 of whole entities.
cat "$folder/eval_results.json"
