"""KuaiRand in both layouts: the official CSV files, and parquet."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from msgspec import structs

from pepnet_infer.errors import SchemaError
from pepnet_infer.export.data.dataset import Dataset, build_dataset
from pepnet_infer.export.data.kuairand import KuaiRand, watch_history
from pepnet_infer.export.data.source import open_source
from pepnet_infer.export.run_config import RunConfig
from pepnet_infer.schema.ids import MISSING_KEY

DAYS = [20220424, 20220425, 20220504, 20220505, 20220506]
OFFICIAL = (
    *("user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow", "is_comment"),
    *("is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time"),
    *("is_profile_enter", "is_rand", "tab"),
)
USERS, VIDEOS = 12, 15


def log(rows: int = 400) -> pa.Table:
    """A log in no order, with some exact repeats."""
    rng = np.random.default_rng(0)
    day = rng.integers(0, len(DAYS), rows)
    columns: dict[str, Any] = {name: rng.integers(0, 2, rows) for name in OFFICIAL}
    columns["user_id"], columns["video_id"] = rng.integers(0, USERS, rows), rng.integers(0, VIDEOS, rows)
    columns["date"] = np.array(DAYS)[day]
    columns["time_ms"] = 1_650_800_000_000 + day * 86_400_000 + rng.integers(0, 86_400_000, rows)
    columns["duration_ms"], columns["tab"] = rng.integers(1000, 90_000, rows), rng.integers(0, 3, rows)
    table = pa.table({name: columns[name] for name in OFFICIAL})
    return pa.concat_tables([table, table.slice(10, 30), table.slice(15, 1)])


def users() -> pa.Table:
    n = np.arange(USERS)
    columns: dict[str, Any] = {"user_id": n, "user_active_degree": [["full_active", "UNKNOWN"][i % 2] for i in n]}
    columns |= {"is_live_streamer": np.where(n % 3, -124, 1), "is_video_author": n % 2}
    for name in ("follow", "fans", "friend"):
        columns[f"{name}_user_num_range"] = [["0", "(10,50]", "500+"][i % 3] for i in n]
    columns["register_days_range"] = ["730+"] * USERS
    columns |= {f"onehot_feat{i}": n % (i + 2) for i in range(12)}
    columns["onehot_feat4"] = pa.array([None if i == 3 else float(i) for i in n], pa.float64())
    return pa.table(columns)


def videos() -> pa.Table:
    n = np.arange(VIDEOS)
    return pa.table(
        {
            "video_id": n,
            "author_id": n // 2,
            "video_type": ["NORMAL"] * VIDEOS,
            "upload_type": [["LongImport", "Kmovie"][i % 2] for i in n],
            "music_id": n + 9_155_697_141,
            "music_type": pa.array([None if i == 4 else 9.0 for i in n], pa.float64()),
            "tag": ["39", "1", "2", "12,39", None, *["7"] * (VIDEOS - 5)],
        }
    )


def history(table: pa.Table, last_day: int, length: int = 50) -> pa.Table:
    """The history a naive reading of the rules gives, exact repeats left out."""
    rows = sorted({tuple(r.items()) for r in table.to_pylist()}, key=lambda r: dict(r)["time_ms"])
    past = [dict(r) for r in rows if dict(r)["date"] <= last_day]
    out = []
    for user in sorted({r["user_id"] for r in past}):
        mine = [r for r in past if r["user_id"] == user]
        out.append(
            {
                "user_id": user,
                "history_len": len(mine),
                "last_time_ms": mine[-1]["time_ms"],
                "watch_seq": [r["video_id"] for r in mine][-length:],
                "like_seq": [r["video_id"] for r in mine if r["is_like"]][-length:],
                "long_watch_seq": [r["video_id"] for r in mine if r["long_view"]][-length:],
            }
        )
    return pa.Table.from_pylist(out)


def write_csv(folder: Path, table: pa.Table, suffix: str = "pure") -> Path:
    """The official layout: two log files, three names."""
    folder.mkdir(parents=True)
    middle = 250
    pa.csv.write_csv(table.slice(0, middle), folder / f"log_standard_4_08_to_4_21_{suffix}.csv")
    pa.csv.write_csv(table.slice(middle), folder / f"log_standard_4_22_to_5_08_{suffix}.csv")
    pa.csv.write_csv(table.slice(0, 5), folder / f"log_random_4_22_to_5_08_{suffix}.csv")
    pa.csv.write_csv(users(), folder / f"user_features_{suffix}.csv")
    pa.csv.write_csv(videos(), folder / f"video_features_basic_{suffix}.csv")
    pa.csv.write_csv(videos(), folder / f"video_features_statistic_{suffix}.csv")
    return folder


def write_parquet(folder: Path, table: pa.Table) -> Path:
    folder.mkdir(parents=True)
    ordered = table.sort_by("time_ms").drop_columns(["is_rand"])
    seen: set[tuple[Any, ...]] = set()
    repeats = []
    for row in ordered.to_pylist():
        repeats.append(int(tuple(row.values()) in seen))
        seen.add(tuple(row.values()))
    assert sum(repeats) == 31
    marked = ordered.append_column("is_dup", pa.array(repeats, pa.int8()))
    pq.write_table(marked.filter(pa.array(ordered["date"].to_numpy() > 20220424)), folder / "interactions.parquet")
    pq.write_table(users(), folder / "user_features.parquet")
    pq.write_table(videos(), folder / "video_features_basic.parquet")
    pq.write_table(history(table, 20220424), folder / "user_history_to_20220424.parquet")
    return folder


@pytest.fixture
def run() -> RunConfig:
    return RunConfig.read(Path(__file__).parents[3] / "examples" / "kuairand.yaml")


def dataset(folder: Path, run: RunConfig) -> Dataset:
    return build_dataset(open_source(f"kuairand:{folder}"), run.schema, run.train)


@pytest.mark.parametrize("suffix", ["pure", "1k"])
def test_both_layouts_are_the_same_data(tmp_path: Path, run: RunConfig, suffix: str) -> None:
    a = dataset(write_csv(tmp_path / "csv", log(), suffix), run)
    b = dataset(write_parquet(tmp_path / "parquet", log()), run)
    assert len(a.fit) > 100
    assert len(a.validation) > 50
    assert len(a.test) > 50
    assert a.schema == b.schema
    assert a.notes == b.notes == ()
    for name in ("labels", "times", "users", "domains", "fit", "validation", "train", "test"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for table, keys in a.ids.keys.items():
        np.testing.assert_array_equal(keys, b.ids.keys[table], err_msg=table)
    for field, codes in a.ids.ids.items():
        np.testing.assert_array_equal(codes, b.ids.ids[field], err_msg=field)
    for field, bag in a.ids.bags.items():
        np.testing.assert_array_equal(bag.codes, b.ids.bags[field].codes, err_msg=field)
        np.testing.assert_array_equal(bag.offsets, b.ids.bags[field].offsets, err_msg=field)
    for field, values in a.dense.items():
        np.testing.assert_array_equal(values, b.dense[field], err_msg=field)


def test_the_log_is_in_time_order_without_repeats(tmp_path: Path) -> None:
    got = KuaiRand(write_csv(tmp_path / "csv", log())).interactions()
    distinct = {tuple(row.values()) for row in log().to_pylist()}
    assert {tuple(row.values()) for row in got.to_pylist()} == distinct
    assert got.num_rows == len(distinct) == 400
    assert (np.diff(got["time_ms"].to_numpy()) >= 0).all()


def test_the_archives_data_folder_is_found(tmp_path: Path) -> None:
    write_csv(tmp_path / "KuaiRand-Pure" / "data", log())
    assert KuaiRand(tmp_path / "KuaiRand-Pure").interactions().num_rows == 400


def test_splits_follow_the_days(tmp_path: Path, run: RunConfig) -> None:
    data = dataset(write_csv(tmp_path / "csv", log()), run)
    days = data.log["date"].to_numpy()
    assert set(days[data.fit]) == {20220425, 20220504}
    assert set(days[data.validation]) == {20220505}
    assert set(days[data.train]) == {20220425, 20220504, 20220505}
    assert set(days[data.test]) == {20220506}
    labels = data.log["is_like"].to_numpy()
    np.testing.assert_array_equal(data.labels[:, data.schema.tasks.index("like")], labels)


def test_normalisation_is_of_training_rows_only(tmp_path: Path, run: RunConfig) -> None:
    data = dataset(write_csv(tmp_path / "csv", log()), run)
    spec = data.schema.field_by_name["duration_log"]
    values = np.log1p(data.log["duration_ms"].to_numpy()[data.train].astype(np.float64))
    assert spec.mean == pytest.approx(values.mean(), rel=1e-6)
    assert spec.std == pytest.approx(values.std(), rel=1e-6)


@pytest.mark.parametrize("outcome", ["play_time_ms", "comment_stay_time", "profile_stay_time", "is_like", "is_comment"])
def test_an_outcome_is_refused_as_an_input(tmp_path: Path, run: RunConfig, outcome: str) -> None:
    leaking = structs.replace(run.schema.field_by_name["duration_log"], column=outcome)
    fields = tuple(leaking if f.name == "duration_log" else f for f in run.schema.fields)
    schema = dataclasses.replace(run.schema, fields=fields)
    folder = write_csv(tmp_path / "csv", log())
    with pytest.raises(SchemaError, match=f"field 'duration_log' reads column '{outcome}': expected a column known be"):
        build_dataset(open_source(f"kuairand:{folder}"), schema, run.train)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("video_features_statistic", "counts outcomes of all days"),
        ("interactions", "expected a side table, got the log"),
        ("user_history_to_20220501", "expected a history that ends before the first training day 20220425"),
        ("nothing", "join 'history': expected the file nothing, got none"),
    ],
)
def test_a_join_that_leaks_or_is_not_there_is_refused(tmp_path: Path, run: RunConfig, file: str, message: str) -> None:
    joins = tuple(structs.replace(j, file=file) if j.name == "history" else j for j in run.schema.joins)
    schema = dataclasses.replace(run.schema, joins=joins)
    folder = write_csv(tmp_path / "csv", log())
    with pytest.raises(SchemaError, match=message):
        build_dataset(open_source(f"kuairand:{folder}"), schema, structs.replace(run.train, optional_joins=()))


def test_an_optional_join_that_is_not_there_is_left_out_and_noted(tmp_path: Path, run: RunConfig) -> None:
    table = log()
    late = table.filter(pa.array(table["date"].to_numpy() > 20220424))
    data = dataset(write_csv(tmp_path / "csv", late), run)
    assert data.notes == ("no user_history_to_20220424: trained without watched, watched_long, liked, history_len",)
    assert "watched" not in data.schema.field_by_name
    assert [j.name for j in data.schema.joins] == ["users", "videos"]


def test_a_missing_side_file_is_named(tmp_path: Path, run: RunConfig) -> None:
    folder = write_csv(tmp_path / "csv", log())
    (folder / "user_features_pure.csv").unlink()
    with pytest.raises(SchemaError, match=r"join 'users': expected the file user_features, got none"):
        dataset(folder, run)


def test_folders_that_are_no_kuairand(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"expected a folder, got .*nowhere"):
        KuaiRand(tmp_path / "nowhere")
    with pytest.raises(SchemaError, match=r"expected interactions\.parquet or log_standard_\*\.csv, got neither"):
        KuaiRand(tmp_path)
    folder = write_csv(tmp_path / "both", log())
    pa.csv.write_csv(log(), folder / "log_standard_4_22_to_5_08_1k.csv")
    with pytest.raises(SchemaError, match=r"expected one variant, got 1k, pure"):
        KuaiRand(folder)


def test_labels_other_than_0_and_1_are_refused(tmp_path: Path, run: RunConfig) -> None:
    table = log()
    likes = table["is_like"].to_numpy().copy()
    likes[:] = 2
    off = table.set_column(table.column_names.index("is_like"), "is_like", pa.array(likes))
    with pytest.raises(SchemaError, match=r"label column 'is_like': expected 0 or 1, got 2 at row 0"):
        dataset(write_csv(tmp_path / "csv", off), run)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "parquet", log())
    (folder / "interactions.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SchemaError, match=r"interactions\.parquet: expected parquet, got "):
        KuaiRand(folder).interactions()


@pytest.mark.parametrize("text", ["kuairand:", "kuairand", "synthetic:0", "synthetic:many", "movielens:x"])
def test_other_data_is_refused(text: str) -> None:
    with pytest.raises(SchemaError, match="data: expected kuairand:DIR, synthetic or synthetic:ROWS"):
        open_source(text)


@pytest.mark.parametrize("length", [1, 3, 50])
def test_a_history_keeps_the_last_videos_oldest_first(length: int) -> None:
    in_order = log().slice(0, 400).sort_by("time_ms")
    got = watch_history(in_order, length)
    assert got.to_pylist() == history(in_order, DAYS[-1], length).to_pylist()
    assert max(len(row) for row in got["watch_seq"].to_pylist()) == min(length, got["history_len"].to_numpy().max())


def test_a_missing_id_has_no_row_of_its_own(tmp_path: Path, run: RunConfig) -> None:
    data = dataset(write_csv(tmp_path / "csv", log()), run)
    keys = data.ids.keys["feat4"]
    assert keys[-1] == MISSING_KEY
    assert data.ids.sums("feat4", data.train, np.ones(len(data.train)))[-1] > 2
    known = data.ids.known(data.train, min_count=1)["feat4"]
    assert known.tolist() == list(range(len(keys) - 1))
