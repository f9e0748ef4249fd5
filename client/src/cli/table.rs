//! Tables without lines: easy on the eye, easy for `grep`, `awk` and `cut`.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

/// A column's heading; numbers stand right.
pub(super) enum Heading {
    Text(&'static str),
    Number(&'static str),
}

pub(super) fn table(headings: &[Heading]) -> Table {
    let mut table = Table::new();
    // Cells are never wrapped: a URL cut in two can't be copied.
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| match heading {
        Heading::Text(name) | Heading::Number(name) => Cell::new(name),
    }));
    for (index, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if matches!(heading, Heading::Number(_)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// The table's text, without the blanks that pad the last column.
pub(super) fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
