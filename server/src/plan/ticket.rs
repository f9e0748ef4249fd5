//! PURE: tickets are signed, so that a node serves only what a node planned.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use roost_proto::v1::{BatchPosition, SignedTicket, TicketPayload};
use sha2::Sha256;

use crate::error::{Error, Result};

const MAC_BYTES: usize = 16;
/// Bytes of a ticket that are looked at: a page by path may pack thousands of objects into one.
pub const TICKET_MAX: usize = 16 << 20;

/// The keys that are live: the newest signs, all verify.
#[derive(Clone)]
pub struct TicketKeys {
    keys: Vec<(u32, Vec<u8>)>,
}

impl TicketKeys {
    /// One key. Its id is derived from it, so that a ticket of another node's key is told from a forged one.
    pub fn new(secret: &[u8]) -> Self {
        let mut id = [0; 4];
        id.copy_from_slice(&mac(secret, b"roost key id")[..4]);
        Self { keys: vec![(u32::from_le_bytes(id), secret.to_vec())] }
    }

    pub fn sign(&self, payload: &TicketPayload) -> Bytes {
        let payload = payload.encode_to_vec();
        let (key_id, key) = &self.keys[0];
        let mac = mac(key, &payload)[..MAC_BYTES].to_vec();
        let ticket = SignedTicket { key_id: *key_id, mac: mac.into(), payload: payload.into(), after: None };
        ticket.encode_to_vec().into()
    }

    /// The payload of a ticket that a live key signed, and where its reader wants to resume.
    pub fn verify(&self, ticket: &Bytes) -> Result<(TicketPayload, Option<BatchPosition>)> {
        if ticket.len() > TICKET_MAX {
            return Err(Error::invalid(format!("a ticket of {} bytes; the most is {TICKET_MAX}", ticket.len())));
        }
        let garbled = || Error::invalid("this is no ticket of Roost: use the bytes that GetFlightInfo answered");
        let signed = SignedTicket::decode(ticket.clone()).map_err(|_| garbled())?;
        if signed.mac.len() != MAC_BYTES {
            return Err(garbled());
        }
        let (_, key) = self.keys.iter().find(|(id, _)| *id == signed.key_id).ok_or_else(|| {
            Error::stale("the ticket was signed with a key that this node does not have (any more): make a new plan")
        })?;
        keyed(key)
            .chain_update(&signed.payload)
            .verify_truncated_left(&signed.mac)
            .map_err(|_| Error::invalid("the ticket was altered: its signature does not match"))?;
        let payload = TicketPayload::decode(signed.payload).map_err(|_| garbled())?;
        Ok((payload, signed.after))
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of any length.
    Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC refused a key"))
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    keyed(key).chain_update(message).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn payload() -> TicketPayload {
        TicketPayload { dataset: "s3://b/d/".into(), job: "j".into(), ..Default::default() }
    }

    #[test]
    fn only_what_was_signed_verifies() {
        let keys = TicketKeys::new(b"secret");
        let ticket = keys.sign(&payload());
        assert_eq!(keys.verify(&ticket).unwrap(), (payload(), None));
        for at in 0..ticket.len() {
            let mut altered = ticket.to_vec();
            altered[at] ^= 1;
            if let Ok((found, _)) = keys.verify(&altered.into()) {
                assert_eq!(found, payload(), "byte {at}");
            }
        }
        let other = TicketKeys::new(b"other");
        assert_eq!(other.verify(&ticket).unwrap_err().kind(), ErrorKind::Stale);
        assert_eq!(keys.verify(&Bytes::from_static(b"nonsense")).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(keys.verify(&Bytes::new()).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_reader_adds_where_it_resumes() {
        let keys = TicketKeys::new(b"secret");
        let mut signed = SignedTicket::decode(keys.sign(&payload())).unwrap();
        let position = BatchPosition { piece: 1, batch: 2, row_group: 3 };
        signed.after = Some(position);
        assert_eq!(keys.verify(&signed.encode_to_vec().into()).unwrap(), (payload(), Some(position)));
    }
}
