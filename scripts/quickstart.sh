#!/usr/bin/env bash
# From a bare machine with Python 3.11 to predictions, a Dice table and a picture, on made-up scans.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/environment.sh
export PATH="$PWD/.venv/bin:$PATH"

out=${1:-quickstart}
dataset=$out/data/Task90_Phantom
started=$SECONDS
resume=()
if [ -f "$out/results/checkpoints/last.ckpt" ]; then resume=(--resume_training); fi # it was stopped, or is done

python -m data_preprocessing.phantom --out "$dataset" --cases 20 --seed 1
python preprocess.py --data "$out/data" --results "$out/data" --task 90 --name Task90_Phantom --dim 3
python main.py --exec_mode train --task 90 --data "$out/data/90_3d" --results "$out/results" --gpus 0 --amp \
    --layout NDHWC --filters 16 32 64 128 --batch_size 4 --epochs 12 --steps_per_epoch 16 --val_every 4 \
    --learning_rate 0.004 --scheduler one_cycle --num_workers 2 "${resume[@]}"
python main.py --exec_mode predict --ckpt_path "$out/results/checkpoints/last.ckpt" \
    --input "$dataset/imagesTs" --results "$out/predictions" --gpus 0 --amp
python evaluate.py --preds "$out/predictions" --lbls "$dataset/labelsTs" --images "$dataset/imagesTs"

echo "Done in $((SECONDS - started)) s after the installs. Predictions, metrics.json and pictures: $out/predictions"
