use super::*;

fn parse(text: &str) -> Result<String, Error> {
    text.parse::<NodeList>().map(|list| list.to_string())
}

#[test]
fn one_address_or_a_list_with_or_without_scheme() {
    for (text, expected) in [
        ("grpc://127.0.0.1:8815", "grpc://127.0.0.1:8815"),
        ("127.0.0.1:8815", "grpc://127.0.0.1:8815"),
        ("node-7.example:80", "grpc://node-7.example:80"),
        ("grpc://[::1]:9", "grpc://[::1]:9"),
        ("grpc+tcp://a:1/", "grpc://a:1"),
        (" grpc://a:1 , b:2,", "grpc://a:1,grpc://b:2"),
        ("grpc+unix:///run/roost.sock,a:1", "grpc+unix:///run/roost.sock,grpc://a:1"),
        ("grpc+unix:///a%20b%2C%25c", "grpc+unix:///a%20b%2C%25c"),
    ] {
        assert_eq!(parse(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn the_default_is_the_documented_one() {
    assert_eq!(NodeList::default().to_string(), DEFAULT_NODE);
}

#[test]
fn what_later_versions_will_support_is_refused_by_name() {
    for text in ["grpc+tls://a:1", "etcd://a:2379,b:2379/cluster"] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("not supported by this version"), "{error}");
        assert!(error.message().contains(text), "{error}");
    }
}

#[test]
fn what_is_no_address_is_refused_with_an_example() {
    for text in [
        "",
        " , ",
        "a",
        "grpc://a",
        "a:0",
        "a:99999",
        "http://a:1",
        "grpc://:1",
        "grpc://u@a:1",
        "a:1/x",
        "a:1?b",
        "a b:1",
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        assert!(error.message().contains(DEFAULT_NODE), "{error}");
    }
}

#[test]
fn a_socket_is_an_absolute_path() {
    let address: NodeAddress = "grpc+unix:///a%20b%2Cc/%C3%A4".parse().unwrap();
    assert_eq!(address.socket(), Some(Path::new("/a b,c/ä")));
    assert_eq!("grpc://a:1".parse::<NodeAddress>().unwrap().socket(), None);
    for text in
        ["grpc+unix://", "grpc+unix://run/roost.sock", "grpc+unix:///run/", "grpc+unix:///%ff", "grpc+unix:///a%00"]
    {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        assert!(error.message().contains(text) && error.message().contains("grpc+unix:///PATH"), "{error}");
    }
}
