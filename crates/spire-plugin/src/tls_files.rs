// SPDX-License-Identifier: Apache-2.0
//! The options that name TLS files: what is built from them, and what is to be known of the files afterwards.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tls::{ClientTls, FileKind, Subject, Trust, rustls::ClientConfig};

use crate::{LoadedCertificate, Options};

/// The names of a plugin's options about TLS as a client.
#[derive(Debug, Clone, Copy)]
pub struct TlsOptions {
    /// CA certificates that servers are checked against.
    pub ca: &'static str,
    /// Our certificate.
    pub certificate: &'static str,
    /// Its private key.
    pub key: &'static str,
    /// The name that servers are checked against; `ca` where there is no such option.
    pub server_name: &'static str,
}

/// What came of the files.
#[derive(Debug)]
pub struct TlsFiles {
    /// Settings for connections.
    pub client: Arc<ClientConfig>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// The certificates in them.
    pub certificates: Vec<LoadedCertificate>,
    /// What an operator is to be told of them.
    pub warnings: Vec<String>,
}

impl TlsOptions {
    /// Reads the files of `tls`. Each problem is noted in `options`, with the option that it is about; `None` after one.
    pub fn load(&self, tls: &ClientTls, options: &mut Options) -> Option<TlsFiles> {
        let client = tls.try_build().map_err(|problems| {
            for problem in problems {
                options.problem(format!("`{}`: {problem}", self.about(problem.subject())));
            }
        });
        let mut files = match &tls.ca {
            Trust::Files(files) => files.clone(),
            _ => Vec::new(),
        };
        let mut certificates = Vec::new();
        if let Some(identity) = &tls.identity {
            certificates.extend(read(self.certificate, &identity.cert, FileKind::Certificate));
        }
        for ca in &files {
            certificates.extend(read(self.ca, ca, FileKind::Ca));
        }
        if let Some(identity) = &tls.identity {
            files.extend([identity.cert.clone(), identity.key.clone()]);
        }
        let warnings = tls.warnings().iter().map(ToString::to_string).collect();
        Some(TlsFiles { client: client.ok()?, files, certificates, warnings })
    }

    fn about(&self, subject: Subject) -> &'static str {
        match subject {
            Subject::Certificate => self.certificate,
            Subject::Key => self.key,
            Subject::ServerName => self.server_name,
            _ => self.ca,
        }
    }
}

/// The certificates of one file. One that cannot be read is told of by building TLS, or, if it is gone only by now, by
/// the watch over it.
fn read(option: &'static str, path: &Path, kind: FileKind) -> impl Iterator<Item = LoadedCertificate> {
    tls::load_validity(path, kind).unwrap_or_default().into_iter().map(move |validity| LoadedCertificate {
        option,
        path: path.to_owned(),
        not_before: validity.not_before,
        not_after: validity.not_after,
    })
}
