from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workflows.errors import RunFolderError
from workflows.storage.tables import ROW_GROUP, SCHEMAS, SORT_KEYS, read_table, schema_markdown, write_table
from workflows.storage.verifying import damage

HOUSE = {
    "images": "image path split label label_name predicted predicted_name probability status reason",
    "nodes": "graph scope criterion layer word rank score positions share chosen_again dominant_class dominant_share",
    "edges": "graph scope criterion upper_layer upper_word lower_layer lower_word count relative_frequency log_ratio "
    "log_ratio_low log_ratio_high images score drawn",
    "words": "scope layer word pi columns images dominant_class dominant_share reseeded",
    "exemplars": "scope layer word rank image y x posterior log_joint x0 y0 x1 y1 label",
    "pairs": "scope class upper_layer upper_word lower_layer lower_word count log_ratio log_ratio_low "
    "log_ratio_high network",
    "heatmaps": "graph scope criterion upper_layer upper_word lower_layer lower_word height width "
    "row_offset column_offset counts inside",
    "layers": "scope layer units words used dominant_share distance_within distance_between ratio "
    "column_dominant_share column_ratio",
    "paths": "image scope level layer word log_probability path_log_probability runner_up runner_up_log_odds",
    "transitions": "scope upper_layer upper_word lower_layer lower_word probability train_images validation_images",
    "triage": "image scope split label label_name predicted predicted_name junction level lower_layer lower_word "
    "upper_layer upper_word expected_word log_odds",
    "junctions": "scope rank junction level lower_layer lower_word upper_layer errors share cumulative_share "
    "train_errors correct_leaving images mean_log_odds label_name predicted_name confusions",
    "history": "scope layer restart step epoch columns held_out_log_likelihood train_log_likelihood "
    "held_out_full reseeded empty",
    "errors": "scope layer words loss histogram images errors error network_errors network_error difference "
    "difference_low difference_high tie",
    "decisions": "scope layer words image label network_label discriminative_soft discriminative_hard "
    "generative_soft generative_hard",
    "sweep": "scope layer given words loss histogram columns log_likelihood held_out_log_likelihood parameters bic "
    "images errors error network_errors network_error tie fewer_words",
    "boxes": "graph scope layer word rank part source images images_without positions inside share share_low "
    "share_high area",
    "units": "layer unit quantile threshold above mean sd concept category iou detector",
    "unit_concepts": "layer unit quantile rank concept category iou iou_lite mask_share concept_share cap",
    "word_concepts": "scope layer word rank concept category iou iou_lite mask_share concept_share cap detector",
    "word_units": "scope layer word unit z rank",
    "unions": "scope layer masks concept category size member threshold iou_chosen iou iou_low iou_high difference "
    "difference_low difference_high images_chosen images_judged",
    "relevance": "class class_name layer depth unit signed absolute masked measure share specific activation split "
    "images masked_images",
    "relevance_completeness": "layer depth kind is_cut units images error_lower error_median error_upper",
    "relevance_agreement": "class class_name layer depth concept units detectors overlap correlation "
    "activation_overlap activation_correlation chance",
    "ablations": "class class_name layers ranking selection draw replaced_by share silenced units silenced_share "
    "own_images own_before own_accuracy own_accuracy_low own_accuracy_high own_fall own_fall_low "
    "own_fall_high others_images others_before others_accuracy others_accuracy_low others_accuracy_high "
    "others_fall others_fall_low others_fall_high",
    "unit_classes": "layer depth unit class class_name rank share signed effect classes helped hurt",
    "selections": "image class class_name layer metric top rank unit score null_score retest retest_null chance "
    "unstable activation y x x0 y0 x1 y1 touches overlap object_share checkpoint",
    "selection_means": "class class_name layer metric top selected_for objects checkpoint images retest retest_low "
    "retest_high retest_null retest_null_low retest_null_high chance unstable layer_score "
    "layer_null_score without_variance patches without_patch touch touch_low touch_high touch_difference "
    "touch_difference_low touch_difference_high overlap overlap_low overlap_high overlap_difference "
    "overlap_difference_low overlap_difference_high",
    "secondary": "metric top checkpoint images patches accuracy accuracy_low accuracy_high majority",
    "selection_epochs": "checkpoint compared layer metric top images agreement agreement_low agreement_high chance",
    "patterns": "class class_name top layer unit pattern y x sd mass score objects parents log_likelihood",
    "pattern_edges": "class top layer unit pattern parent_layer parent_unit parent_pattern dy dx sd weight",
    "pattern_places": "class top image object layer unit pattern y x score photo_y photo_x",
    "pattern_objects": "class class_name object image x0 y0 x1 y1 mirrored margin learned",
    "pattern_measures": "class top layer source part objects pairs stability stability_low stability_high follow "
    "follow_low follow_high place_purity purity",
    "pattern_words": "class top layer unit pattern scope word_layer word rank objects share constant_share "
    "object_share log_ratio",
    "pattern_word_measures": "class top layer scope word_layer part source patterns share share_low share_high "
    "log_ratio log_ratio_low log_ratio_high part_log_ratio part_log_ratio_low part_log_ratio_high",
    "pattern_edge_words": "class top layer parent_layer scope word_layer parent_word_layer source pairs in_graph "
    "in_graph_low in_graph_high in_graph_difference in_graph_difference_low in_graph_difference_high log_ratio "
    "log_ratio_low log_ratio_high log_ratio_difference log_ratio_difference_low log_ratio_difference_high",
    "pattern_synthesis": "class top layer source objects responses psnr psnr_low psnr_high",
    "templates": "class class_name part learn triple method voters object image layer unit pattern word dy dx weight",
    "locations": "class class_name part learn triple method voters object image y x votes annotated tested true_y "
    "true_x error",
    "location_errors": "class class_name part learn triple method voters objects distance near",
    "effects": "scope class class_name layer is_cut criterion intervention top selection words half column_share "
    "score_share drop drop_low drop_high excess excess_low excess_high behind behind_low behind_high draws images",
    "effect_curves": "scope class class_name layer intervention ranking direction k kept area words images",
    "edge_effects": "scope class class_name upper_layer upper_word lower_layer lower_word intervention lost control "
    "excess excess_low excess_high positions images",
    "completeness": "scope class class_name layer is_cut kind accuracy accuracy_low accuracy_high network_accuracy "
    "same_decision same_decision_low same_decision_high recovered recovered_low recovered_high images",
    "word_effects": "scope class class_name layer is_cut word columns score in_graph first_order_shift "
    "first_order_mean drop_shift drop_shift_low drop_shift_high drop_mean drop_mean_low drop_mean_high control_shift "
    "control_mean images",
    "shortcuts": "scope class class_name rank layer is_cut word in_graph intervention used looks weight image_share "
    "other_share log_ratio positional_entropy share_on_object drop drop_low drop_high control columns images",
    "agreement": "scope class class_name layer other_layer run other_run images words other_words matched_share "
    "matched_chance same_share word_iou word_iou_chance columns_iou columns_iou_low columns_iou_high columns_chance "
    "columns_shuffled",
    "word_matches": "scope layer other_layer run other_run word other_word iou columns other_columns",
    "consensus": "scope class class_name run layer word rank images columns runs covered_runs covered_share "
    "columns_covered columns_chance stable",
}
KEYS = {"image": pa.int64(), "word": pa.int32(), "layer": pa.string(), "scope": pa.string(), "graph": pa.string()}


