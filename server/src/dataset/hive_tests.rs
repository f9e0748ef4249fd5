use super::*;

const BASE: &str = "s3://b/t/";

#[test]
fn values_are_decoded_and_null_is_null() {
    let url = "s3://b/t/year=2024/name=a%2520b/x=__HIVE_DEFAULT_PARTITION__/plain/p.parquet";
    let expected = [("year", Some("2024")), ("name", Some("a b")), ("x", None)];
    let expected: Vec<_> = expected.map(|(k, v)| (k.to_owned(), v.map(str::to_owned))).to_vec();
    assert_eq!(pairs(BASE, url), expected);
    assert!(pairs(BASE, "s3://b/t/p.parquet").is_empty());
    assert!(pairs(BASE, "s3://other/year=1/p.parquet").is_empty());
}

#[test]
fn a_key_is_an_integer_only_where_all_its_values_are() {
    let urls = ["s3://b/t/a=1/b=1/p", "s3://b/t/a=2/b=x/p"];
    let fields = fields(BASE, urls);
    let types: Vec<_> = fields.iter().map(|f| (f.name().as_str(), f.data_type().to_string())).collect();
    assert_eq!(types, [("a", "Dictionary(Int32, Int32)".to_owned()), ("b", "Dictionary(Int32, Utf8)".to_owned())]);
    let column = column(BASE, urls[1], &fields[0], 3).unwrap().unwrap();
    assert_eq!((column.len(), column.data_type()), (3, fields[0].data_type()));
}
