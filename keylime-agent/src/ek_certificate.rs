// SPDX-License-Identifier: Apache-2.0
//! The EK certificate as it is registered.

use tpm::EkInfo;

use crate::pem;

/// The EK certificate and its chain as PEM, or `None` if the TPM has no certificate. The registrar takes an empty text for
/// a changed identity, so without a certificate the member must be left out.
///
/// The TPM stores the chain from the root on; it is sent from the issuer of the EK certificate on.
pub(crate) fn to_register(ek: &EkInfo) -> Option<String> {
    if let Some(problem) = &ek.certificate_problem {
        tracing::warn!("Failed reading EK certificate from TPM NVRAM: {problem}");
    }
    if let Some(problem) = &ek.chain_problem {
        tracing::warn!("Failed reading EK certificate chain from TPM NVRAM: {problem}");
    }
    let Some(certificate) = &ek.certificate else {
        tracing::warn!("No EK certificate found in TPM NVRAM");
        if let Some(index) = ek.other_certificate {
            tracing::warn!(
                "NV index {index:#010x} has the certificate of the EK by the high-range template, which is another key: to \
                 register with it, store that EK in the TPM and set 'ek_handle' to its handle"
            );
        }
        return None;
    };
    if !ek.certificate_is_der {
        tracing::warn!("EK certificate in TPM NVRAM is not ASN.1 DER encoded");
    }
    if !ek.certificate_chain.is_empty() {
        tracing::info!("Found EK certificate chain in TPM NVRAM");
    }
    let chain = ek.certificate_chain.iter().rev();
    let all = std::iter::once(certificate).chain(chain);
    Some(all.map(|der| pem::encode("CERTIFICATE", der)).collect())
}