def node(graph: str, word: int, **changes: Any) -> dict[str, Any]:
    row = {
        "graph": graph,
        "scope": "joint",
        "criterion": "likelihood",
        "layer": "add2",
        "word": word,
        "rank": 0,
        "score": 1.5,
    }
    return {**row, "positions": 3, "share": 0.25, **changes}


def test_the_public_contract_has_every_promised_column() -> None:
    assert set(HOUSE) == set(SCHEMAS) == set(SORT_KEYS)
    for table, columns in HOUSE.items():
        promised = columns.split()
        assert [name for name in SCHEMAS[table].names if name in promised] == promised, table
        for field in SCHEMAS[table]:
            assert field.metadata[b"description"], f"{table}.{field.name}"
            assert b"unit" in field.metadata
            if field.name in KEYS:
                assert field.type == KEYS[field.name]


def test_no_column_bears_a_word_that_sql_reserves() -> None:
    """DuckDB's own list, and that every name stands bare wherever a query has it; BETWEEN is reserved by ISO 9075."""
    category = "select keyword_name from duckdb_keywords() where keyword_category = 'reserved'"
    reserved = {name for (name,) in duckdb.sql(category).fetchall()} | {"between"}
    assert "order" in reserved
    for table, schema in SCHEMAS.items():
        assert not reserved & set(schema.names), table
        duckdb.register("bare", schema.empty_table())
        for name in schema.names:
            query = f"select {name}, count({name}) as n from bare as b where b.{name} is not null group by {name}"
            duckdb.sql(f"{query} order by {name}").fetchall()
            duckdb.sql(f"select x as {name} from (select 1 as x)").fetchall()
        duckdb.unregister("bare")


