use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(log: &str, log_format: LogFormat, colour: bool) -> String {
    let kept = Kept::default();
    let writer = kept.clone();
    let settings = Settings { log: log.into(), log_format, ..Settings::default() };
    let subscriber = subscriber(&settings, colour, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let _span = tracing::info_span!("fill", row_group = 7).entered();
        tracing::info!(target: "roost_server::cache", bytes = 42, "fragment written");
        tracing::debug!(target: "roost_server::flight", "a detail");
    });
    let bytes = kept.0.lock().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn text_is_one_plain_line_an_event() {
    let text = logged("info", LogFormat::Text, false);
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in ["INFO", "roost_server::cache", "fragment written", "bytes=42", "fill{row_group=7}"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(logged("info", LogFormat::Text, true).contains('\u{1b}'));
}

#[test]
fn json_is_one_object_an_event() {
    let text = logged("info", LogFormat::Json, false);
    assert_eq!(text.lines().count(), 1, "{text}");
    let event: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(event["level"], "INFO");
    assert_eq!(event["message"], "fragment written");
    assert_eq!(event["bytes"], 42);
    assert_eq!(event["span"]["row_group"], 7);
}

#[test]
fn directives_choose_by_part() {
    assert_eq!(logged("warn", LogFormat::Text, false), "");
    let text = logged("warn,roost_server::flight=debug", LogFormat::Text, false);
    assert!(text.contains("a detail") && !text.contains("fragment written"), "{text}");
    let settings = Settings { log: "a=b=c".into(), ..Settings::default() };
    let message = subscriber(&settings, false, io::sink).err().unwrap().to_string();
    assert!(message.starts_with("log is a=b=c: "), "{message}");
}
