//! What a header says of the client's TLS with the proxy (§2.2.6).
use super::{ProxyError, Tlvs, kind};
use crate::cursor::Cursor;

/// PP2_CLIENT_SSL: the client came over TLS.
const OVER_TLS: u8 = 0x01;

/// PP2_CLIENT_CERT_CONN and PP2_CLIENT_CERT_SESS: it has shown a certificate, in this connection or
/// before in the same TLS session.
const CERTIFICATE: u8 = 0x02 | 0x04;

/// The value of PP2_TYPE_SSL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ssl<'a> {
    /// The client came over TLS, has shown a certificate, and the proxy found that good.
    pub verified: bool,
    /// What else is said: [`kind::SSL_VERSION`] and so on.
    pub tlvs: Tlvs<'a>,
}

impl<'a> Ssl<'a> {
    /// The common name of the client's certificate, if the proxy found that good.
    pub fn common_name(&self) -> Option<&'a [u8]> {
        self.tlvs.find(kind::SSL_CN).filter(|_| self.verified)
    }

    pub(super) fn read(value: &'a [u8]) -> Result<Self, ProxyError> {
        let mut cursor = Cursor(value);
        let (Some(client), Some(verify)) = (cursor.u8(), cursor.array()) else {
            return Err(ProxyError::Ssl);
        };
        let over_tls = client & OVER_TLS != 0;
        // 0 says that nothing was wrong, which is so without a certificate too.
        let verified = over_tls && client & CERTIFICATE != 0 && verify == [0; 4];
        Ok(Self { verified, tlvs: Tlvs::walk(cursor.0, |_, _| Ok(()))? })
    }
}
