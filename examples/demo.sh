#!/bin/sh
# The whole path on generated traffic: train, export, verify, score, measure. Called by `make demo`.
set -eu
out=${DEMO:-demo-out}
rows=${ROWS:-40000}
rm -rf "$out"
mkdir -p "$out"
step() { printf '\n\033[1m== %s\033[0m\n' "$*"; "$@"; }

step pepnet-infer train "synthetic:$rows" --seeds 1 --out "$out/checkpoint" --test-rows "$out/traffic.parquet"
step pepnet-infer export "$out/checkpoint" --out "$out/bundle"
step pepnet-infer verify "$out/bundle"
step pepnet-infer inspect "$out/bundle"
step pepnet-infer score "$out/bundle" "$out/traffic.parquet" --out "$out/scores"
step python - "$out/scores/traffic.parquet" <<'PY'
import sys

import pyarrow.parquet as pq

table = pq.read_table(sys.argv[1])
print(*table.column_names, sep="  ")
for row in table.slice(0, 5).to_pylist():
    print(*(f"{value:.6f}" if isinstance(value, float) else value for value in row.values()), sep="  ")
print(f"{table.num_rows} rows, model_version {table.schema.metadata[b'model_version'].decode()}")
PY
step pepnet-infer bench latency "$out/bundle" --batch 1,64,1024 --peers torch,onnxruntime,engine-native,engine-native-bf16 --seconds 3 --json "$out/latency.json"