def test_layers_of_version_0_are_read_by_their_names_of_today(tmp_path: Path) -> None:
    old = pa.table({"scope": ["joint"] * 2, "layer": ["a", "b"], "within": [1.0, 2.0], "between": [3.0, 4.0]})
    pq.write_table(old, tmp_path / "layers.parquet")
    found = read_table(tmp_path / "layers.parquet", ["distance_between", "layer"], [("distance_within", ">", 1.5)])
    assert found.to_pylist() == [{"distance_between": 4.0, "layer": "b"}]
    assert read_table(tmp_path / "layers.parquet").column_names[2:] == ["distance_within", "distance_between"]


def test_the_documentation_lists_every_column() -> None:
    text = schema_markdown()
    for table, schema in SCHEMAS.items():
        section = text.split(f"### {table}.parquet")[1].split("###")[0]
        for field in schema:
            assert f"| `{field.name}` | {field.type}" in section
    assert "| `score` | double | bits x count | IG Eq. 16" in text
    assert all(line.count("|") - line.count("\\|") == 5 for line in text.splitlines() if line.startswith("| "))


def test_records_columns_and_tables_write_the_same_file(tmp_path: Path) -> None:
    records = [node("class:1", 4, dominant_class=None), node("class:0", 7)]
    columns = {name: [row.get(name) for row in records] for name in records[0]}
    table = pa.Table.from_pylist(records)
    for number, rows in enumerate((records, columns, table)):
        write_table(tmp_path / f"{number}.parquet", rows, "nodes", network="resnet20")
    tables = [read_table(tmp_path / f"{number}.parquet") for number in range(3)]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert tables[0].schema.equals(SCHEMAS["nodes"])
    assert tables[0].column("dominant_class").to_pylist() == [None, None]
    assert tables[0].column("network").to_pylist() == ["resnet20", "resnet20"]


