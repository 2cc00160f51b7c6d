"""KuaiRand (Gao et al., CIKM 2022, doi 10.1145/3511808.3557624): real exposures of a short video app.

Two layouts of one folder are read. The official one is CSV: `log_standard_4_08_to_4_21_pure.csv` and its like (1K,
Pure and 27K in parts; all files of one variant are one log), `user_features_pure.csv`, `video_features_basic_pure.csv`.
The other is parquet: `interactions.parquet`, `user_features.parquet`, `video_features_basic.parquet` and
`user_history_to_DAY.parquet`, the last ≤ 50 videos each user was shown up to that day. In the official layout that
history is made from the log's own rows up to that day.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pepnet_infer.computed_once import computed_once
from pepnet_infer.errors import SchemaError
from pepnet_infer.schema.feature_schema import JoinSpec

#: Known only after the exposure: what the user did, and for how long.
OUTCOMES = frozenset(
    (
        *("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "is_profile_enter"),
        *("long_view", "play_time_ms", "profile_stay_time", "comment_stay_time"),
    )
)
HISTORY_LENGTH = 50

_LOG_NAME = re.compile(r"log_standard_\d+_\d+_to_\d+_\d+_(?P<variant>[A-Za-z0-9]+?)(_part\d+)?\.csv")
_HISTORY_NAME = re.compile(r"user_history_to_(?P<day>\d{8})")
# Inference looks at a file's first block only, so that columns whose later rows differ are named here.
_TEXT = [
    *("user_active_degree", "follow_user_num_range", "fans_user_num_range", "friend_user_num_range"),
    *("register_days_range", "video_type", "upload_dt", "upload_type", "tag"),
]
_FLOAT = [
    *(f"onehot_feat{i}" for i in range(18)),
    *("visible_status", "video_duration", "server_width", "server_height", "music_type"),
]
_CSV_TYPES = {**{name: pa.string() for name in _TEXT}, **{name: pa.float64() for name in _FLOAT}}


class KuaiRand:
    """The `Source` of a KuaiRand folder. Raises SchemaError for a folder without a log, or with several variants."""

    name = "kuairand"
    outcomes = OUTCOMES
    day_column = "date"
    time_column = "time_ms"
    user_column = "user_id"

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise SchemaError(f"kuairand: expected a folder, got {folder}")
        # The official archives keep their files one folder down.
        places = [folder, folder / "data"]
        self.folder = next((p for p in places if _log_files(p)), folder)
        self._files = _log_files(self.folder)
        if not self._files:
            raise SchemaError(f"kuairand: expected interactions.parquet or log_standard_*.csv, got neither in {folder}")

    @computed_once
    def _log(self) -> pa.Table:
        table = pa.concat_tables([_read(f) for f in self._files], promote_options="permissive")
        needed = ("time_ms", "user_id", "video_id", "tab", "date")
        missing = [c for c in needed if c not in table.column_names]
        if missing:
            raise SchemaError(f"column {missing[0]!r}: expected in the log, got none in {self._files[0]}")
        if "is_dup" in table.column_names:
            table = table.filter(pa.array(table["is_dup"].to_numpy() == 0)).drop_columns(["is_dup"])
        else:  # rows that repeat an earlier one in every column
            numbered = table.append_column("_row", pa.array(np.arange(table.num_rows)))
            firsts = numbered.group_by(table.column_names, use_threads=False).aggregate([("_row", "min")])
            table = table.take(np.sort(firsts["_row_min"].to_numpy()))
        # numpy's stable sort keeps the file's order among rows of one millisecond
        return table.take(np.argsort(table["time_ms"].to_numpy(), kind="stable"))

    def interactions(self) -> pa.Table:
        """Returns the log in time order, without exact repeats."""
        return self._log

    def side(self, join: JoinSpec, first_day: int) -> pa.Table | None:
        """Returns the table that `join.file` names, with or without its ending and variant, None if it is not there.

        A history that is no file is made from the log; its last day must then lie before `first_day`.
        """
        stem = join.file.removesuffix(".parquet").removesuffix(".csv")
        if stem.startswith(("interactions", "log_")):
            raise SchemaError(f"join {join.name!r}: expected a side table, got the log of exposures ({join.file})")
        if stem.startswith("video_features_statistic"):
            raise SchemaError(
                f"join {join.name!r}: expected features known before the exposure, got {join.file}, which counts"
                " outcomes of all days, test days included"
            )
        parquet = self.folder / f"{stem}.parquet"
        files = [parquet] if parquet.is_file() else sorted(self.folder.glob(f"{stem}*.csv"))
        if files:
            return pa.concat_tables([_read(f) for f in files], promote_options="permissive")
        history = _HISTORY_NAME.fullmatch(stem)
        if history is None:
            return None
        last_day = int(history["day"])
        if last_day >= first_day:
            raise SchemaError(
                f"join {join.name!r}: expected a history that ends before the first training day {first_day},"
                f" got {join.file}"
            )
        log = self._log.filter(pa.array(self._log["date"].to_numpy() <= last_day))
        return watch_history(log) if log.num_rows else None


def watch_history(log: pa.Table, length: int = HISTORY_LENGTH) -> pa.Table:
    """Returns per user of `log` (in time order) the last `length` videos shown, liked and watched long, oldest first.

    Columns: user_id, history_len (int32, exposures in all), last_time_ms, watch_seq, like_seq, long_watch_seq.
    """
    user = log["user_id"].to_numpy()
    order = np.argsort(user, kind="stable")
    users, starts, counts = np.unique(user[order], return_index=True, return_counts=True)
    video, time = log["video_id"].to_numpy()[order], log["time_ms"].to_numpy()[order]
    owner = np.repeat(np.arange(len(users)), counts)

    def last(chosen: npt.NDArray[np.bool_]) -> pa.ListArray[Any]:
        of = np.bincount(owner[chosen], minlength=len(users))
        ends = np.cumsum(of)
        rank_from_end = ends[owner[chosen]] - np.arange(len(owner[chosen]))
        offsets = np.concatenate([[0], np.cumsum(np.minimum(of, length))]).astype(np.int32)
        values: pa.Array[Any] = pa.array(video[chosen][rank_from_end <= length])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)

    return pa.table(
        {
            "user_id": pa.array(users),
            "history_len": pa.array(counts.astype(np.int32)),
            "last_time_ms": pa.array(time[starts + counts - 1]),
            "watch_seq": last(np.ones(len(owner), bool)),
            "like_seq": last(log["is_like"].to_numpy()[order] == 1),
            "long_watch_seq": last(log["long_view"].to_numpy()[order] == 1),
        }
    )


def _log_files(folder: Path) -> list[Path]:
    parquet = folder / "interactions.parquet"
    if parquet.is_file():
        return [parquet]
    files = sorted(folder.glob("log_standard_*.csv"))
    variants = {m["variant"].lower() for f in files if (m := _LOG_NAME.fullmatch(f.name))}
    if len(variants) > 1:
        raise SchemaError(f"kuairand: expected one variant, got {', '.join(sorted(variants))} in {folder}")
    return files


def _read(file: Path) -> pa.Table:
    try:
        if file.suffix == ".parquet":
            with open(file, "rb") as opened:  # of a path Arrow reads columns from folders' names too
                table = pq.read_table(opened)
        else:
            options = pa.csv.ConvertOptions(column_types=_CSV_TYPES, strings_can_be_null=True)
            table = pa.csv.read_csv(file, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise SchemaError(f"{file}: expected {file.suffix[1:]}, got {error}") from error
    return table.combine_chunks()
