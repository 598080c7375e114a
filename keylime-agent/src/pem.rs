// SPDX-License-Identifier: Apache-2.0
//! PEM text (RFC 7468) byte for byte as OpenSSL writes it: 64 columns and line feeds. The exact bytes matter where they
//! are hashed or compared.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const COLUMNS: usize = 64;

/// The PEM form of `der` under `label`, such as `CERTIFICATE`.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {label}-----");
    for (index, c) in STANDARD.encode(der).chars().enumerate() {
        if index % COLUMNS == 0 {
            pem.push('\n');
        }
        pem.push(c);
    }
    pem.push_str(&format!("\n-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_have_64_columns() {
        let line = "A".repeat(64);
        assert_eq!(super::encode("X", &[0; 48]), format!("-----BEGIN X-----\n{line}\n-----END X-----\n"));
        assert_eq!(super::encode("X", &[0; 51]), format!("-----BEGIN X-----\n{line}\nAAAA\n-----END X-----\n"));
    }
}
