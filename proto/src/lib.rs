//! Messages of Roost's public protocol. The contract is the commented `roost/v1/roost.proto` beside this file.

#[allow(missing_docs, reason = "generated code; the .proto documents it")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/roost.v1.rs"));
}
