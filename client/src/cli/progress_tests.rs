use std::io;
use std::sync::Arc;

use indicatif::TermLike;
use parking_lot::Mutex;

use super::*;

/// A terminal of 80 columns that keeps what was drawn.
#[derive(Debug, Clone, Default)]
struct Terminal(Arc<Mutex<String>>);

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        80
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.lock().push_str(text);
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.write_line(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.lock().clear();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_bar_tells_bytes_rows_rate_and_time_left_in_80_columns() {
    let terminal = Terminal::default();
    let bar = bar("epoch 10".into(), 1_900_000_000);
    bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
    show(&bar, 950_000_000, 12_300_000);
    bar.force_draw();
    let drawn = terminal.0.lock().clone();
    let line = drawn.trim_end();
    assert!(line.starts_with("epoch 10 [========>       ] 950 MB of 1.9 GB, 12.3 M rows, "), "{line:?}");
    assert!(line.contains("/s, ") && line.ends_with(" left"), "{line:?}");
    assert!(line.chars().count() <= 80, "{line:?}");
}
