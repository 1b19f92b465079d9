//! TLS to the proxy itself: certificates read from PEM, clients asked for theirs, and why a handshake failed.

use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, Error, RootCertStore, ServerConfig};

use crate::Loss;

/// Sessions that one listener remembers, so that clients come back without a whole handshake.
const SESSIONS: usize = 4096;

/// What a listener's TLS is made from, in PEM.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// The certificate, then those that lead to its root.
    pub certificate: &'a [u8],
    pub key: &'a [u8],
    /// Roots of clients' certificates; without them no client is asked for one.
    pub client_ca: Option<&'a [u8]>,
    /// A client without a certificate is turned away.
    pub client_required: bool,
    /// HTTP/2 may be chosen (RFC 7301), and HTTP/1.1.
    pub http: bool,
}

impl std::fmt::Debug for Files<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files(..)")
    }
}

/// Which of the files is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Certificate,
    Key,
    ClientCa,
}

impl Trouble {
    /// The key of the policy language that names the file.
    pub fn key(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Key => "key",
            Self::ClientCa => "client_ca",
        }
    }
}

/// Why no TLS can be made from the files. Says nothing of what is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsProblem {
    pub which: Trouble,
    pub message: String,
    pub fix: &'static str,
}

/// A listener's TLS, ready to serve.
#[derive(Debug, Clone)]
pub struct ServerTls(pub(crate) Arc<ServerConfig>);

impl ServerTls {
    /// Reads the files and checks that they belong together.
    ///
    /// # Errors
    /// See [`TlsProblem`].
    pub fn new(files: Files<'_>) -> Result<Self, TlsProblem> {
        let chain = certificates(files.certificate, Trouble::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(files.key).map_err(|error| TlsProblem {
            which: Trouble::Key,
            message: match error {
                pem::Error::NoItemsFound => "the file holds no private key in PEM",
                _ => "the file is not sound PEM",
            }
            .to_owned(),
            fix: "name a file with an unencrypted `-----BEGIN PRIVATE KEY-----`",
        })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| problem(Trouble::Certificate, &error))?;
        let builder = match files.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(pem, Trouble::ClientCa)? {
                    roots.add(root).map_err(|error| problem(Trouble::ClientCa, &error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier =
                    if files.client_required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| TlsProblem {
                    which: Trouble::ClientCa,
                    message: format!("clients cannot be verified by it: {error}"),
                    fix: "name a file with the roots of the clients' certificates",
                })?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            Error::InconsistentKeys(_) => TlsProblem {
                which: Trouble::Key,
                message: "the private key is not that of the certificate".to_owned(),
                fix: "name the key that the first certificate of the file was issued for",
            },
            Error::General(_) => TlsProblem {
                which: Trouble::Key,
                message: "this kind of private key cannot be used".to_owned(),
                fix: "use an ECDSA (P-256, P-384), Ed25519 or RSA (2048 bits or more) key",
            },
            other => problem(Trouble::Certificate, &other),
        })?;
        if files.http {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        if files.client_ca.is_some() {
            // A certificate is verified anew in each handshake: one that has expired meanwhile is not let in by a ticket.
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS);
        }
        // Early data may be replayed (RFC 8446, section 8): a CONNECT in it would be opened twice.
        config.max_early_data_size = 0;
        Ok(Self(Arc::new(config)))
    }
}

fn certificates(pem: &[u8], which: Trouble) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let fix = "name a file of `-----BEGIN CERTIFICATE-----` sections";
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsProblem { which, message: "the file is not sound PEM".to_owned(), fix })?;
    if all.is_empty() {
        let message = "the file holds no certificate in PEM".to_owned();
        return Err(TlsProblem { which, message, fix });
    }
    Ok(all)
}

fn problem(which: Trouble, error: &Error) -> TlsProblem {
    TlsProblem {
        which,
        message: format!("the certificate cannot be used: {error}"),
        fix: "name a file of sound X.509 certificates",
    }
}

/// Why a handshake came to nothing.
pub(crate) fn loss(error: &std::io::Error) -> Loss {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return Loss::Left;
    };
    match tls {
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => Loss::NotAccepted,
        Error::NoCertificatesPresented => Loss::Malformed("client_certificate_missing"),
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => Loss::Malformed("client_certificate_expired"),
        Error::InvalidCertificate(_) => Loss::Malformed("client_certificate_bad"),
        Error::NoApplicationProtocol => Loss::Malformed("tls_alpn"),
        // The client has refused ours.
        Error::AlertReceived(_) => Loss::Malformed("tls_alert_of_client"),
        Error::PeerIncompatible(_) => Loss::Malformed("tls_nothing_in_common"),
        _ => Loss::Malformed("tls_handshake"),
    }
}

/// The SPIFFE ID of a verified client certificate: its URI, if that is the only one and names more than the trust domain
/// (X509-SVID, sections 2 and 3.2). Whether it is well formed is for the policy to say.
pub(crate) fn spiffe_id(certificates: Option<&[CertificateDer<'_>]>) -> Option<Arc<str>> {
    let certificate = webpki::EndEntityCert::try_from(certificates?.first()?).ok()?;
    let mut uris = certificate.valid_uri_names();
    let uri = uris.next()?;
    let only = uris.next().is_none();
    let path = uri.strip_prefix("spiffe://").is_some_and(|rest| rest.contains('/'));
    (only && path).then(|| uri.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_told_by_the_file_that_is_to_blame() {
        let files = Files {
            certificate: b"x",
            key: b"x",
            client_ca: None,
            client_required: false,
            http: true,
        };
        let problem = ServerTls::new(files).unwrap_err();
        assert_eq!(
            (problem.which, problem.message.as_str()),
            (Trouble::Certificate, "the file holds no certificate in PEM")
        );
    }
}
