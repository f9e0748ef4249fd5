use super::*;

#[test]
fn urls_stay_and_paths_become_absolute() {
    let url = |text: &str| text.parse::<DatasetUrl>().unwrap().0;
    assert_eq!(url("s3://bucket/dir/*.parquet"), "s3://bucket/dir/*.parquet");
    assert_eq!(url("/data/100%/a b#1/*.parquet"), "file:///data/100%25/a%20b%231/*.parquet");
    let here = std::env::current_dir().unwrap();
    assert_eq!(url("x.parquet"), format!("file://{}/x.parquet", here.display()));
    assert!(url("./dir/").ends_with("/dir/"), "a prefix keeps its slash");
    assert!("".parse::<DatasetUrl>().is_err());
}

#[test]
fn columns_keep_their_order_and_none_is_not_all() {
    let names = |text: &str| text.parse::<Columns>().map(|columns| Projection::from(columns).names);
    assert_eq!(names("b, a").unwrap(), ["b", "a"]);
    assert_eq!(names("").unwrap(), Vec::<String>::new());
    assert!(names("a,,b").is_err());
    assert!(names("a,").is_err());
}
