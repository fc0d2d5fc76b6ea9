#!/usr/bin/env bash
# Make everything beside this file with the programs of one revision: ROOT=<its checkout> PYTHON=<its Python> make.sh
# The work is done below the folder that it is called in, by relative paths, so that no file holds a machine's.
set -euo pipefail
files=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS=1 PYTHONPATH=$ROOT
rm -rf raw cases_3d cases_2d tumour_3d medicalnet results said
mkdir said

phantom() { "$PYTHON" -m data_preprocessing.phantom --out "$@"; }
preprocess() { "$PYTHON" "$ROOT/preprocess.py" --n_jobs 1 "$@"; }
main() { "$PYTHON" "$ROOT/main.py" "$@" | tee -a said/all.txt; }

# Scans
phantom raw/cases --cases 6 --test_cases 1 --shape_dhw 12 18 15 --spacing_mm 1.2 0.9 1.0 --modality CT --seed 5
phantom raw/other --cases 1 --test_cases 0 --shape_dhw 10 20 14 --spacing_mm 1.6 0.8 1.1 --tilt_deg 15 --modality CT --seed 6
phantom raw/tumour --cases 4 --test_cases 1 --shape_dhw 12 16 14 --channels 2 --modality MRI --seed 7
"$PYTHON" - <<'PYTHON'
import json, pathlib
path = pathlib.Path("raw/tumour/dataset.json")
labels = {"0": "background", "1": "edema", "2": "enhancing tumour", "3": "non-enhancing tumor"}
path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}, indent=1) + "\n")
PYTHON

# Preprocessed folders
preprocess --dataset raw/cases --results . --patch_size 8 12 12
preprocess --dataset raw/cases --results . --dim 2 --patch_size 12 12 --float16
preprocess --dataset raw/cases --results medicalnet --recipe medicalnet --patch_size 8 12 10 --float16
preprocess --dataset raw/tumour --results . --patch_size 8 12 12 --float16

# Segmentation: the plain network is the one that is resumed; its settings come from the flat file. The others take
# SGD without momentum: their checkpoints hold no state of an optimizer, and stay small.
cp "$files/config.toml" .
main --config config.toml --data cases_3d --results results/plain --epochs 1
main --config config.toml --data cases_3d --results results/plain_whole --epochs 2
small="--gpus 0 --num_workers 0 --filters 4 8 --depth 1 --nfolds 3 --optimizer sgd --momentum 0 --no-nesterov"
net="$small --learning_rate 0.2 --steps_per_epoch 25 --augment none --epochs 4"
main --data cases_3d --results results/deep $net --deep_supervision --deep_supr_num 1 --depth 2 --filters 4 4 8
main --data cases_3d --results results/residual $net --filters 3 6 --res_block --ema 0.5 --layout NDHWC
main --data tumour_3d --results results/tumour $net --nfolds 2 --brats
main --data cases_2d --results results/flat $net --dim 2 --batch_size 4 --nvol 2
main --data medicalnet/cases_3d --results results/medicalnet $net --epochs 6

# Classification
cat >labels.csv <<'CSV'
case,label
phantom_000,left
phantom_001,right
phantom_002,left
phantom_003,left
phantom_004,right
phantom_005,right
CSV
class="--kind classification --labels_csv labels.csv --data cases_3d $small --hidden 8 --augment none --mirror_axes"
class+=" --norm batch --learning_rate 0.1 --steps_per_epoch 20"
main $class --results results/classification --epochs 1
main $class --results results/classification_whole --epochs 2

# Pre-training; each once for one epoch, to be resumed, and once for two
pretrain="--exec_mode pretrain --data cases_3d $small --steps_per_epoch 6"
genesis="$pretrain --method genesis --optimizer adam --learning_rate 0.003 --batch_size 4 --genesis elastic_sigma=2"
autoencoder="$pretrain --method autoencoder --learning_rate 0.1 --patch_size 8 12 10 --scheduler plateau"
semantic="$pretrain --method semantic --learning_rate 0.05 --filters 1 1 --batch_size 4 --genesis elastic_sigma=2"
main $genesis --results results/genesis --epochs 1
main $genesis --results results/genesis_whole --epochs 2
main $autoencoder --results results/autoencoder --epochs 1
main $autoencoder --results results/autoencoder_whole --epochs 2
preprocess --exec_mode patterns --dataset cases_3d --features results/autoencoder_whole/features.npy --classes 3 \
    --instances 3 --val_instances 2 --cube_size 8 8 8 --border 0 0 0 --distance 2 --nfolds 3 --no-tissue_filter
main $semantic --results results/semantic --epochs 1
main $semantic --results results/semantic_whole --epochs 2

# What the checkpoints say
mode() { local name=$1; shift; "$PYTHON" "$ROOT/main.py" --gpus 0 --nfolds 3 "$@" | tee "said/$name.txt"; }
last() { echo "--ckpt_path results/$1/checkpoints/last.ckpt"; }
for name in plain deep residual; do
    mode evaluate_$name --exec_mode evaluate --data cases_3d --results results/evaluate_$name $(last $name)
done
mode evaluate_tumour --exec_mode evaluate --data tumour_3d --results results/evaluate_tumour $(last tumour) --nfolds 2
mode evaluate_flat --exec_mode evaluate --data cases_2d --results results/evaluate_flat $(last flat) --dim 2
mode evaluate_medicalnet --exec_mode evaluate --data medicalnet/cases_3d --results results/evaluate_medicalnet $(last medicalnet)
for case in 0 1; do echo "raw/cases/imagesTr/phantom_00$case.nii.gz raw/cases/labelsTr/phantom_00$case.nii.gz"; done >list.txt
mode list_medicalnet --exec_mode evaluate --img_list list.txt --results results/list_medicalnet $(last medicalnet)
mode evaluate_classification --exec_mode evaluate --kind classification --labels_csv labels.csv --data cases_3d \
    --results results/evaluate_classification $(last classification)
cp raw/other/imagesTr/phantom_000.nii.gz scan.nii.gz
cp raw/tumour/imagesTs/phantom_004.nii.gz tumour.nii.gz
for name in plain residual flat medicalnet; do
    mode scan_$name --exec_mode predict --input scan.nii.gz --results results/scan_$name $(last $name)
done
mode scan_deep --exec_mode predict --input scan.nii.gz --results results/scan_deep $(last deep) --tta
mode scan_tumour --exec_mode predict --input tumour.nii.gz --results results/scan_tumour $(last tumour) --save_probabilities
mode folder_plain --exec_mode predict --data cases_3d --results results/folder_plain $(last plain)

# Weights carried elsewhere
main --config config.toml --data cases_3d --results results/transfer_genesis --epochs 1 --steps_per_epoch 1 \
    --no-save_ckpt -w results/genesis/checkpoints/last.ckpt --transfer all
main --config config.toml --data cases_3d --results results/transfer_autoencoder --epochs 1 --steps_per_epoch 1 \
    --no-save_ckpt -w results/autoencoder/checkpoints/last.ckpt
main --config config.toml --data cases_3d --results results/transfer_semantic --epochs 1 --steps_per_epoch 1 \
    --no-save_ckpt -w results/semantic/checkpoints/last.ckpt --transfer all --filters 1 1
"$PYTHON" "$ROOT/scripts/export.py" $(last plain) --to nnunet_v2 --out results/plain.pth

"$PYTHON" "$files/make_expected.py" "$files"
