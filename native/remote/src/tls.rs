//! The option `:tls`: an encrypted connection to a server that shows who it is.

use std::fmt::Display;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use serde::Deserialize;

use crate::{Error, Reason};

/// What the option says.
#[derive(Clone, Debug, Deserialize)]
pub struct Tls {
    /// A file of certificates (PEM), one of which must have signed the server's; by default those that the system trusts.
    pub cacertfile: Option<String>,
    /// The client's own certificate (PEM), for a server that asks for one.
    pub certfile: Option<String>,
    /// Its key (PEM).
    pub keyfile: Option<String>,
    /// Whether the certificate must name the server's address.
    pub verify_host: bool,
}

impl Tls {
    /// As rustls takes it.
    pub fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(self.roots()?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
        let verifier = verifier.map_err(|error| wrong("cacertfile", error))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("cacertfile", error))?;
        let builder = if self.verify_host {
            builder.with_webpki_verifier(verifier)
        } else {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyHost(verifier)))
        };
        let config = match (&self.certfile, &self.keyfile) {
            (Some(certificates), Some(key)) => {
                let own = certificates_of("certfile", certificates)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unreadable("keyfile", key, error))?;
                builder
                    .with_client_auth_cert(own, key)
                    .map_err(|error| wrong("keyfile", error))?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        match &self.cacertfile {
            Some(file) => {
                for certificate in certificates_of("cacertfile", file)? {
                    roots
                        .add(certificate)
                        .map_err(|error| unreadable("cacertfile", file, error))?;
                }
            }
            None => {
                // Some of a system's may be of a kind that nobody uses any more.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(wrong(
                        "cacertfile",
                        "must be given, for this system has none",
                    ));
                }
            }
        }
        Ok(roots)
    }
}

/// Why TLS was refused, if that is what an error comes from. The server says what it thinks of the client's certificate
/// only after the client has finished, so it may come with the first answer.
pub fn refused(error: &(dyn std::error::Error + 'static), place: &str) -> Option<Error> {
    let error = cause(error)?;
    let option = match error {
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "certfile: the server asks for a certificate: "
        }
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => "certfile: the server asks for another certificate: ",
        _ => "",
    };
    let text = format!("tls: {option}{place}{error}");
    Some(Error::new(Reason::Tls, text))
}

fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        // What is in an error of a connection is not its source.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref())
            .map(|inner| inner as &(dyn std::error::Error + 'static));
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        next = inner.or_else(|| error.source());
    }
    None
}

fn certificates_of(option: &str, file: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, pem::Error>>())
        .map_err(|error| unreadable(option, file, error))?;
    if certificates.is_empty() {
        return Err(unreadable(option, file, "there is no certificate in it"));
    }
    Ok(certificates)
}

fn unreadable(option: &str, file: &str, error: impl Display) -> Error {
    wrong(option, format_args!("{file}: {error}"))
}

fn wrong(option: &str, error: impl Display) -> Error {
    Error::new(Reason::Tls, format_args!("tls: {option}: {error}"))
}

/// Takes a certificate of any host, if it is signed as it must be.
#[derive(Debug)]
struct AnyHost(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::Error::InvalidCertificate;
        // The name is looked at last, when the rest has been found right.
        match self
            .0
            .verify_server_cert(certificate, intermediates, host, ocsp, now)
        {
            Err(InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_that_is_none_is_named_with_its_option() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        let missing = directory.path().join("missing.pem");
        for file in [empty, missing] {
            let file = file.to_str().unwrap().to_owned();
            let tls = Tls {
                cacertfile: Some(file.clone()),
                certfile: None,
                keyfile: None,
                verify_host: true,
            };
            let error = tls.config().unwrap_err();
            assert_eq!(error.reason(), Reason::Tls);
            let text = error.to_string();
            assert!(
                text.contains("tls: cacertfile") && text.contains(&file),
                "{text}"
            );
        }
    }
}
