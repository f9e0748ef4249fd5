use super::*;
use arrow_array::{Int64Array, RecordBatchOptions, StringArray};
use std::sync::Arc;

fn table(batches: &[RecordBatch]) -> String {
    let mut out = Vec::new();
    let mut writer = Writer::new(Format::Table, &batches[0].schema(), &mut out).unwrap();
    for batch in batches {
        writer.write(batch, &mut out).unwrap();
    }
    writer.finish(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn texts(values: &[&str]) -> RecordBatch {
    RecordBatch::try_from_iter([("t", Arc::new(StringArray::from(values.to_vec())) as _)]).unwrap()
}

#[test]
fn control_characters_dont_break_lines() {
    assert_eq!(table(&[texts(&["a\nb\t\u{1b}c"])]), "t\na\\nb\\t\\u{1b}c\n");
}

#[test]
fn cells_are_cut_at_characters() {
    let exact = "é".repeat(CELL_WIDTH);
    let longer = "é".repeat(CELL_WIDTH + 1);
    let cut = "é".repeat(CELL_WIDTH - 1) + "…";
    assert_eq!(table(&[texts(&[&exact, &longer])]), format!("t\n{exact}\n{cut}\n"));
}

#[test]
fn many_rows_are_several_tables() {
    let rows: Vec<_> = (0..1500).map(i64::from).collect();
    let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(rows)) as _)]).unwrap();
    let text = table(&[batch]);
    let headings: Vec<_> = text.lines().enumerate().filter(|(_, line)| line.trim() == "n").map(|(at, _)| at).collect();
    assert_eq!(headings, [0, 1002]);
    assert_eq!(text.lines().count(), 1500 + 2 + 1);
}

#[test]
fn rows_without_columns_are_counted() {
    let options = RecordBatchOptions::new().with_row_count(Some(7));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    assert_eq!(table(&[batch]), "(7 rows without columns)\n");
}

#[test]
fn a_broken_pipe_stays_one_through_arrow() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for format in [Format::Csv, Format::Jsonl, Format::Table] {
        // More than any writer buffers: it breaks in the midst of rows.
        let batch = texts(&["a".repeat(40).as_str(); 5000]);
        let mut writer = Writer::new(format, &batch.schema(), &mut Gone).unwrap();
        let ended = writer.write(&batch, &mut Gone).and_then(|()| writer.finish(&mut Gone));
        assert!(matches!(ended, Err(Failure::BrokenPipe)), "{format:?}: {ended:?}");
    }
}
