use super::*;

#[test]
fn the_servers_message_is_kept_and_its_code_becomes_a_kind() {
    let cases = [
        (Code::InvalidArgument, ErrorKind::Invalid),
        (Code::NotFound, ErrorKind::NotFound),
        (Code::PermissionDenied, ErrorKind::PermissionDenied),
        (Code::Unauthenticated, ErrorKind::Unauthenticated),
        (Code::FailedPrecondition, ErrorKind::Stale),
        (Code::ResourceExhausted, ErrorKind::Exhausted),
        (Code::Unavailable, ErrorKind::Unavailable),
        (Code::DeadlineExceeded, ErrorKind::Timeout),
        (Code::Unimplemented, ErrorKind::Unsupported),
        (Code::DataLoss, ErrorKind::Corrupt),
        (Code::Cancelled, ErrorKind::Cancelled),
        (Code::Internal, ErrorKind::Internal),
    ];
    for (code, kind) in cases {
        let error = Error::from_status(Status::new(code, "s3://b/x: it is so"), &"grpc://n:1");
        assert_eq!((error.kind(), error.message()), (kind, "s3://b/x: it is so"));
        assert!(!error.is_broken());
        assert_eq!(error.is_worth_another_node(), kind == ErrorKind::Unavailable);
    }
}

#[test]
fn a_transport_failure_is_told_from_an_answer_and_names_node_and_cause() {
    let io = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset by peer");
    let error = Error::from_status(Status::from_error(Box::new(io)), &"grpc://n:1");
    assert!(error.is_broken() && !error.is_refused());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.message(), "the connection to grpc://n:1 broke: reset by peer");
}

#[test]
fn a_stream_without_a_final_status_counts_as_broken() {
    let error = Error::from_status(Status::unknown("missing grpc-status trailer"), &"grpc://n:1");
    assert!(error.is_broken());
    assert!(error.message().contains("missing grpc-status trailer"), "{error}");
}

#[test]
fn an_answer_without_a_message_still_says_who_answered_what() {
    let error = Error::from_status(Status::internal(""), &"grpc://n:1");
    assert_eq!(error.message(), "grpc://n:1 answered Internal without saying why");
}

#[test]
fn what_was_done_is_named_once() {
    let about = |message: &str| Error::internal(message).about("plan", "s3://b/x").to_string();
    assert_eq!(about("no footer"), "plan s3://b/x: no footer");
    assert_eq!(about("s3://b/x: no footer"), "s3://b/x: no footer");
    assert_eq!(Error::internal("no").about("stat", "").to_string(), "stat: no");
}
