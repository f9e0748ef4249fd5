use super::*;
use crate::testing::Fault;
use arrow_array::builder::{Int64Builder, ListBuilder};
use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use arrow_ipc::reader::StreamReader;
use serde_json::json;
use std::sync::Arc;
use tonic::Status;

#[tokio::test]
async fn a_table_of_20_rows_unless_asked_otherwise() {
    let fake = Fake::new(1, 1);
    let ended = roost("cat s3://bucket/train/", &fake).await;
    assert_eq!((ended.exit, ended.err.as_str()), (Exit::Success, ""));
    let lines: Vec<_> = ended.out().lines().collect();
    assert_eq!(lines.len(), 11);
    assert_eq!(lines[0], "id  label    caption");
    assert_eq!(lines[2], " 1  label 1  null");
    assert_eq!(lines[3], " 2  label 2  xx");
    assert_eq!(fake.state().plans[0].limit, Some(20));
}

#[tokio::test]
async fn limit_and_columns_are_the_plans() {
    let fake = Fake::new(1, 1);
    roost("cat s3://bucket/train/ --limit 0 --columns b,a", &fake).await;
    roost("cat s3://bucket/train/ --limit 3", &fake).await;
    let plans = fake.state().plans.clone();
    assert_eq!((plans[0].limit, plans[1].limit), (None, Some(3)));
    assert_eq!(plans[0].columns.clone().unwrap().names, ["b", "a"]);
    assert_eq!(plans[1].columns, None);
}

#[tokio::test]
async fn csv_has_one_header_and_every_row() {
    let ended = roost("cat s3://bucket/train/ --format csv", &Fake::new(2, 2)).await;
    let lines: Vec<_> = ended.out().lines().collect();
    assert_eq!(lines.len(), 41);
    assert_eq!((lines[0], lines[2], lines[40]), ("id,label,caption", "1,label 1,", "39,label 39,"));
    assert_eq!(lines.iter().filter(|line| line.contains("caption")).count(), 1);
}

#[tokio::test]
async fn json_lines_have_every_field_also_where_null() {
    let fake = Fake::new(2, 2);
    let ended = roost("cat s3://bucket/train/ --format jsonl", &fake).await;
    let documents = ended.json();
    assert_eq!(documents.len(), 40);
    assert_eq!(documents[39], json!({"id": 39, "label": "label 39", "caption": null}));
    assert_eq!(roost("cat s3://bucket/train/ --json", &fake).await.out, ended.out);
}

#[tokio::test]
async fn arrow_is_a_stream_with_all_batches() {
    let fake = Fake::new(2, 2);
    let ended = roost("cat s3://bucket/train/ --format arrow", &fake).await;
    let reader = StreamReader::try_new(ended.out.as_slice(), None).unwrap();
    assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), fake.batches());
}

#[tokio::test]
async fn no_rows_still_have_a_header_or_a_schema() {
    let schema = Fake::new(1, 1).batches()[0].schema();
    let fake = Fake::of(schema.clone(), vec![]);
    assert_eq!(roost("cat s3://bucket/train/", &fake).await.out(), "id  label  caption\n");
    assert_eq!(roost("cat s3://bucket/train/ --format csv", &fake).await.out(), "id,label,caption\n");
    assert_eq!(roost("cat s3://bucket/train/ --format jsonl", &fake).await.out(), "");
    let stream = roost("cat s3://bucket/train/ --format arrow", &fake).await.out;
    assert_eq!(StreamReader::try_new(stream.as_slice(), None).unwrap().schema(), schema);
}

fn one_column(name: &str, column: ArrayRef) -> Fake {
    let batch = RecordBatch::try_from_iter([(name, column)]).unwrap();
    Fake::of(batch.schema(), vec![vec![batch]])
}

#[tokio::test]
async fn long_values_are_cut_in_tables_alone() {
    let image = vec![7u8; 1 << 20];
    let fake = one_column("image", Arc::new(BinaryArray::from(vec![image.as_slice()])));
    let table = roost("cat s3://bucket/train/", &fake).await;
    let cell = table.out().lines().nth(1).unwrap();
    assert_eq!(cell.chars().count(), 48);
    assert!(cell.starts_with("0707") && cell.ends_with('…'), "{cell}");
    let lines = roost("cat s3://bucket/train/ --json", &fake).await.json();
    assert_eq!(lines[0]["image"].as_str().unwrap().len(), 2 << 20);
}

#[tokio::test]
async fn nested_columns_are_refused_in_csv_and_fine_elsewhere() {
    let mut lists = ListBuilder::new(Int64Builder::new());
    lists.append_value([Some(1), None]);
    let fake = one_column("boxes", Arc::new(lists.finish()));
    let ended = roost("cat s3://bucket/train/ --format csv", &fake).await;
    assert_eq!((ended.exit, ended.exit.code()), (Exit::Usage, 2));
    assert!(ended.err.contains("\"boxes\"") && ended.err.contains("jsonl"), "{}", ended.err);
    assert_eq!(roost("cat s3://bucket/train/ --json", &fake).await.json(), [json!({"boxes": [1, null]})]);
    assert_eq!(roost("cat s3://bucket/train/", &fake).await.out(), "boxes\n[1, null]\n");
}

#[tokio::test]
async fn a_reader_that_has_enough_ends_it_quietly() {
    let fake = Fake::new(50, 2);
    let node = fake.serve().await;
    for format in ["table", "csv", "jsonl", "arrow"] {
        fake.state().gets.clear();
        let line = format!("cat s3://bucket/train/ --limit 0 --format {format}");
        let (exit, err) = roost_to(BrokenPipe(2000), &line, &node.address.to_string()).await;
        assert_eq!((exit, err.as_str()), (Exit::Success, ""), "{format}");
        // A table is laid out as a whole; the others end with the reader.
        let gets = fake.state().gets.len();
        assert!(format == "table" || gets < 40, "{format} went on for {gets} tickets");
    }
}

#[tokio::test]
async fn a_failure_in_the_midst_is_1_whatever_was_printed() {
    let fake = Fake::new(1, 4);
    fake.state().faults.push_back(Fault::BreakAfter(2, Status::data_loss("part-0.parquet: a page is damaged")));
    let ended = roost("cat s3://bucket/train/ --json", &fake).await;
    assert_eq!(ended.exit, Exit::Failed);
    assert_eq!(ended.json().len(), 20);
    assert!(ended.err.contains("a page is damaged"), "{}", ended.err);
}

#[tokio::test]
async fn rows_are_the_same_mapped_and_streamed() {
    let fake = Fake::new(2, 2);
    let door = fake.open_door();
    let mapped = roost("cat s3://bucket/train/ --limit 0 --json", &fake).await;
    assert_eq!((mapped.json().len(), door.state().asked.len(), fake.state().gets.len()), (40, 2, 0));
    let streamed = roost("cat s3://bucket/train/ --limit 0 --json --maps off", &fake).await;
    assert_eq!((streamed.out == mapped.out, fake.state().gets.len()), (true, 2));
}