def test_rows_are_sorted_by_the_key_and_else_keep_their_order(tmp_path: Path) -> None:
    records = [node(f"class:{i % 3}", i) for i in range(50)]
    write_table(tmp_path / "nodes.parquet", records, "nodes")
    back = read_table(tmp_path / "nodes.parquet", columns=["graph", "word"]).to_pylist()
    expected = sorted(({"graph": row["graph"], "word": row["word"]} for row in records), key=lambda row: row["graph"])
    assert back == expected
    write_table(tmp_path / "nodes.parquet", records, "nodes", sort_by=())
    assert read_table(tmp_path / "nodes.parquet").column("word").to_pylist() == list(range(50))
    write_table(tmp_path / "nodes.parquet", records, "nodes", sort_by=("word",))
    assert read_table(tmp_path / "nodes.parquet").column("word").to_pylist() == list(range(50))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"graph": "class:1"}], "table nodes: column scope is required"),
        ([node("class:1", 3, colour="red")], "table nodes: no such column colour; it has graph, scope"),
        ([node("class:1", 3, score=None)], r"table nodes: column score must not be null \(1 rows are\)"),
        ([node("class:1", "three")], "table nodes: column word must be int32"),  # type: ignore[arg-type]
        ([node("class:1", 2**40)], "table nodes: column word must be int32"),
    ],
)
def test_rows_that_break_the_contract_are_refused(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    path = tmp_path / "nodes.parquet"
    write_table(path, [node("class:9", 9)], "nodes")
    with pytest.raises(ValueError, match=words):
        write_table(path, rows, "nodes")
    assert read_table(path).column("word").to_pylist() == [9], "the earlier file stays"
    assert [entry.name for entry in tmp_path.iterdir()] == ["nodes.parquet"]


def test_an_empty_table_has_its_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "edges.parquet", [], "edges")
    back = read_table(tmp_path / "edges.parquet")
    assert back.num_rows == 0
    assert back.schema.equals(SCHEMAS["edges"])


def test_a_schema_of_the_caller_and_metadata(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("image", pa.int64(), nullable=False), pa.field("note", pa.string())])
    write_table(tmp_path / "p.parquet", [{"image": 3}], schema, metadata={"run": "toy"})
    back = read_table(tmp_path / "p.parquet")
    assert back.to_pylist() == [{"image": 3, "note": None}]
    assert back.schema.metadata[b"run"] == b"toy"


def test_files_have_row_groups_that_a_filter_skips(tmp_path: Path) -> None:
    rows = ROW_GROUP + 10
    columns = {"image": list(range(rows))[::-1], "note": ["x"] * rows}
    schema = pa.schema([pa.field("image", pa.int64(), nullable=False), pa.field("note", pa.string())])
    write_table(tmp_path / "p.parquet", columns, schema, sort_by=("image",))
    with pq.ParquetFile(tmp_path / "p.parquet") as file:
        assert file.metadata.num_row_groups == 2
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
        assert file.metadata.row_group(1).column(0).statistics.min == ROW_GROUP
    found = read_table(tmp_path / "p.parquet", filters=[("image", ">=", rows - 2)])
    assert found.column("image").to_pylist() == [rows - 2, rows - 1]


def test_duckdb_sees_the_declared_types(tmp_path: Path) -> None:
    heat = {"graph": "class:1", "scope": "joint", "upper_layer": "output", "upper_word": 1, "lower_layer": "add8"}
    heat |= {"criterion": "likelihood", "lower_word": 2, "height": 1, "width": 2, "row_offset": 0, "column_offset": 0}
    write_table(tmp_path / "heatmaps.parquet", [{**heat, "counts": [3, 4], "inside": [5, 6]}], "heatmaps")
    with duckdb.connect() as base:
        rows = base.execute(
            "select typeof(upper_word), typeof(counts), list_sum(counts) from read_parquet(?)",
            [str(tmp_path / "heatmaps.parquet")],
        ).fetchall()
    assert rows == [("INTEGER", "BIGINT[]", 7)]


def test_missing_and_truncated_files_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"table .*nodes.parquet.* is missing: run the stage"):
        read_table(tmp_path / "nodes.parquet")
    write_table(tmp_path / "nodes.parquet", [node("class:9", 9)], "nodes")
    content = (tmp_path / "nodes.parquet").read_bytes()
    (tmp_path / "nodes.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(RunFolderError, match=r"nodes.parquet.* is damaged"):
        read_table(tmp_path / "nodes.parquet")


def test_a_flipped_bit_is_told_by_reading_and_by_verify(tmp_path: Path) -> None:
    path = tmp_path / "made.parquet"
    values = np.random.default_rng(0).integers(0, 1 << 60, 1000)
    write_table(path, {"value": values}, pa.schema([("value", pa.int64())]), sort_by=())
    assert damage(path) is None
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"made.parquet' is damaged .*: delete it and run again"):
        read_table(path)
    assert damage(path) == ()
