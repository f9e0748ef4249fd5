use serde_json::Value;

use super::*;

/// The Python client says the same: both are held to the shared values.
#[test]
fn quality_is_as_shared() {
    let vectors: Value = serde_json::from_str(include_str!("../../../proto/vectors/order.json")).unwrap();
    let cases = vectors["quality"].as_array().unwrap();
    assert!(cases.len() > 5);
    for case in cases {
        let number = |name: &str| case[name].as_u64().unwrap();
        let mixing = Mixing {
            shuffle: match case["shuffle"].as_str().unwrap() {
                "none" => Shuffle::None,
                "row_groups" => Shuffle::RowGroups,
                _ => Shuffle::Rows,
            },
            row_groups: number("row_groups"),
            rows: number("rows"),
            block: number("block"),
            world: number("world"),
            batch: number("batch"),
        };
        match (mixing.variance_inflation(), case["variance_inflation"].as_f64()) {
            (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-9 * expected, "{case}: {found}"),
            (found, expected) => assert_eq!(found, expected, "{case}"),
        }
        assert_eq!(mixing.recommended_block(), number("recommended_block"), "{case}");
    }
}
