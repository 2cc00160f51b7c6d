"""`bench offline`: parquet scoring, rows a second and memory."""
